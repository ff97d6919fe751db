"""Statistics by hand, from every kind of folder."""

from pathlib import Path

import pytest

from lotlip.data.statistics import dataset_statistics, token_counter
from lotlip.errors import DataError


def test_counts_by_hand() -> None:
    texts = [["A dog. It runs."], ["Grass", "Two cats.\nA tree. Sky"], []]
    statistics = dataset_statistics(texts, lambda batch: [len(text.split()) for text in batch])
    assert statistics == {
        "images": 3,
        "texts": 3,
        "sub_captions_per_text": 2.0,  # (2 + 1 + 3) / 3
        "tokens_per_text": 3.3333,  # (4 + 1 + 5) / 3
    }


def test_more_images_than_one_batch_holds() -> None:
    statistics = dataset_statistics((["a. b"] for _ in range(2500)), lambda batch: [3] * len(batch))
    assert statistics == {"images": 2500, "texts": 2500, "sub_captions_per_text": 2.0, "tokens_per_text": 3.0}


def test_nothing_to_count() -> None:
    nothing = {"images": 0, "texts": 0, "sub_captions_per_text": None, "tokens_per_text": None}
    assert dataset_statistics([]) == nothing


def test_wordpiece_tokens_without_special_tokens(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "##s", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    count = token_counter(str(tmp_path))
    assert list(count(["A dog.", "dogs", ""])) == [3, 2, 0]


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Tokenizer .*nowhere cannot be loaded"):
        token_counter(str(tmp_path / "nowhere"))
