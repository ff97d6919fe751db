"""The whole validation: conservation, equal bytes, and pages that can be read offline."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lotlip.records import sha256_file
from lotlip.validation.offenders import worst_offenders
from lotlip.validation.summary import check_summary
from lotlip.validation.validate import judge_rows
from tests.validation.builders import Dataset, long, lost, square


def spoil(dataset: Dataset) -> Dataset:
    """2 lost images, 3 rejected, 1 raw caption too long, 4 long texts rejected for 6 reasons."""
    dataset.images[0] = lost("k00")
    dataset.images[1] = lost("k01", "failed_to_decode")
    dataset.images[2].update(width=20, height=100)
    dataset.images[3].update(width=30)
    dataset.images[4]["sha256"] = "bytes of k19"
    dataset.images[19]["sha256"] = "bytes of k19"
    dataset.images[5]["caption"] = "red " * 6
    dataset.longs[6] = long("k06", text="", failure="refusal")
    dataset.longs[7] = long("k07", text="a red dog")
    dataset.longs[8] = long("k08", text="red " * 41, finish_reason="length")  # also a loop
    dataset.longs[9] = long("k09", text="")
    dataset.rules = dataset.rules.model_copy(update={"max_rejected_share": 0.5})
    return dataset


def test_numbers_and_conservation(dataset: Dataset) -> None:
    summary = spoil(dataset).run()
    images, raw, llava = summary["images"], summary["raw"], summary["long"]["llava"]
    assert (images["requested"], images["failed"], images["kept"], images["rejected"]) == (20, 2, 15, 3)
    assert images["rejected_by"] == {"min_side": 2, "max_aspect": 1, "format": 0, "duplicate": 1}
    assert (images["failed_share"], images["rejected_share"]) == (0.1, round(3 / 18, 6))
    assert images["duplicate_share"] == round(1 / 18, 6)
    assert (raw["kept"], raw["rejected"]) == (14, 1)
    assert raw["mean_tokens"] == round((14 * 3 + 6) / 15, 6)
    assert raw["duplicate_share"] == round(13 / 15, 6)
    assert (llava["kept"], llava["rejected"]) == (11, 4)
    reasons = {"missing": 0, "failure": 1, "empty": 1, "min_tokens": 1, "max_tokens": 1}
    assert llava["rejected_by"] == {**reasons, "truncated": 1, "repetition": 1, "refusal": 0, "language": 0}
    assert llava["truncated_share"] == round(1 / 13, 6)
    # Of the 13 texts that are not empty, k07 and k08 repeat "red" but not "circle".
    assert llava["raw_word_recall"] == round((11 + 0.5 + 0.5) / 13, 6)
    assert summary["funnel"] == {
        "requested": 20,
        "fetched": 19,
        "decoded": 18,
        "kept": 15,
        "with_raw": 14,
        "with_long": 11,
        "with_every_long": 11,
    }
    assert images["statuses"] == {"failed_to_decode": 1, "failed_to_download": 1, "success": 18}
    assert images["undecodable_share"] == round(1 / 19, 6)
    assert images["formats"] == {"png": 18}
    assert images["failed"] + images["rejected"] + images["kept"] == images["requested"]
    assert summary["expectations"] == {"evaluated": 30, "passed": 30, "failed": 0}
    check_summary(summary, "fail")  # raises nothing


def test_two_runs_give_equal_bytes(dataset: Dataset) -> None:
    spoil(dataset)
    dataset.images[6]["caption"] = "two dogs"
    dataset.rules = dataset.rules.model_copy(update={"max_rejected_share": 0.1})
    again = Dataset(dataset.folder / "again", dataset.rules, dataset.images, dataset.longs)
    assert json.dumps(dataset.run()) == json.dumps(again.run())
    for name in ("quarantine", "docs"):
        assert hashes(dataset.folder / name) == hashes(again.folder / name)
    assert len(hashes(dataset.folder / "docs")) == 6


def test_docs_load_nothing_and_show_every_expectation(dataset: Dataset) -> None:
    spoil(dataset)
    dataset.rules = dataset.rules.model_copy(update={"max_rejected_share": 0.1})
    summary = dataset.run()
    pages = {path.name: path.read_text() for path in (dataset.folder / "docs").iterdir()}
    assert set(pages) == {f"{name}.html" for name in ("index", "summary", "image", "raw", "llava", "joins")}
    for page in pages.values():
        assert not re.search(r"https?:|<script|<link|@import|url\(|src=\"(?!data:image/jpeg;base64,)", page)
    index = pages["index.html"]
    links = set(re.findall(r'href="([^"]+)"', "".join(pages.values())))
    assert links == set(pages)
    assert index.count(">✔<") == summary["expectations"]["passed"]
    for one in summary["failed"]:
        assert f"{one['suite']}: {one['says']}" in index
        assert one["params"] in index
    assert "mean must be less than or equal to" in pages["llava.html"]


@pytest.mark.parametrize("key", ["<script>alert(1)</script>", "\x1b[31mred"])
def test_foreign_words_stay_words(dataset: Dataset, key: str) -> None:
    for row in dataset.images[:2]:
        row.update(key=key, caption=key, url=key)
    dataset.longs = [long(key, text=key), *dataset.longs[2:]]
    summary = dataset.run()
    assert summary["failed"]
    for page in (dataset.folder / "docs").iterdir():
        assert "<script" not in page.read_text()
    with pytest.raises(Exception, match="key repeats") as error:
        check_summary(summary, "fail")
    assert "\x1b" not in str(error.value)


def hashes(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir())}


def test_the_summary_shows_the_worst_of_each_reason_with_their_images(dataset: Dataset) -> None:
    spoil(dataset)
    for row in dataset.images[10:19]:
        row["caption"] = "<i>red</i> " * (1 + int(row["key"][1:]))
    dataset.run()
    page = (dataset.folder / "docs" / "summary.html").read_text()
    for text in ("20 × 100, png", "30 × 96, png", "6 tokens", "refusal", "a red dog", "html", "&lt;i&gt;red&lt;/i&gt;"):
        assert text in page
    assert "<i>red" not in page
    assert page.index("20 × 100, png") < page.index("30 × 96, png"), "the smallest first"
    assert "10, the worst 8 shown" in page  # max_tokens: k05 and nine more
    shown = re.findall(r'title="(s-0000\d/k\d\d)"', page)
    start = shown.index("s-00001/k18")
    assert shown[start : start + 8] == [f"s-00001/k{i}" for i in range(18, 10, -1)], "the longest first"
    pictures = [base64.b64decode(data) for data in re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)]
    assert len(pictures) == len(shown)
    for picture, name in zip(pictures, shown, strict=True):
        colour = Image.open(io.BytesIO(square(name[-3:]))).getpixel((4, 4))
        found = Image.open(io.BytesIO(picture)).getpixel((4, 4))
        assert np.allclose(found, colour, atol=8), name


def test_a_damaged_image_has_no_thumbnail(dataset: Dataset) -> None:
    dataset.images[3].update(width=30)
    inputs = dataset.write()
    tables, reasons = judge_rows(inputs, dataset.rules)
    [offence] = worst_offenders(inputs.images, tables, reasons, max_pixels=10)  # all are larger
    assert (offence.subject, offence.reason, offence.count) == ("image", "min_side", 1)
    assert [(one.key, one.picture) for one in offence.worst] == [("k03", "")]
