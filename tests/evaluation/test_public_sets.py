"""Tiny copies of every published set: which text belongs to which image, and all that can be wrong with a folder."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from lotlip.errors import DataError
from lotlip.evaluation.damaged_images import damaged_images
from lotlip.evaluation.folder_check import check_folder, open_public_set
from lotlip.evaluation.public_sets import PUBLIC_SETS, imagenet_classes, imagenet_templates
from lotlip.params import PublishedEvalset
from tests.evaluation import tiny_sets

# By hand from what tiny_sets writes; long texts are split at full stops and line ends and joined by ". ".
TEXTS: dict[str, list[str]] = {
    "sharegpt4v_1k": [f"In {i}. A dog. Sky" for i in range(3)],
    "sharegpt4v_10k": [f"In {i}. A dog. Sky" for i in range(3)],
    "dci": [f"A {tiny_sets.THINGS[i]}. Big {tiny_sets.THINGS[i]}. Left" for i in (2, 0, 3, 1)],
    "iiw": ["First. One", "Two", "Third", "Fourth. line"],
    "urban1k": [f"Street {i}. A car" for i in (1, 2, 10)],
    "docci": [f"A cat {i}. Ears" for i in (1, 3, 5)],
    "coco": [f"A dog {i} {k} ." for i in (0, 2, 4) for k in range(5)],
    "flickr30k": [f"People {i}. Row {k}." for i in (0, 2, 3) for k in range(5)],
    "imagenet": [],
    "jsonl": ["One. Two.", "Five", "Three", "Four"],
    "csv": ["One. Two.", "Five", "Three", "Four"],
}
NUM_IMAGES = {
    "sharegpt4v_1k": 1000,
    "sharegpt4v_10k": 10000,
    "dci": 7805,
    "iiw": 612,
    "urban1k": 1000,
    "docci": 5000,
    "coco": 5000,
    "flickr30k": 1000,
    "imagenet": 50000,
    "jsonl": None,
    "csv": None,
}
LONG = ("sharegpt4v_1k", "sharegpt4v_10k", "dci", "iiw", "urban1k", "docci")


def test_every_set_is_known_everywhere() -> None:
    assert {name: spec.num_images for name, spec in PUBLIC_SETS.items()} == NUM_IMAGES
    assert tuple(name for name, spec in PUBLIC_SETS.items() if spec.is_long) == LONG
    assert set(PUBLIC_SETS) == set(get_args(PublishedEvalset.model_fields["dataset"].annotation))


@pytest.mark.parametrize("name", list(PUBLIC_SETS))
def test_images_and_texts_belong_together(name: str, tmp_path: Path) -> None:
    images = tiny_sets.WRITERS[name](tmp_path)
    check = check_folder(name, tmp_path)
    assert check.problems() == []
    assert check.is_whole == (NUM_IMAGES[name] is None)
    evalset = open_public_set(check, allow_missing=False)
    assert evalset.images == tuple(tmp_path / image for image in images)
    assert list(evalset.texts) == TEXTS[name]
    if name != "imagenet":
        an_image = len(TEXTS[name]) // len(images)
        assert evalset.image_of_text == tuple(i for i in range(len(images)) for _ in range(an_image))
    assert damaged_images(check) == []


def test_imagenet_labels_are_indices_among_all_classes(tiny: Callable[[str], Path]) -> None:
    root = tiny("imagenet")
    evalset = open_public_set(check_folder("imagenet", root), allow_missing=False)
    assert evalset.labels == (0, 0, 1, 999, 999)
    assert (len(evalset.classes), len(evalset.templates)) == (1000, 80)
    assert (evalset.classes[0], evalset.classes[1], evalset.classes[999]) == ("tench", "goldfish", "toilet paper")
    inner = open_public_set(check_folder("imagenet", root / "val"), allow_missing=False)
    assert (inner.labels, inner.images) == (evalset.labels, evalset.images)
    tiny_sets.picture(root / "val/n99999999/x.JPEG", 1)
    with pytest.raises(DataError, match=r"folder n99999999 is no class of ImageNet-1k"):
        open_public_set(check_folder("imagenet", root), allow_missing=True)
    flat = root / "flat/val"
    tiny_sets.picture(flat / "ILSVRC2012_val_00000001.JPEG", 1)
    assert "sort the validation images" in check_folder("imagenet", flat.parent).unreadable[0]


def test_names_and_prompts_of_imagenet() -> None:
    classes, templates = imagenet_classes(), imagenet_templates()
    assert len(classes) == 1000
    assert list(classes) == sorted(classes)
    # Known by index: among them the two cranes and the two bathing suits, which WordNet's own names confuse.
    by_index = list(classes.items())
    assert by_index[134] == ("n02012849", "crane bird")
    assert by_index[517] == ("n03126707", "construction crane")
    assert by_index[638] == ("n03710637", "tights")
    assert by_index[639] == ("n03710721", "one-piece bathing suit")
    assert len(set(templates)) == 80
    assert all(template.count("{}") == 1 for template in templates)
    assert {"a bad photo of a {}.", "itap of a {}.", "a tattoo of the {}."} <= set(templates)


def test_a_long_sets_first_entries_count(tmp_path: Path) -> None:
    tiny_sets.sharegpt4v(tmp_path)
    rows = json.loads((tmp_path / "share4v_sam_10k.json").read_text())
    tiny_sets.write_json(tmp_path / "share4v_sam_10k.json", [rows[i % 3] for i in range(1200)])
    check = check_folder("sharegpt4v_1k", tmp_path)
    assert (len(check.samples), check.is_whole, check.num_duplicate_images) == (1000, True, 997)
    assert "images that an earlier entry names, too: 997" in check.lines()
    larger = check_folder("sharegpt4v_10k", tmp_path)
    assert len(larger.samples) == 1200
    assert "1,200 images with 1,200 texts; the whole set has 10,000: this is only a part of it" in larger.lines()[0]


def test_images_elsewhere(tiny: Callable[[str], Path], tmp_path: Path) -> None:
    root = tiny("sharegpt4v_1k")
    shutil.move(root / "share4v_sam_10k.json", tmp_path / "share4v_sam_10k.json")
    evalset = open_public_set(check_folder("sharegpt4v_1k", tmp_path / "share4v_sam_10k.json", root), False)
    assert evalset.images[0] == root / "sa_000000/images/sa_545504.jpg"


def test_missing_images_are_listed_where_they_belong_or_counted(tiny: Callable[[str], Path]) -> None:
    root = tiny("dci")
    photos = root / "densely_captioned_images/photos"
    (photos / "sa_0.jpg").unlink()
    (photos / "sa_3.jpg").unlink()
    check = check_folder("dci", root)
    assert check.missing_images == (photos / "sa_0.jpg", photos / "sa_3.jpg")
    assert check_folder("dci", root / "densely_captioned_images").missing_images == check.missing_images
    with pytest.raises(DataError) as caught:
        open_public_set(check, allow_missing=False)
    message = str(caught.value)
    assert f"missing images: 2\n  {photos}/sa_0.jpg\n  {photos}/sa_3.jpg" in message
    assert "photos/: the images of SA-1B's archive sa_000138.tar" in message
    assert "--allow-missing" in message
    evalset = open_public_set(check, allow_missing=True)
    assert [path.name for path in evalset.images] == ["sa_2.jpg", "sa_1.jpg"]
    assert evalset.texts == ("A green heart. Big green heart. Left", "A blue star. Big blue star. Left")
    assert evalset.image_of_text == (0, 1)
    assert check.counts() == {
        "is_whole_set": False,
        "set_images": 7805,
        "missing_images": 2,
        "images_without_text": 0,
        "empty_texts": 0,
        "duplicate_images": 0,
    }


def test_missing_annotations_are_named_and_nothing_makes_up_for_them(tiny: Callable[[str], Path]) -> None:
    root = tiny("dci")
    (root / "densely_captioned_images/annotations/sa_3.json").unlink()
    check = check_folder("dci", root)
    assert check.missing_files == (root / "densely_captioned_images/annotations/sa_3.json",)
    with pytest.raises(DataError, match=r"missing: .*annotations/sa_3\.json"):
        open_public_set(check, allow_missing=True)


def test_a_missing_caption_is_a_missing_file(tiny: Callable[[str], Path]) -> None:
    root = tiny("urban1k")
    (root / "caption/2.txt").rename(root / "caption/2.TXT")
    check = check_folder("urban1k", root)
    assert (check.missing_files, len(check.samples)) == ((root / "caption/2.txt",), 2)


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("sharegpt4v_1k", "share4v_sam_10k.json"),
        ("dci", "densely_captioned_images/splits.json"),
        ("docci", "docci_descriptions.jsonlines"),
        ("coco", "dataset_coco.json"),
        ("flickr30k", "dataset_flickr30k.json"),
        ("jsonl", "samples.jsonl"),
        ("csv", "samples.csv"),
    ],
)
def test_an_empty_folder_lacks_its_annotations(name: str, file: str, tmp_path: Path) -> None:
    check = check_folder(name, tmp_path)
    assert check.missing_files == (tmp_path / file,)
    with pytest.raises(DataError, match="What belongs into"):
        open_public_set(check, allow_missing=True)


def test_each_split_of_iiw_that_is_missing_is_named(tiny: Callable[[str], Path]) -> None:
    root = tiny("iiw")
    (root / "DOCCI_Test/data.jsonl").unlink()
    (root / "DCI_Test/data.jsonl").unlink()
    check = check_folder("iiw", root)
    assert check.missing_files == (root / "DOCCI_Test/data.jsonl", root / "DCI_Test/data.jsonl")
    assert [sample.image for sample in check.samples] == ["docci_aar/aar_test_04600.jpg"]
    assert check_folder("iiw", root / "nowhere").missing_files == (root / "nowhere",)


def test_an_empty_file_of_annotations_is_named(tiny: Callable[[str], Path]) -> None:
    root = tiny("iiw")
    (root / "DOCCI_Test/data.jsonl").write_text("\n")
    check = check_folder("iiw", root)
    assert check.unreadable == (f"{root / 'DOCCI_Test/data.jsonl'} is empty: expected a JSON object a line.",)
    assert [Path(sample.image).parent.name for sample in check.samples] == ["docci_aar", "dci"]


def test_a_set_of_ones_own_is_not_called_published(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("file,caption\n")
    lines = check_folder("csv", tmp_path / "mine.csv").lines()
    assert f"What belongs into {tmp_path} (a set of your own):" in lines


def test_an_unknown_set(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"No set is called 'dcii'; expected one of sharegpt4v_1k, .*dci"):
        check_folder("dcii", tmp_path)
