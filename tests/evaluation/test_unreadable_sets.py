"""Tiny copies of published sets with damaged or hostile rows, names and images: each is named or counted."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from lotlip.errors import DataError
from lotlip.evaluation.damaged_images import damaged_images
from lotlip.evaluation.folder_check import FolderCheck, check_folder, open_public_set
from tests.evaluation import tiny_sets


def unreadable(check: FolderCheck) -> str:
    with pytest.raises(DataError):
        open_public_set(check, allow_missing=True)
    return "\n".join(check.unreadable)


def test_all_rows_that_cannot_be_read_are_named_by_line(tiny: Callable[[str], Path]) -> None:
    root = tiny("docci")
    file = root / "docci_descriptions.jsonlines"
    lines = file.read_bytes().splitlines()
    lines[1] = lines[1][:30]
    lines[3] = lines[3].replace(b"A cat", b"\xff\xfe")
    lines[4] = b"[1]"
    file.write_bytes(b"\n".join(lines))
    found = unreadable(check_folder("docci", root))
    assert [line.partition(":")[0] for line in found.splitlines()] == [f"{file}, line {n}" for n in (2, 4, 5)]


def test_rows_of_a_karpathy_json_without_a_split_are_named(tiny: Callable[[str], Path]) -> None:
    root = tiny("coco")
    record = json.loads((root / "dataset_coco.json").read_text())
    del record["images"][0]["split"]
    tiny_sets.write_json(root / "dataset_coco.json", {"images": [*record["images"], "a string"]})
    found = unreadable(check_folder("coco", root)).splitlines()
    assert [line.partition(": expected a text under 'split'")[0] for line in found] == [
        f"{root}/dataset_coco.json, image {number}" for number in (0, 5)
    ]


def test_annotations_that_are_no_json_or_no_utf8(tiny: Callable[[str], Path]) -> None:
    root = tiny("coco")
    whole = (root / "dataset_coco.json").read_bytes()
    for broken in (whole[:-9], whole.replace(b"A dog", b"\xe9\xff dog"), b"[" * 100_000):
        (root / "dataset_coco.json").write_bytes(broken)
        assert "dataset_coco.json is not JSON" in unreadable(check_folder("coco", root))


def test_csv_columns_rows_and_encodings(tmp_path: Path) -> None:
    for i, name in enumerate(("a.jpg", "b.JPG", "c.jpg")):
        tiny_sets.picture(tmp_path / name, i)
    file = tmp_path / "samples.csv"
    file.write_bytes('\ufeffimage,id,text_1,text_2\na.jpg,7,Ä,\nb.jpg,8,Two,"Three\nlines"\n'.encode())
    evalset = open_public_set(check_folder("csv", file), allow_missing=False)
    assert (evalset.texts, evalset.image_of_text) == (("Ä", "Two", "Three\nlines"), (0, 1, 1))
    assert evalset.images[1] == tmp_path / "b.JPG"
    file.write_bytes(b"image,text\na.jpg,\xff\nb.jpg\nc.jpg,fine\n")
    found = unreadable(check_folder("csv", tmp_path))
    assert f"{file}, line 2 is not UTF-8" in found
    assert f"{file}, line 3: expected 2 cells, got 1" in found
    file.write_text("picture,text\na.jpg,x\n")
    assert "expected columns `image` and `text`" in unreadable(check_folder("csv", tmp_path))


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a/../../b.jpg", "a\0.jpg"])
def test_images_outside_the_root_are_refused(name: str, tmp_path: Path) -> None:
    root = tmp_path / "a" / "b"
    tiny_sets.picture(tmp_path / "b.jpg", 1)
    tiny_sets.write_lines(root / "samples.jsonl", [{"image": name, "text": "x"}])
    assert "is refused: expected a path below" in unreadable(check_folder("jsonl", root))


def test_a_row_without_an_image_is_named_by_its_texts(tmp_path: Path) -> None:
    tiny_sets.write_lines(tmp_path / "samples.jsonl", [{"img": "a.jpg", "text": "x"}])
    assert "A row names no `image`; its texts are ('x',)." in unreadable(check_folder("jsonl", tmp_path))


def test_annotations_outside_the_root_are_refused(tiny: Callable[[str], Path]) -> None:
    root = tiny("dci")
    tiny_sets.write_json(root / "densely_captioned_images/splits.json", {"test": ["../../secret.json", "sa_1.json"]})
    assert "expected the name of a file in annotations/" in unreadable(check_folder("dci", root))


def test_links_to_images_elsewhere_are_followed(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    root = tiny("urban1k")
    shutil.move(root / "image", tmp_path / "image")
    (root / "image").symlink_to(tmp_path / "image")
    assert len(check_folder("urban1k", root).samples) == 3


def test_endings_in_capitals_are_found(tiny: Callable[[str], Path]) -> None:
    root = tiny("urban1k")
    (root / "image/1.jpg").rename(root / "image/1.JPG")
    assert check_folder("urban1k", root).samples[0].image == "image/1.JPG"
    root_of_iiw = root.parent / "iiw"
    tiny_sets.iiw(root_of_iiw)
    (root_of_iiw / "dci/sa_1545038.jpg").rename(root_of_iiw / "dci/sa_1545038.JPEG")
    check = check_folder("iiw", root_of_iiw)
    assert (check.problems(), check.samples[3].image) == ([], "dci/sa_1545038.JPEG")


@pytest.mark.parametrize(
    ("name", "files"),
    [("urban1k", ("image/._1.jpg", "caption/._1.txt")), ("imagenet", ("val/n01440764/._a.JPEG", "val/._n01440764"))],
)
def test_files_that_macos_leaves_are_no_entries(name: str, files: tuple[str, ...], tiny: Callable[[str], Path]) -> None:
    root = tiny(name)
    before = check_folder(name, root)
    for file in files:
        (root / file).write_bytes(b"\0\5\x16\7")
    assert check_folder(name, root) == before


def test_images_without_a_text_are_counted(tiny: Callable[[str], Path]) -> None:
    root = tiny("urban1k")
    tiny_sets.picture(root / "image/5.jpg", 5)
    (root / "caption/5.txt").write_text("\nnothing in the first line")
    (root / "caption/2.txt").write_text(" ... \nnothing in the first line")
    check = check_folder("urban1k", root)
    assert check.problems() == []
    assert (check.without_text, check.num_empty_texts) == (("image/2.jpg", "image/5.jpg"), 1)
    assert check.counts()["images_without_text"] == 2
    assert open_public_set(check, allow_missing=False).texts == ("Street 1. A car", "Street 10. A car")


def test_texts_of_ones_own_are_normalised_when_asked(tiny: Callable[[str], Path]) -> None:
    root = tiny("jsonl")
    assert open_public_set(check_folder("jsonl", root, normalize=True), False).texts[0] == "One. Two"
    assert open_public_set(check_folder("jsonl", root / "mine.jsonl", normalize=False), False).texts[0] == "One. Two."


@pytest.mark.parametrize("row", [{"image": "a.jpg", "text": "\ud83d"}, {"image": "\ud83d.jpg", "text": "a"}])
def test_half_a_character_is_no_text_and_no_name(row: dict[str, str], tmp_path: Path) -> None:
    tiny_sets.picture(tmp_path / "a.jpg", 1)
    tiny_sets.write_lines(tmp_path / "samples.jsonl", [row])
    check = check_folder("jsonl", tmp_path)
    assert "a lone surrogate" in unreadable(check)
    assert check.missing_images == ()
    "\n".join(check.lines()).encode()  # can be printed


def test_names_that_cannot_be_printed_are_named(tiny: Callable[[str], Path]) -> None:
    dci = tiny("dci")
    tiny_sets.write_json(dci / "densely_captioned_images/splits.json", {"test": ["\ud83d.json", "sa_1.json"]})
    urban1k = dci.parent / "urban1k"
    tiny_sets.urban1k(urban1k)
    (urban1k / "caption/2.txt").rename(urban1k / os.fsdecode(b"caption/\xe9.txt"))
    for check in (check_folder("dci", dci), check_folder("urban1k", urban1k)):
        assert "\\ud" in unreadable(check)
        "\n".join(check.lines()).encode()


def test_rows_that_name_no_image_are_counted_one_by_one(tiny: Callable[[str], Path]) -> None:
    root = tiny("jsonl")
    tiny_sets.write_lines(root / "mine.jsonl", [{"text": "One"}, {"text": "Two"}, {"image": "a.jpg", "text": "Three"}])
    assert len(check_folder("jsonl", root).unreadable) == 2


def test_one_image_in_two_spellings_is_a_duplicate(tiny: Callable[[str], Path]) -> None:
    root = tiny("jsonl")
    tiny_sets.write_lines(root / "mine.jsonl", [{"image": "a.jpg", "text": "One"}, {"image": "./a.jpg", "text": "Two"}])
    assert check_folder("jsonl", root).num_duplicate_images == 1


def test_which_of_several_texts_or_files_is_not_guessed(tiny: Callable[[str], Path]) -> None:
    root = tiny("jsonl")
    tiny_sets.write_lines(root / "mine.jsonl", [{"image": "a.jpg", "text": "One", "texts": ["Two"]}])
    assert "mine.jsonl, line 1: expected `text` or `texts`, got both" in unreadable(check_folder("jsonl", root))
    tiny_sets.write_lines(root / "other.jsonl", [])
    assert "holds 2 files such as mine.jsonl: give one, or call it samples.jsonl" in unreadable(
        check_folder("jsonl", root)
    )


def test_names_that_no_file_can_have_are_named(tiny: Callable[[str], Path]) -> None:
    root = tiny("jsonl")
    with (root / "mine.jsonl").open("a") as file:
        file.write(json.dumps({"image": f"{'a' * 300}.jpg", "text": "One"}) + "\n")
    (problem,) = check_folder("jsonl", root).unreadable
    assert problem.endswith("aaa.jpg cannot be looked for (File name too long).")
    dci = tiny("dci") / "densely_captioned_images"
    tiny_sets.write_json(dci / "splits.json", {"test": [f"{'a' * 300}.json"]})
    (problem,) = check_folder("dci", dci.parent).unreadable
    assert problem.endswith("aaa.json cannot be read (File name too long).")


def test_a_csv_with_an_open_quote(tmp_path: Path) -> None:
    file = tmp_path / "samples.csv"
    file.write_text('image,text\n1.jpg,"A dog.\n2.jpg,A cat.\n')
    (problem,) = check_folder("csv", tmp_path).unreadable
    assert problem == f"{file}, line 3: unexpected end of data. Mend the quotes there."
    file.write_text('"' + (1 << 24) * "a" + "b")
    (problem,) = check_folder("csv", tmp_path).unreadable
    assert problem == f"{file}, line 1: field larger than field limit (16777216). Mend the quotes there."


def test_damaged_images_are_named(tiny: Callable[[str], Path]) -> None:
    root = tiny("docci")
    image = root / "images/test_00003.jpg"
    image.write_bytes(image.read_bytes()[:200])
    (root / "images/test_00005.jpg").write_bytes(b"")
    found = damaged_images(check_folder("docci", root))
    assert [what.partition(":")[0] for what in found] == [str(image), str(root / "images/test_00005.jpg")]
