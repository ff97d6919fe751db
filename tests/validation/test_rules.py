"""Each row rule by hand: what is rejected, for which reason, and nothing else."""

from collections.abc import Callable
from typing import Any

import pyarrow.parquet as pq
import pytest

from lotlip.data.manifest import read_manifest
from lotlip.errors import DataError, ParamsError
from lotlip.validation.quarantine import write_quarantine
from lotlip.validation.validate import Inputs, judge_rows
from tests.validation.builders import LONG, Dataset, image, long, lost, write_captions

NUMBERED = " ".join([*"abcdefghijklmnopqrstuvwxyz0123456789", "red", "dog", "on", "the"])  # 40 tokens, none repeats


def quarantined(dataset: Dataset) -> list[tuple[str, str, str]]:
    """(key, subject, reason) of everything rejected, through the written files."""
    inputs = dataset.write()
    [images] = inputs.images
    tables, reasons = judge_rows(inputs, dataset.rules)
    write_quarantine(inputs.shards, tables, reasons, dataset.folder / "q")
    manifest = read_manifest(dataset.folder / "q", "quarantine")
    assert [shard.name for shard in manifest.shards] == ["s-00000", "s-00001"]
    assert [shard.of for shard in manifest.shards] == [shard.files["tar"].sha256 for shard in images.shards]
    rows = []
    for shard in manifest.shards:
        found = pq.read_table(manifest.path(shard, "table")).to_pylist()
        assert len(found) == shard.num_samples
        assert {row["key"] >= "k10" for row in found} <= {shard.name == "s-00001"}
        rows += [(row["key"], row["subject"], row["reason"]) for row in found]
    return rows


def test_good_samples_are_all_kept_and_the_tables_are_empty(dataset: Dataset) -> None:
    assert quarantined(dataset) == []
    assert pq.read_schema(dataset.folder / "q" / "s-00000.parquet").names == ["key", "subject", "reason"]


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({"width": 31}, ["min_side"]),
        ({"width": 32, "height": 128}, []),
        ({"width": 32, "height": 129}, ["max_aspect"]),
        ({"width": 500, "height": 20}, ["min_side", "max_aspect"]),
        ({"width": None, "height": None}, ["min_side"]),
        ({"sha256": "bytes of k00"}, ["duplicate"]),
        ({"sha256": None}, []),
        ({"format": "webp"}, ["format"]),
        ({"format": None}, ["format"]),
    ],
)
def test_images(dataset: Dataset, changes: dict[str, Any], reasons: list[str]) -> None:
    dataset.images[12] = image("k12", **changes)
    assert quarantined(dataset) == [("k12", "image", reason) for reason in reasons]


def test_of_equal_images_the_first_is_kept_and_lost_ones_equal_nothing(dataset: Dataset) -> None:
    for i in (3, 4, 15):
        dataset.images[i]["sha256"] = "same"
    for i in (7, 8):
        dataset.images[i] = lost(f"k{i:02}")
    assert quarantined(dataset) == [("k04", "image", "duplicate"), ("k15", "image", "duplicate")]


@pytest.mark.parametrize(
    ("caption", "reasons"),
    [
        ("", ["min_tokens"]),
        (None, ["min_tokens"]),
        ("red " * 5, []),
        ("red " * 6, ["max_tokens"]),
        ("a <b>red</b> dog", ["max_tokens", "html"]),
        ("red &amp; blue", ["max_tokens", "html"]),
        ("a < b", []),
        ("Собака спит", ["language"]),
        ("dog", []),
    ],
)
def test_raw_captions(dataset: Dataset, caption: str | None, reasons: list[str]) -> None:
    dataset.images[2]["caption"] = caption
    assert quarantined(dataset) == [("k02", "raw", reason) for reason in reasons]


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({"failure": "refusal", "text": ""}, ["failure"]),
        ({"failure": "repeats itself", "text": LONG}, ["failure"]),
        ({"text": " \n"}, ["empty"]),
        ({"text": None}, ["empty"]),
        ({"text": "a red circle ."}, ["min_tokens"]),
        ({"text": "a red circle . a"}, []),
        ({"text": "red circle small blue " * 10}, ["repetition"]),
        ({"text": NUMBERED}, []),
        ({"text": f"{NUMBERED} a"}, ["max_tokens"]),
        ({"text": "I cannot see the image."}, ["refusal"]),
        ({"text": "一只红色的圆圈在左边一只红色的圆圈"}, ["language"]),
        ({"finish_reason": "length"}, []),
        ({"finish_reason": "length", "text": f"{LONG} The"}, ["truncated"]),
        ({"finish_reason": "length", "text": "red " * 41}, ["max_tokens", "truncated", "repetition"]),
    ],
)
def test_long_texts(dataset: Dataset, changes: dict[str, Any], reasons: list[str]) -> None:
    dataset.longs[5] = long("k05", **changes)
    assert quarantined(dataset) == [("k05", "llava", reason) for reason in reasons]


def test_a_missing_row_is_found_whether_its_shard_has_others_or_not(dataset: Dataset) -> None:
    dataset.longs = dataset.longs[1:10]
    expected = ["k00", *(f"k{i}" for i in range(10, 20))]
    assert quarantined(dataset) == [(key, "llava", "missing") for key in expected]


def test_rows_of_another_kind_are_no_long_texts(dataset: Dataset) -> None:
    dataset.longs[0]["kind"] = "short"
    assert quarantined(dataset) == [("k00", "llava", "missing")]


def test_texts_of_rejected_images_are_not_judged(changed: Callable[..., Dataset]) -> None:
    dataset = changed("images", 1, width=1, caption="")
    dataset.longs = dataset.longs[1:]
    assert {subject for _, subject, _ in quarantined(dataset)} == {"image"}


def test_captions_of_other_images_are_refused(dataset: Dataset) -> None:
    written = dataset.write()
    [images] = written.images
    other = Dataset(dataset.folder / "other", dataset.rules)
    other.images[0]["key"] = "k0x"
    with pytest.raises(DataError, match=r"captions shard s-00000 of other images than .*repro recaption@llava"):
        judge_rows(Inputs(other.write().images, written.captions), dataset.rules)
    more = write_captions(dataset.folder / "captions/more", images, {"s-00000": [long("k99")]})
    with pytest.raises(DataError, match=r"captions 1 keys that are not in the tar \(k99\).*repro recaption@more"):
        judge_rows(Inputs([images], {"more": more}), dataset.rules)
    (images.folder / "s-00000.parquet").write_bytes(b"other bytes")
    with pytest.raises(DataError, match="is damaged or was changed"):
        judge_rows(written, dataset.rules)


def test_no_image_at_all_is_an_error(dataset: Dataset) -> None:
    dataset.images = [lost(f"k{i:02}") for i in range(20)]
    with pytest.raises(DataError, match=r"no image to validate in .*reports/download"):
        quarantined(dataset)


def test_a_captioner_cannot_take_a_subjects_name(dataset: Dataset) -> None:
    inputs = dataset.write()
    with pytest.raises(ParamsError, match="may not be named raw"):
        judge_rows(Inputs(inputs.images, {"raw": inputs.captions["llava"]}), dataset.rules)


def test_a_caption_of_too_many_images_is_boilerplate(changed: Callable[..., Dataset]) -> None:
    dataset = changed("images", 20, caption="red dog")
    for row in dataset.images[:3]:
        row["caption"] = "dog"
    dataset.rules = dataset.rules.model_copy(update={"raw": dataset.rules.raw.model_copy(update={"max_repeats": 16})})
    assert quarantined(dataset) == [(f"k{i:02}", "raw", "max_repeats") for i in range(3, 20)]
