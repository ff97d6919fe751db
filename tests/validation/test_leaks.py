"""The leak gate on real images: equal bytes, near-equal pictures, held-out shares that are no leaks of themselves."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lotlip.data.images import check_image
from lotlip.data.loading.join import join_samples
from lotlip.data.loading.samples import is_held_out
from lotlip.data.shards import encode_png
from lotlip.errors import DataError
from lotlip.validation.validate import Inputs, judge_rows, open_inputs, validate
from tests.validation.builders import Dataset, image, write_evalset, write_images

SHARE = 0.4
KEYS = [f"k{i:02}" for i in range(20)]
HELD_OUT = [key for key in KEYS if is_held_out(key, SHARE)]
TRAINED = [key for key in KEYS if not is_held_out(key, SHARE)]


def picture(number: int) -> Image.Image:
    """A smooth pattern of its own for each number, 128 x 96."""
    grid = np.random.default_rng(number).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(grid).resize((128, 96), Image.Resampling.BICUBIC)


def row(key: str, data: bytes, **changes: Any) -> dict[str, Any]:
    """A row of an image table that tells the truth about its image."""
    found = check_image(data, 10**6)
    hashes = {"sha256": found.sha256, "phash": found.phash, "format": found.extension}
    return image(key, width=found.width, height=found.height, **{**hashes, **changes})


def as_jpeg(one: Image.Image) -> bytes:
    """Smaller and coded anew."""
    buffer = io.BytesIO()
    one.resize((100, 75)).save(buffer, format="JPEG", quality=85)
    return buffer.getvalue()


@pytest.fixture
def photos(dataset: Dataset) -> Dataset:
    dataset.images = [row(key, encode_png(picture(i))) for i, key in enumerate(KEYS)]
    dataset.rules = dataset.rules.model_copy(
        update={"leaks": dataset.rules.leaks.model_copy(update={"max_distance": 4})}
    )
    return dataset


def reasons_of(dataset: Dataset) -> dict[str, set[str]]:
    """Reasons against images by key."""
    tables, reasons = judge_rows(dataset.write(), dataset.rules)
    found = reasons["image"]
    rejected = found.any(axis=1)
    names = [set(found.columns[list(flags)]) for flags in found[rejected].to_numpy()]
    return dict(zip(tables["image"].loc[rejected, "key"], names, strict=True))


def test_planted_leaks_are_rejected_by_the_set_that_shows_them(photos: Dataset) -> None:
    long = {
        "same.png": encode_png(picture(3)),
        "smaller.jpg": as_jpeg(picture(7)),
        "other.png": encode_png(picture(99)),
    }
    short = {"smaller.jpg": as_jpeg(picture(3)), "another.jpg": as_jpeg(picture(98))}
    photos.evalsets = {
        "long": write_evalset(photos.folder / "evalsets/long", long),
        "short": write_evalset(photos.folder / "evalsets/short", short),
    }
    assert reasons_of(photos) == {"k03": {"leak:long", "leak:short"}, "k07": {"leak:long"}}


def test_the_counts_the_quarantine_and_the_page_agree(photos: Dataset) -> None:
    images = {"same.png": encode_png(picture(3)), "smaller.jpg": as_jpeg(picture(7))}
    photos.evalsets = {"long": write_evalset(photos.folder / "evalsets/long", images)}
    inputs = photos.write()
    summary = validate(inputs, photos.rules, photos.folder / "quarantine", photos.folder / "docs")
    assert summary["images"]["leaks"] == {"long": 2}
    assert summary["images"]["leak_share"] == 0.1
    assert summary["failed"] == []  # 0.1 is allowed
    assert summary["funnel"]["kept"] == 18
    page = (photos.folder / "docs/summary.html").read_text()
    assert "0 bits from same.png" in page
    assert page.count('class="pictures two"') == 2


def test_bytes_are_compared_where_there_is_no_perceptual_hash(photos: Dataset) -> None:
    for i in (3, 7):
        photos.images[i]["phash"] = None
    images = {"same.png": encode_png(picture(3)), "smaller.jpg": as_jpeg(picture(7))}
    photos.evalsets = {"long": write_evalset(photos.folder / "evalsets/long", images)}
    assert reasons_of(photos) == {"k03": {"leak:long"}}
    assert Dataset(photos.folder / "again", photos.rules, photos.images).judge()["images"]["without_phash"] == 2


def test_a_held_out_share_is_no_leak_of_itself(photos: Dataset) -> None:
    """Its own images and their twins are left out by `join_samples`; a near copy of one is a leak."""
    data = {key: encode_png(picture(i)) for i, key in enumerate(KEYS)}
    first, second, third = TRAINED[:3]
    data[first] = data[HELD_OUT[0]]  # a twin
    data[second] = as_jpeg(picture(KEYS.index(HELD_OUT[1])))  # a near copy
    photos.images = [row(key, data[key]) for key in KEYS]
    photos.held_out = {"s": SHARE}
    held_out = {f"{key}.png": data[key] for key in HELD_OUT}
    photos.evalsets = {"held_out": write_evalset(photos.folder / "evalsets/held_out", held_out)}
    inputs = photos.write()
    tables, reasons = judge_rows(inputs, photos.rules)
    table = tables["image"].set_index("key")
    assert table.index[table["leak"] == 1].tolist() == [second]
    assert set(table.index[table["leak"].isna()]) == {*HELD_OUT, first}
    assert table["leak"][third] == 0
    assert reasons["image"]["leak:held_out"].sum() == 1
    counts = join_samples(inputs.images, {}, None, photos.held_out, work=photos.folder / "work").counts
    assert (counts["held_out"], counts["held_out_twins"]) == (len(HELD_OUT), 1)


def test_what_one_source_holds_out_may_leak_from_another(photos: Dataset) -> None:
    """The share is of a source: the same key in another source is trained on."""
    data = {key: encode_png(picture(i)) for i, key in enumerate(KEYS)}
    other = write_images(
        photos.folder / "images/t", {"t-00000": [row(HELD_OUT[0], as_jpeg(picture(KEYS.index(HELD_OUT[0]))))]}
    )
    held_out = {f"{key}.png": data[key] for key in HELD_OUT}
    folder = write_evalset(photos.folder / "evalsets/held_out", held_out)
    [images] = photos.write().images
    inputs = Inputs([images, other], {}, {"held_out": folder}, {"s": SHARE, "t": 0.0})
    tables, reasons = judge_rows(inputs, photos.rules)
    leaked = tables["image"].loc[reasons["image"]["leak:held_out"], "shard"]
    assert leaked.tolist() == ["t-00000"]


def test_a_lost_image_leaks_nothing(photos: Dataset) -> None:
    photos.images[3]["status"] = "failed_to_decode"
    photos.evalsets = {"long": write_evalset(photos.folder / "evalsets/long", {"same.png": encode_png(picture(3))})}
    assert reasons_of(photos) == {}


def test_damaged_sets_are_refused(photos: Dataset) -> None:
    folder = write_evalset(photos.folder / "evalsets/long", {"same.png": b"no image"})
    photos.evalsets = {"long": folder}
    inputs = photos.write()
    with pytest.raises(DataError, match=r"same\.png: not an image.*repro -f evalset@long"):
        judge_rows(inputs, photos.rules)
    (folder / "images/same.png").unlink()
    with pytest.raises(DataError, match=r"same\.png is missing.*repro -f evalset@long"):
        judge_rows(inputs, photos.rules)
    (folder / "samples.jsonl").write_text(json.dumps({"picture": "x"}))
    with pytest.raises(DataError, match=r"a line is no object with 'image'"):
        judge_rows(inputs, photos.rules)
    (folder / "samples.jsonl").unlink()
    with pytest.raises(DataError, match=r"samples\.jsonl is missing"):
        judge_rows(inputs, photos.rules)


def test_inputs_are_those_that_params_name() -> None:
    from lotlip.params import load_params

    params = load_params(Path(__file__).parents[2] / "params.yaml")
    with pytest.raises(DataError, match=r"nowhere/images/scenes/manifest.json is missing"):
        open_inputs(params, Path("nowhere"))


def test_equal_pixels_in_other_bytes_have_equal_hashes(photos: Dataset, tmp_path: Path) -> None:
    """The tables' hashes and those of the evaluation sets are made in the same way, from whatever a decoder gives."""
    rules = photos.rules.leaks.model_copy(update={"max_distance": 0})
    photos.rules = photos.rules.model_copy(update={"leaks": rules})
    large = [picture(i).resize((640, 480), Image.Resampling.BICUBIC) for i in range(len(KEYS))]

    def jpeg(one: Image.Image, comment: str) -> bytes:
        buffer = io.BytesIO()
        one.save(buffer, format="JPEG", quality=85, comment=comment)
        return buffer.getvalue()

    photos.images = [row(key, jpeg(one, "")) for key, one in zip(KEYS, large, strict=True)]
    shown = {f"{i}.jpg": jpeg(one, "said again") for i, one in enumerate(large[:12])}
    photos.evalsets = {"long": write_evalset(tmp_path / "evalsets/long", shown)}
    assert {key for key, reasons in reasons_of(photos).items() if "leak:long" in reasons} == set(KEYS[:12])
