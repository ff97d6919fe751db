"""Sub-captions: hand-made splits, and what holds for every text."""

import re

from hypothesis import given
from hypothesis import strategies as st

from lotlip.text.subcaptions import join_sub_captions, normalize_long, split_sub_captions

WORDS = st.text("abC,é", min_size=1, max_size=4)
PIECES = st.lists(st.lists(WORDS, min_size=1, max_size=3).map(" ".join), max_size=6)


def test_splits_at_newline_end_mark_and_full_stop() -> None:
    text = "A dog runs. It is brown.\nGrass behind</s>Sky, above"
    assert split_sub_captions(text) == ["A dog runs", "It is brown", "Grass behind", "Sky, above"]


def test_decimal_points_split_too_as_the_published_counts_do() -> None:
    assert split_sub_captions("It costs 2.5 euros") == ["It costs 2", "5 euros"]


def test_a_text_of_separators_has_no_sub_captions() -> None:
    assert split_sub_captions(" ..\n.</s> ") == []
    assert normalize_long("...") == ""


def test_normalized_text_has_no_final_full_stop() -> None:
    assert normalize_long("A dog.It runs .\n\n On grass.") == "A dog. It runs. On grass"


@given(PIECES, st.sampled_from([".", "\n", "</s>", ". ", ".\n"]))
def test_joining_and_splitting_are_inverse(pieces: list[str], separator: str) -> None:
    assert split_sub_captions(separator.join(pieces)) == pieces
    assert split_sub_captions(join_sub_captions(pieces)) == pieces


@given(st.text())
def test_normalizing_loses_nothing_but_separators_and_space(text: str) -> None:
    normal = normalize_long(text)
    assert normalize_long(normal) == normal
    assert re.sub(r"[\s.]", "", normal) == re.sub(r"[\s.]", "", text.replace("</s>", ""))
