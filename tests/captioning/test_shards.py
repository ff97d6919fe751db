"""Captioning whole shards: rows for all, counts that add up, nothing done twice."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lotlip.captioning.backends import open_captioner
from lotlip.captioning.captioner import Caption, Captioner, Kind
from lotlip.captioning.quality import write_checked
from lotlip.captioning.report import caption_report
from lotlip.captioning.shards import HERE, caption_shards
from lotlip.data.manifest import Manifest, read_manifest
from lotlip.errors import DataError
from tests.captioning.samples import MAX_PIXELS, captioner_params, encode_png, make_pictures, write_images
from tests.captioning.tiny import build_tiny_llava, build_tiny_llava_next

PICTURES = make_pictures(10)
ENCODED = [encode_png(image) for image in PICTURES]
DAMAGED = ENCODED[3][: len(ENCODED[3]) // 2]
LARGE = encode_png(Image.new("RGB", (1200, 1000)))


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Captioner:
    return open_captioner(captioner_params(build_tiny_llava(tmp_path_factory.mktemp("llava"))))


class Counting:
    """A captioner that passes everything on and counts the images."""

    def __init__(self, captioner: Captioner) -> None:
        self.identity, self.kinds, self.retries = captioner.identity, captioner.kinds, captioner.retries
        self.prompt_length, self.prepare = captioner.prompt_length, captioner.prepare
        self.num_images = 0
        self._captioner = captioner

    def caption(
        self, images: Sequence[Image.Image], kind: Kind = "long", attempt: int = 0, prepared: Any = None
    ) -> list[Caption]:
        self.num_images += len(images) if attempt == 0 else 0
        return self._captioner.caption(images, kind, attempt, prepared)


def caption_all(images: Sequence[Manifest], folder: Path, captioner: Captioner, batch_size: int = 3) -> dict[str, Any]:
    out, work = folder / "captions", folder / "work"
    return caption_shards(images, out, lambda: captioner, batch_size=batch_size, max_pixels=MAX_PIXELS, work=work)


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_every_sample_has_its_row_in_order(tmp_path: Path, captioner: Captioner) -> None:
    first = write_images(tmp_path / "a", "a", [ENCODED[:5], [ENCODED[5], DAMAGED, b"no image", LARGE]])
    second = write_images(tmp_path / "b", "b", [ENCODED[6:]])
    report = caption_all([first, second], tmp_path, captioner)

    manifest = read_manifest(tmp_path / "captions", "captions")
    assert [shard.name for shard in manifest.shards] == ["a-00000", "a-00001", "b-00000"]
    tars = [shard.files["tar"].sha256 for shard in (*first.shards, *second.shards)]
    assert [shard.of for shard in manifest.shards] == tars
    tables = [pq.read_table(manifest.path(shard, "table")) for shard in manifest.shards]
    rows = [row for table in tables for row in table.to_pylist()]
    keys = [f"a-0-{i}" for i in range(5)] + [f"a-1-{i}" for i in range(4)] + [f"b-0-{i}" for i in range(4)]
    assert [row["key"] for row in rows] == keys
    assert [shard.num_samples for shard in manifest.shards] == [table.num_rows for table in tables] == [5, 4, 4]
    names = ["key", "kind", "text", "num_tokens", "finish_reason", "failure", "reasons", "attempts", "captioner"]
    assert tables[0].schema.names == names
    assert tables[0].schema.field("num_tokens").type == pa.int32()

    expected = captioner.caption(PICTURES)
    written = [row for row in rows if row["key"] not in ("a-1-1", "a-1-2", "a-1-3")]
    assert [(row["text"], row["failure"]) for row in written] == [(c.text, c.failure) for c in expected]
    assert {row["captioner"] for row in rows} == {captioner.identity}
    assert {row["kind"] for row in rows} == {"long"}

    refused = {row["key"]: row for row in rows if row["key"] in ("a-1-1", "a-1-2", "a-1-3")}
    assert refused["a-1-1"]["failure"].startswith("damaged image")
    assert refused["a-1-2"]["failure"].startswith("not an image")
    assert refused["a-1-3"]["failure"].startswith("image too large: 1200 x 1000")
    assert all((row["text"], row["finish_reason"]) == ("", "error") for row in refused.values())

    silent = sum(caption.failure == "empty generation" for caption in expected)
    assert (report["requested"], report["captioned"], report["failed"]) == (13, 10 - silent, 3 + silent)
    assert report["failures"]["damaged image"] == report["failures"]["not an image"] == 1
    assert report["failures"].get("empty generation", 0) == silent


def test_batch_size_does_not_change_a_byte(tmp_path: Path, captioner: Captioner) -> None:
    images = write_images(tmp_path / "a", "a", [[*ENCODED[:6], DAMAGED]])
    reports = [caption_all([images], tmp_path / str(n), captioner, batch_size=n) for n in (1, 4, 100)]
    files = [files_of(tmp_path / str(n) / "captions") for n in (1, 4, 100)]
    assert files[0] == files[1] == files[2]
    assert reports[0] == reports[1] == reports[2]


def test_finished_shards_are_not_captioned_again(tmp_path: Path, captioner: Captioner) -> None:
    images = write_images(tmp_path / "a", "a", [ENCODED[:4], ENCODED[4:6]])
    report = caption_all([images], tmp_path, captioner)
    before = files_of(tmp_path / "captions")
    again = Counting(captioner)
    assert caption_all([images], tmp_path, again) == report
    assert files_of(tmp_path / "captions") == before
    assert again.num_images == 0

    more = write_images(tmp_path / "b", "b", [ENCODED[6:9]])
    assert caption_all([images, more], tmp_path, again)["requested"] == 9
    assert again.num_images == 3


def test_another_captioner_does_not_find_these_results(tmp_path: Path, captioner: Captioner) -> None:
    images = write_images(tmp_path / "a", "a", [ENCODED[:4]])
    caption_all([images], tmp_path, captioner)
    other = Counting(captioner)
    other.identity = "0123456789abcdef"
    caption_all([images], tmp_path, other)
    assert other.num_images == 4
    rows = pq.read_table(tmp_path / "captions/a-00000.parquet").to_pylist()
    assert {row["captioner"] for row in rows} == {"0123456789abcdef"}


def test_a_damaged_or_foreign_tar_stops_the_work(tmp_path: Path, captioner: Captioner) -> None:
    images = write_images(tmp_path / "a", "a", [ENCODED[:2]])
    shard = replace(images.shards[0], num_samples=3)
    with pytest.raises(DataError, match="2 samples, its manifest says 3"):
        caption_all([replace(images, shards=(shard,))], tmp_path, captioner)
    tar = tmp_path / "a/a-00000.tar"
    tar.write_bytes(tar.read_bytes()[:600])
    with pytest.raises(DataError, match="sha256"):
        caption_all([images], tmp_path, captioner)
    assert not (tmp_path / "captions").exists()


def test_a_cut_tar_is_found_although_its_captions_are_cached(tmp_path: Path, captioner: Captioner) -> None:
    images = write_images(tmp_path / "a", "a", [ENCODED[:2]])
    caption_all([images], tmp_path, captioner)
    tar = tmp_path / "a/a-00000.tar"
    tar.write_bytes(tar.read_bytes()[:600])
    with pytest.raises(DataError, match="has 600 bytes, its manifest says"):
        caption_all([images], tmp_path, captioner)


def test_shard_names_are_unique(tmp_path: Path, captioner: Captioner) -> None:
    images = write_images(tmp_path / "a", "a", [ENCODED[:1]])
    with pytest.raises(DataError, match="share a name"):
        caption_all([images, images], tmp_path, captioner)


def test_report_by_hand() -> None:
    def row(
        text: str, num_tokens: int | None, finish_reason: str, failure: str | None = None, **more: Any
    ) -> dict[str, Any]:
        row = {"kind": "long", "text": text, "num_tokens": num_tokens, "finish_reason": finish_reason}
        return {**row, "failure": failure, "reasons": "", "attempts": 1, **more}

    rows = [
        row("A dog. It runs.", 6, "stop"),
        row("A dog. It runs.", None, "stop", attempts=2),
        row("Grass\nSky. A", 7, "length", attempts=2, reasons="truncated,repetition"),
        row("", 0, "error", "damaged image: truncated"),
        row("", 0, "error", "damaged image: other"),
        row("", 0, "error", "empty generation"),
    ]
    short = [row("A dog", 2, "stop", kind="short"), row("", 0, "error", "empty generation", kind="short")]
    assert caption_report([*rows, *short], 6) == {
        "requested": 6,
        "captioned": 3,
        "failed": 3,
        "failures": {"damaged image": 2, "empty generation": 1},
        "truncated": 1,
        "reasons": {"repetition": 1, "truncated": 1},
        "retried": 2,
        "mended": 1,
        "short_captions": 1,
        "short_failed": 1,
        "mean_tokens": 6.5,
        "mean_sub_captions": 2.3333,
        "mean_characters": 14.0,
        "distinct_share": 0.6667,
    }
    assert caption_report(rows[3:], 3)["mean_tokens"] is None
    with pytest.raises(DataError, match="do not add up to the 7 requested"):
        caption_report(rows, 7)


def test_long_and_short_captions_lie_side_by_side(tmp_path: Path, captioner: Captioner) -> None:
    images = write_images(tmp_path / "a", "a", [[*ENCODED[:4], DAMAGED]])
    params = captioner._params.model_copy(update={"short_prompt": "Name it", "short_max_new_tokens": 4})  # type: ignore[attr-defined]
    report = caption_all([images], tmp_path, both := open_captioner(params))
    rows = pq.read_table(tmp_path / "captions/a-00000.parquet").to_pylist()
    assert [(row["key"], row["kind"]) for row in rows] == [
        (f"a-0-{i}", kind) for i in range(5) for kind in ("long", "short")
    ]
    assert read_manifest(tmp_path / "captions", "captions").shards[0].num_samples == 10
    assert all(row["num_tokens"] <= 4 for row in rows if row["kind"] == "short")
    shorts = [row for row in rows if row["kind"] == "short"]
    assert report["short_captions"] == sum(row["failure"] is None for row in shorts)
    assert shorts[4]["failure"].startswith("damaged image")
    longs = [(row["text"], row["num_tokens"]) for row in rows if row["kind"] == "long"][:4]
    alone = [write_checked(both, [image], "long")[0].caption for image in PICTURES[:4]]
    assert longs == [(caption.text, caption.num_tokens) for caption in alone]


def test_two_local_workers_give_the_bytes_of_one(tmp_path: Path) -> None:
    checkpoint = build_tiny_llava(tmp_path / "llava")
    images = write_images(tmp_path / "a", "a", [ENCODED[:4], ENCODED[4:7], [*ENCODED[7:], DAMAGED]])
    opened = partial(open_captioner, captioner_params(checkpoint, max_new_tokens=4))
    reports = []
    for workers in (1, 2):
        executor = HERE.model_copy(update={"workers": workers})
        folder = tmp_path / str(workers)
        reports.append(
            caption_shards(
                [images],
                folder / "captions",
                opened,
                batch_size=2,
                max_pixels=MAX_PIXELS,
                work=folder / "work",
                executor=executor,
            )
        )
    assert reports[0] == reports[1]
    assert files_of(tmp_path / "1/captions") == files_of(tmp_path / "2/captions")


def test_batches_hold_prompts_of_like_length_and_rows_keep_their_order(tmp_path: Path) -> None:
    pictures = [Image.new("RGB", (64, 32) if i % 2 else (60, 60), (40 * i, 9, 9)) for i in range(6)]
    images = write_images(tmp_path / "a", "a", [[encode_png(image) for image in pictures]])
    captioner = open_captioner(captioner_params(build_tiny_llava_next(tmp_path / "next"), max_new_tokens=4))
    caption, batches = captioner.caption, []

    def noting(batch: Any, *rest: Any, **named: Any) -> list[Caption]:
        batches.append([image.size for image in batch])
        return caption(batch, *rest, **named)

    captioner.caption = noting  # type: ignore[method-assign]
    caption_all([images], tmp_path, captioner, batch_size=3)
    assert [len(set(sizes)) for sizes in batches] == [1, 1]
    rows = pq.read_table(tmp_path / "captions/a-00000.parquet").to_pylist()
    assert [row["text"] for row in rows] == [caption([image])[0].text for image in pictures]
