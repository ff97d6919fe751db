"""Every layout, written by hand as METHOD.md describes it, and what is wrong with a broken one."""

import json
from pathlib import Path
from typing import Any

import pytest

from lotlip.cli.data import SETS
from lotlip.data.layouts.entries import Entry
from lotlip.data.layouts.readers import LAYOUTS, read_layout
from lotlip.data.statistics import dataset_statistics
from lotlip.data.tables import Row
from lotlip.errors import DataError
from tests.data.folders import image_folder, image_row, long_row, sidecar


def entries(name: str, path: Path) -> list[tuple[str, tuple[str, ...]]]:
    return [(entry.image, entry.texts) for entry in read_layout(name, path)]


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def test_the_command_line_names_every_layout() -> None:
    assert tuple(LAYOUTS) == SETS


def test_image_folder_gives_raw_captions_of_successes(tmp_path: Path) -> None:
    failed = Row("c", "http://a", "failed_to_download", "HTTP 404", "lost. lost")
    image_folder(tmp_path / "i", {"s-00000": [image_row("a", "One. Two"), failed], "s-00001": [image_row("b", "")]})
    assert entries("manifest", tmp_path / "i") == [("a", ("One. Two",)), ("b", ())]
    assert entries("manifest", tmp_path / "i/manifest.json") == entries("manifest", tmp_path / "i")


def test_captions_folder_gives_long_texts_that_did_not_fail(tmp_path: Path) -> None:
    images = image_folder(tmp_path / "i", {"s-00000": [image_row("a"), image_row("b")]})
    rows = {"s-00000": [long_row("a", "One. Two. Three"), long_row("b", "", failure="empty")]}
    sidecar(tmp_path / "c", "captions", images, rows)
    assert entries("manifest", tmp_path / "c") == [("a", ("One. Two. Three",)), ("b", ())]


