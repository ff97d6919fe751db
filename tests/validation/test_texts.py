"""Measures of texts against hand counts."""

import math
from pathlib import Path

import pytest

from lotlip.errors import DataError
from lotlip.validation.texts import content_words, open_token_counter, raw_word_recall


def test_tokens_are_word_pieces_without_specials_padding_or_truncation(tokenizer: str) -> None:
    # The saved tokenizer truncates and pads to 8 and adds [CLS] and [SEP].
    count = open_token_counter(tokenizer, None)
    assert count(["", "a red circle", "A red circle.", "squares", "the dog cat", "red " * 30]) == [
        0,
        3,
        4,
        2,
        5,
        30,
    ]


def test_a_tokenizer_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"validate.tokenizer: .* has no tokenizer.json"):
        open_token_counter(str(tmp_path), None)
    with pytest.raises(DataError, match=r"'lotlip/sample/none' is no folder here and cannot be had from the hub"):
        open_token_counter("lotlip/sample/none", None)


def test_content_words_are_lower_case_words_but_stop_words() -> None:
    assert content_words("A Dog's nose; the dog, on Top_of 2 CAFÉS!") == {
        "dog's",
        "nose",
        "dog",
        "top",
        "2",
        "cafés",
    }


@pytest.mark.parametrize(
    ("raw", "long", "recall"),
    [
        ("a red circle", "There is a circle. It is red.", 1.0),
        ("a red circle", "A blue circle.", 0.5),
        ("two dogs at the beach", "A red circle left of a square.", 0.0),
        ("red red dog cat", "red cats", 1 / 3),
    ],
)
def test_recall_is_the_share_of_the_raw_words_that_are_found(raw: str, long: str, recall: float) -> None:
    assert raw_word_recall(raw, long) == pytest.approx(recall)


def test_recall_of_nothing_is_nan() -> None:
    assert math.isnan(raw_word_recall("the of", "anything"))
