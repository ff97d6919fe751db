"""Statistics by hand, from every kind of folder."""

import json
from pathlib import Path

import pytest

from lotlip.data.statistics import dataset_statistics, folder_statistics, token_counter
from lotlip.data.tables import Row
from lotlip.errors import DataError
from tests.data.folders import image_folder, image_row, long_row, sidecar


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


def test_image_folder_counts_raw_captions_of_successes(tmp_path: Path) -> None:
    failed = Row("c", "http://a", "failed_to_download", "HTTP 404", "lost. lost")
    image_folder(tmp_path / "i", {"s-00000": [image_row("a", "One. Two"), failed], "s-00001": [image_row("b", "")]})
    statistics = folder_statistics(tmp_path / "i")
    assert (statistics["images"], statistics["texts"], statistics["sub_captions_per_text"]) == (2, 1, 2.0)
    assert folder_statistics(tmp_path / "i" / "manifest.json") == statistics


def test_captions_folder_counts_texts_that_did_not_fail(tmp_path: Path) -> None:
    images = image_folder(tmp_path / "i", {"s-00000": [image_row("a"), image_row("b")]})
    rows = {"s-00000": [long_row("a", "One. Two. Three"), long_row("b", "", failure="empty")]}
    sidecar(tmp_path / "c", "captions", images, rows)
    assert folder_statistics(tmp_path / "c") == {
        "images": 2,
        "texts": 1,
        "sub_captions_per_text": 3.0,
        "tokens_per_text": None,
    }


def test_evaluation_set_and_plain_jsonl(tmp_path: Path) -> None:
    lines = [{"image": "images/a.png", "texts": ["One. Two", "Three"]}, {"image": "images/b.png", "label": 1}]
    (tmp_path / "samples.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    for path in (tmp_path, tmp_path / "samples.jsonl"):
        statistics = folder_statistics(path)
        assert (statistics["images"], statistics["texts"], statistics["sub_captions_per_text"]) == (2, 2, 1.5)


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "line 2: expected a JSON"), ('{"texts": "one"}', "line 2: `texts` must be a list")],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "s.jsonl").write_text('{"texts": ["a"]}\n' + line)
    with pytest.raises(DataError, match=message):
        folder_statistics(tmp_path / "s.jsonl")


def test_other_paths_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no texts that are known"):
        folder_statistics(tmp_path)


def test_wordpiece_tokens_without_special_tokens(tmp_path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "##s", "."]
    (tmp_path / "vocab.txt").write_text("\n".join(words))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "do_lower_case": true}')
    count = token_counter(str(tmp_path))
    assert list(count(["A dog.", "dogs", ""])) == [3, 2, 0]


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Tokenizer .*nowhere cannot be loaded"):
        token_counter(str(tmp_path / "nowhere"))