def test_evaluation_set_and_plain_jsonl(tmp_path: Path) -> None:
    lines = [{"image": "images/a.png", "texts": ["One. Two", "Three"]}, {"image": "images/b.png", "label": 1}]
    (tmp_path / "samples.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    for path in (tmp_path, tmp_path / "samples.jsonl"):
        assert entries("jsonl", path) == [("images/a.png", ("One. Two", "Three")), ("images/b.png", ())]


def test_iiw(tmp_path: Path) -> None:
    for split, row in {
        "DCI_Test": {"image": "x.jpg", "IIW": "Third. Fourth"},
        "DOCCI_Test": {"image": "test.1", "IIW": "First", "DOCCI": "other"},
        "IIW-400": {"image/key": "aar_2", "IIW": "Second\nand more"},
    }.items():
        write_json(tmp_path / split / "data.jsonl", row)
    assert entries("iiw", tmp_path) == [
        ("docci/test.1.jpg", ("First",)),
        ("docci_aar/aar_2.jpg", ("Second\nand more",)),
        ("dci/x.jpg", ("Third. Fourth",)),
    ]
    assert entries("iiw", tmp_path / "DCI_Test/data.jsonl") == [("dci/x.jpg", ("Third. Fourth",))]
    statistics = dataset_statistics(entry.texts for entry in read_layout("iiw", tmp_path))
    assert (statistics["images"], statistics["texts"], statistics["sub_captions_per_text"]) == (3, 3, 1.6667)


def test_dci_joins_short_and_extra_captions_of_all_splits(tmp_path: Path) -> None:
    folder = tmp_path / "densely_captioned_images"
    write_json(folder / "splits.json", {"train": ["b.json"], "valid": [], "test": ["a.json"]})
    for name, text in (("a", "A dog."), ("b", "A cat.")):
        row = {"image": f"{name}.jpg", "short_caption": text, "extra_caption": "It runs. Far"}
        write_json(folder / "annotations" / f"{name}.json", row)
    expected = [("photos/b.jpg", ("A cat.\nIt runs. Far",)), ("photos/a.jpg", ("A dog.\nIt runs. Far",))]
    for path in (tmp_path, folder, folder / "splits.json"):
        assert entries("dci", path) == expected


def test_sharegpt4v_takes_the_second_turn(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A dog. It runs."}]
    file = write_json(tmp_path / "share4v_sam_10k.json", [{"image": "sam/1.jpg", "conversations": turns}])
    assert entries("sharegpt4v", tmp_path) == entries("sharegpt4v", file) == [("sam/1.jpg", ("A dog. It runs.",))]


def test_urban1k_takes_the_first_line(tmp_path: Path) -> None:
    (tmp_path / "caption").mkdir()
    for name, text in (("10", "Ten.\nmore"), ("9", "Nine.\u2028Two\r\nmore"), ("11", ""), ("12", "\nsecond")):
        (tmp_path / "caption" / f"{name}.txt").write_bytes(text.encode())
    assert entries("urban1k", tmp_path) == [
        ("image/9.jpg", ("Nine.\u2028Two",)),
        ("image/10.jpg", ("Ten.",)),
        ("image/11.jpg", ()),
        ("image/12.jpg", ()),
    ]
    (tmp_path / "caption/9.txt").write_bytes(b"\xff")
    with pytest.raises(DataError, match=r"9\.txt is not UTF-8"):
        list(read_layout("urban1k", tmp_path))


def test_docci_takes_the_test_split(tmp_path: Path) -> None:
    rows = [
        {"example_id": "a", "split": "train", "image_file": "a.jpg", "description": "A"},
        {"example_id": "b", "split": "test", "image_file": "b.jpg", "description": "B. B"},
        {"example_id": "c", "split": "qual_test", "image_file": "c.jpg", "description": "C"},
    ]
    (tmp_path / "docci_descriptions.jsonlines").write_text("\n".join(map(json.dumps, rows)))
    assert entries("docci", tmp_path) == [("images/b.jpg", ("B. B",))]


def test_imagenet_labels_images_by_their_folder(tmp_path: Path) -> None:
    for name in ("n01443537/b.JPEG", "n01440764/a.jpeg", "n01440764/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [(entry.image, entry.label) for entry in read_layout("imagenet", tmp_path)]
    assert found == [("n01440764/a.jpeg", "n01440764"), ("n01443537/b.JPEG", "n01443537")]
    (tmp_path / "other").mkdir()
    with pytest.raises(DataError, match="other is named by no WordNet id, which is n and 8 digits: take it out"):
        list(read_layout("imagenet", tmp_path))


def test_one_text_or_many_a_row_and_rows_of_one_image(tmp_path: Path) -> None:
    rows = [
        {"image": "b", "text": "1"},
        {"image": "a", "texts": ["2", "3"]},
        {"image": "b", "text": "4"},
        {"text": "5"},
    ]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert entries("jsonl", tmp_path) == [("b", ("1", "4")), ("a", ("2", "3")), ("", ("5",))]
    (tmp_path / "x.csv").write_text("image,text\nb,1\na,2\na,3\nb,4\n")
    assert entries("csv", tmp_path) == [("b", ("1", "4")), ("a", ("2", "3"))]
    (tmp_path / "y.csv").write_text("image,text\n")
    with pytest.raises(DataError, match=r"holds 2 files such as x\.csv: give one, or call it samples\.csv"):
        entries("csv", tmp_path)


@pytest.mark.parametrize(("name", "file"), [("coco", "dataset_coco.json"), ("flickr30k", "dataset_flickr30k.json")])
def test_karpathy_splits_give_five_texts_of_test_images(name: str, file: str, tmp_path: Path) -> None:
    sentences = [{"raw": f"text {i}"} for i in range(7)]
    images = [
        {"filename": "a.jpg", "split": "train", "sentences": sentences},
        {"filename": "b.jpg", "filepath": "val2014", "split": "test", "sentences": sentences},
        {"filename": "c.jpg", "split": "test", "sentences": sentences[:5]},
    ]
    path = write_json(tmp_path / file, {"images": images, "dataset": name})
    five = tuple(f"text {i}" for i in range(5))
    assert entries(name, tmp_path) == entries(name, path) == [("val2014/b.jpg", five), ("c.jpg", five)]


@pytest.mark.parametrize(
    ("name", "files", "message"),
    [
        ("nothing", {}, "expected one of manifest, jsonl, csv, iiw"),
        ("manifest", {}, "manifest.json is missing"),
        ("manifest", {"manifest.json": "[]"}, "is of kind None"),
        ("jsonl", {"samples.jsonl": '{"texts": ["a"]}\n{'}, "line 2: expected a JSON object"),
        ("jsonl", {"samples.jsonl": '{"texts": "one"}'}, "`texts` must be a list of strings"),
        ("iiw", {"DOCCI_Test/data.jsonl": '{"image": "a", "IIW": "x"}'}, "IIW-400/data.jsonl is missing"),
        ("iiw", {"DOCCI_Test/data.jsonl": '{"image": "a"}'}, "line 1: expected a text under 'IIW'"),
        ("dci", {"splits.json": '["a.json"]'}, "expected lists of annotation files by split"),
        ("dci", {"splits.json": '{"test": ["a.json"]}'}, "annotations/a.json is missing"),
        ("sharegpt4v", {"share4v_sam_10k.json": '[{"image": "a"}]'}, "entry 0: expected `conversations`"),
        ("sharegpt4v", {"share4v_sam_10k.json": "{}"}, "expected a list"),
        ("urban1k", {}, "caption holds no .txt file"),
        ("coco", {"dataset_coco.json": '{"images": [{"split": "val"}]}'}, "none of 1 images has `split` test"),
        ("flickr30k", {"dataset_flickr30k.json": "[]"}, "`images`: expected a list"),
        ("coco", {"dataset_coco.json": "\x00"}, "is not JSON"),
        ("docci", {"docci_descriptions.jsonlines": '{"split": "train"}'}, "none of 1 rows has `split` test"),
        ("docci", {"docci_descriptions.jsonlines": '{"split": "test"}'}, "expected a text under 'image_file'"),
        ("imagenet", {"val/x/a.JPEG": ""}, "no class folder such as n01440764"),
        ("csv", {"a.csv": "image;text"}, "expected columns `image` and `text`"),
    ],
)
def test_what_is_wrong_is_named(name: str, files: dict[str, str], message: str, tmp_path: Path) -> None:
    for file, text in files.items():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(text)
    with pytest.raises(DataError, match=message):
        list(read_layout(name, tmp_path))


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        read_layout("iiw", tmp_path / "none")


def test_an_entry_is_read_only_data() -> None:
    with pytest.raises(AttributeError):
        Entry("a", ()).image = "b"  # type: ignore[misc]
