"""Ids must equal the released implementation's; what cleaning and truncation do is checked by hand."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from lotlip.errors import ModelError, ParamsError, ShapeError
from lotlip.text.tokenizer import SPECIAL_TOKENS, LotlipTokenizer, _repair

HERE = Path(__file__).parent
REFERENCE = json.loads((HERE.parent / "golden/official_tiny/tokenizer_reference.json").read_text())


def bert_backend() -> Tokenizer:
    """bert-base-uncased as far as the reference needs it.

    Greedy longest match over a vocabulary gives the same pieces over any part of it that holds those pieces.
    """
    known = json.loads((HERE / "bert_pieces.json").read_text())
    taken = set(known.values())
    filler = {f"[filler {i}]": i for i in range(30522) if i not in taken}
    backend = Tokenizer(WordPiece({**known, **filler}, unk_token="[UNK]"))
    backend.normalizer = BertNormalizer(lowercase=True)
    backend.pre_tokenizer = BertPreTokenizer()
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL_TOKENS])
    return backend


def small_backend() -> Tokenizer:
    words = [
        *SPECIAL_TOKENS,
        *"abcdefgh",
        "##a",
        "##b",
        "sep",
        "cls",
        "corner",
        "##0",
        "[",
        "]",
        ".",
        "&",
        '"',
    ]
    backend = Tokenizer(WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer = BertNormalizer(lowercase=True)
    backend.pre_tokenizer = BertPreTokenizer()
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in SPECIAL_TOKENS])
    return backend


def small(num_corner_tokens: int = 2, token_limit: int = 12, exact: bool = False) -> LotlipTokenizer:
    return LotlipTokenizer(small_backend(), num_corner_tokens, token_limit, exact=exact)


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize(
    "case", REFERENCE["cases"], ids=lambda case: f"{case['num_corner_tokens']}-{case['context_length']}"
)
def test_ids_equal_the_released_implementation(case: dict, exact: bool) -> None:
    tokenizer = LotlipTokenizer(bert_backend(), case["num_corner_tokens"], case["context_length"], exact=exact)
    ids = tokenizer(REFERENCE["texts"], pad_to_limit=True)["input_ids"]
    assert ids.tolist() == case["input_ids"]


def test_vocabulary_file_and_tokenizer_json_give_the_same_ids(tmp_path: Path) -> None:
    tokenizer = small()
    by_id = sorted(small_backend().get_vocab().items(), key=lambda item: item[1])
    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word, _ in by_id))
    loaded = LotlipTokenizer.load(tmp_path, num_corner_tokens=2, token_limit=12)
    assert loaded.encode(["Ab. c"]).ids == tokenizer.encode(["Ab. c"]).ids


def test_cleaning_order() -> None:
    tokenizer = small()
    assert tokenizer.clean("A b.  C. ") == "A b[SEP] C[SEP]"
    assert tokenizer.clean("a.b. c.") == "a.b[SEP]c."
    assert tokenizer.clean("“a” &amp;amp; b\n\tc") == '"a" & b c'


@given(st.text(st.characters(min_codepoint=1, max_codepoint=300), max_size=40))
def test_the_fast_path_of_cleaning_changes_nothing(text: str) -> None:
    import html
    import re

    import ftfy

    slow = html.unescape(html.unescape(ftfy.fix_text(text)))
    assert _repair(text) == re.sub(r"\s+", " ", slow).strip()


@pytest.mark.parametrize("literal", ["[SEP]", "[CLS]", "[PAD]", "[Corner0]", "&#91;SEP&#93;", "&amp;#91;CLS]"])
def test_literal_special_tokens_are_escaped_unless_exact(literal: str) -> None:
    special = {*range(5), *small().corner_ids} - {1}  # [UNK] is what unknown words become
    escaped = small(token_limit=30).encode([f"a {literal}. b"]).ids[0][3:-1]
    separators = [id_ for id_ in escaped if id_ in special]
    assert separators == [small().end_id], "only our own separator is left"
    exact = small(token_limit=30, exact=True).encode([f"a {literal}. b"]).ids[0][3:-1]
    assert len([id_ for id_ in exact if id_ in special]) == 2


def test_truncation_keeps_corners_and_the_final_separator_and_is_counted() -> None:
    encoded = small(token_limit=8).encode(["a b c d", "a b c d e f", "a"])
    cls, sep, pad = small().start_id, small().end_id, small().pad_id
    corners = small().corner_ids
    assert [len(ids) for ids in encoded.ids] == [8, 8, 5]
    assert all(ids[:3] == [cls, *corners] and ids[-1] == sep and pad not in ids for ids in encoded.ids)
    assert encoded.num_tokens == [4, 6, 1]
    assert encoded.num_lost == [0, 2, 0]
    assert encoded.num_truncated == 1


def test_counting_tokens_leaves_special_tokens_out() -> None:
    assert small().count_tokens(["a b. c", "", "zzz a"]) == [3, 0, 2]


def test_save_and_load_give_the_same_ids_also_to_transformers(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = small(exact=True)
    tokenizer.save_pretrained(tmp_path)
    loaded = LotlipTokenizer.from_pretrained(tmp_path)
    assert (loaded.num_corner_tokens, loaded.token_limit, loaded.exact) == (2, 12, True)
    ids = tokenizer.encode(["a b ab"]).ids
    assert loaded.encode(["a b ab"]).ids == ids
    assert AutoTokenizer.from_pretrained(tmp_path)(["a b ab"])["input_ids"] == ids


def test_padding_to_the_longest_and_its_mask() -> None:
    tokenizer = small()
    batch = tokenizer(["a", "a b c"])
    assert batch["input_ids"].shape == (2, 7)
    assert batch["attention_mask"].sum(axis=1).tolist() == [5, 7]
    with pytest.raises(ShapeError, match="does not fit 3"):
        tokenizer.pad([[1, 2, 3, 4]], 3)


def clip_folder(folder: Path) -> Path:
    """A vocabulary of CLIP's kind: single letters and the two special tokens."""
    vocabulary = {chr(97 + i): i for i in range(24)} | {f"{chr(97 + i)}</w>": 24 + i for i in range(24)}
    vocabulary |= {"<</w>": 48, "|</w>": 49, "></w>": 50, ".</w>": 51, "<|startoftext|>": 52, "<|endoftext|>": 53}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    from transformers import CLIPTokenizer

    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    return folder


