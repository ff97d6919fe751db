"""Objects found in texts, and agreement on them, by hand."""

from pathlib import Path

import pytest

from lotlip.errors import DataError
from lotlip.evaluation.agreement import ObjectNames, consensus, overlap, support

NAMES = ObjectNames([["dog", "puppy"], ["hot dog"], ["bus"], ["knife"], ["person", "man", "woman"], ["red circle"]])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Two dogs and a Puppy.", {"dog"}),
        ("A hot dog on a plate", {"hot dog"}),
        ("A dog eats hot dogs", {"dog", "hot dog"}),
        ("Buses, puppies and knives", {"bus", "dog", "knife"}),
        ("A doghouse, a business, a mankind", set()),
        ("The man's dog", {"person", "dog"}),
        ("a large striped red circle; a red ring and a circle", {"red circle"}),
        ("", set()),
    ],
)
def test_objects_are_found_by_name_synonym_and_plural(text: str, found: set[str]) -> None:
    assert NAMES.named_in(text) == found


def test_a_list_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "objects.txt"
    path.write_text("# things\ndog, puppy  # an animal\n\n hot dog \n")
    assert ObjectNames.load(path).named_in("a puppy with a hot dog") == {"dog", "hot dog"}
    path.write_text("# nothing\n")
    with pytest.raises(DataError, match="names no object"):
        ObjectNames.load(path)
    with pytest.raises(DataError, match="cannot be read"):
        ObjectNames.load(tmp_path / "none.txt")


def test_the_list_of_coco_finds_what_its_captions_say() -> None:
    names = ObjectNames.load(Path("conf/coco_objects.txt"))
    text = "Three people on motorbikes wait at a traffic light while two kids eat donuts on a couch by the fridge."
    assert names.named_in(text) == {"person", "motorcycle", "traffic light", "donut", "couch", "refrigerator"}


def test_support_is_the_share_of_the_others() -> None:
    named = {"a": frozenset({"dog", "bus"}), "b": frozenset({"dog"}), "c": frozenset({"dog", "cat", "bus"})}
    assert support(named) == {
        "a": {"bus": 0.5, "dog": 1.0},
        "b": {"dog": 1.0},
        "c": {"bus": 0.5, "cat": 0.0, "dog": 1.0},
    }
    assert support({"a": frozenset({"dog"})}) == {"a": {}}


def test_overlap_and_consensus() -> None:
    first, second = frozenset({"dog", "bus"}), frozenset({"dog"})
    assert overlap(first, second) == 0.5
    assert overlap(frozenset(), second) == 0.0
    assert overlap(frozenset(), frozenset()) is None
    assert consensus({"a": first, "b": second, "c": frozenset({"cat"})}) == {"dog"}
    assert consensus({"a": first, "b": second}) == {"dog"}  # more than half
    assert consensus({}) == frozenset()