def test_clips_vocabulary_gives_the_ids_of_clips_tokenizer(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    peer = AutoTokenizer.from_pretrained(clip_folder(tmp_path))
    tokenizer = LotlipTokenizer.load(tmp_path, num_corner_tokens=0, token_limit=8)
    texts = ["ab c", "A. b", "", "a b c d e f g h"]
    batch, expected = tokenizer(texts), peer(texts, padding=True, truncation=True, max_length=8)
    assert batch["input_ids"].tolist() == expected["input_ids"]
    assert batch["attention_mask"].tolist() == expected["attention_mask"]
    assert tokenizer.encode(texts).num_lost == [0, 0, 0, 2]
    assert 53 not in tokenizer.encode(["a <|endoftext|> b"]).ids[0][1:-1]
    tokenizer.save_pretrained(tmp_path / "saved")
    assert LotlipTokenizer.from_pretrained(tmp_path / "saved")(texts)["input_ids"].tolist() == expected["input_ids"]
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")(["ab c"])["input_ids"] == [expected["input_ids"][0][:5]]
    with pytest.raises(ParamsError, match="2 corner tokens need a BERT vocabulary"):
        LotlipTokenizer.load(tmp_path, num_corner_tokens=2, token_limit=8)


def test_errors_name_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a folder here"):
        LotlipTokenizer.load("no/such", num_corner_tokens=2, token_limit=12)
    with pytest.raises(ModelError, match="holds no"):
        LotlipTokenizer.load(tmp_path, num_corner_tokens=2, token_limit=12)
    with pytest.raises(ParamsError, match="token_limit is 4"):
        small(token_limit=4)
    plain = Tokenizer(WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    with pytest.raises(ModelError, match=r"lacks \[PAD\], \[CLS\]"):
        LotlipTokenizer(plain, 2, 12)
