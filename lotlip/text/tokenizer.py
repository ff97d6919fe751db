"""Texts to ids: METHOD's cleaning, corner tokens after `[CLS]`, truncation that is counted.

Ids of a text are `[CLS] [Corner0] ... [Corner m-1] text [SEP]`. The corners are appended to a BERT WordPiece
vocabulary, and truncation drops text only: the corners and a final `[SEP]` always stay.

CLIP's byte-pair vocabulary is read, too, for models that start from a CLIP: `<|startoftext|> text <|endoftext|>`,
without corners and without separators between sentences.

Source: LoTLIP, arXiv:2410.05249, and its released evaluation code; CLIP, arXiv:2103.00020, section 2.4.
"""

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Tokenizer
from tokenizers.processors import TemplateProcessing

from lotlip.errors import ModelError, ParamsError, ShapeError
from lotlip.records import content_key, read_json, write_json
from lotlip.storage.copies import local_path

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_SETTINGS_FILE = "tokenizer_config.json"


def corner_token(index: int) -> str:
    """The vocabulary entry of the corner token `index`."""
    return f"[Corner{index}]"


@dataclass(frozen=True)
class _Vocabulary:
    """The special tokens of a kind of vocabulary.

    `literal` finds them in a user's text; `escaped` is what becomes of them there; `separator` joins sentences, and
    where there is none they stay as they are.
    """

    tokens: dict[str, str]
    start: str
    end: str
    pad: str
    separator: str | None
    literal: re.Pattern[str]
    escaped: str


_BERT = _Vocabulary(
    tokens={f"{token.strip('[]').lower()}_token": token for token in SPECIAL_TOKENS},
    start="[CLS]",
    end="[SEP]",
    pad="[PAD]",
    separator="[SEP]",
    literal=re.compile(r"\[(PAD|UNK|CLS|SEP|MASK|Corner\d+)\]"),
    escaped=r"[ \1 ]",
)
_CLIP_START, _CLIP_END = "<|startoftext|>", "<|endoftext|>"
_CLIP = _Vocabulary(
    tokens={"bos_token": _CLIP_START, "eos_token": _CLIP_END, "pad_token": _CLIP_END, "unk_token": _CLIP_END},
    start=_CLIP_START,
    end=_CLIP_END,
    pad=_CLIP_END,
    separator=None,
    literal=re.compile(r"<\|(startoftext|endoftext)\|>"),
    escaped=r"< | \1 | >",
)


@dataclass(frozen=True)
class TextIds:
    """Ids of texts (special tokens included, no padding) and what truncation took, text by text.

    `num_tokens` counts the ids between the corners and the final `[SEP]` before truncation, `num_lost` those
    cut off.
    """

    ids: list[list[int]]
    num_tokens: list[int]
    num_lost: list[int]

    @property
    def num_truncated(self) -> int:
        """How many texts lost something."""
        return sum(count > 0 for count in self.num_lost)


class LotlipTokenizer:
    """A BERT WordPiece tokenizer with sentence separators and corner tokens, or a CLIP one without either.

    With `exact`, a literal `[SEP]` (or another special token) in a user's text becomes the special id, as in
    the released code; without it such text is escaped into ordinary word pieces.
    """

    def __init__(self, backend: Tokenizer, num_corner_tokens: int, token_limit: int, *, exact: bool = False) -> None:
        if token_limit < num_corner_tokens + 3:
            raise ParamsError(
                f"token_limit is {token_limit}: [CLS], {num_corner_tokens} corner tokens, one token of text "
                f"and [SEP] need {num_corner_tokens + 3}. Raise token_limit or lower corner_tokens."
            )
        self._vocabulary = _CLIP if backend.token_to_id(_CLIP_START) is not None else _BERT
        missing = [token for token in self._vocabulary.tokens.values() if backend.token_to_id(token) is None]
        if missing:
            raise ModelError(f"The tokenizer's vocabulary lacks {', '.join(missing)}; expected BERT's kind or CLIP's.")
        if num_corner_tokens and self._vocabulary is not _BERT:
            raise ParamsError(
                f"{num_corner_tokens} corner tokens need a BERT vocabulary, this is CLIP's: set them to 0."
            )
        self.num_corner_tokens = num_corner_tokens
        self.token_limit = token_limit
        self.exact = exact
        self._backend = backend
        backend.no_padding()
        backend.no_truncation()
        self.corner_ids = _add_corners(backend, num_corner_tokens)
        self.pad_id = _id(backend, self._vocabulary.pad)
        self.start_id = _id(backend, self._vocabulary.start)
        self.end_id = _id(backend, self._vocabulary.end)
        backend.post_processor = _template(backend, self._vocabulary, num_corner_tokens)

    @classmethod
    def load(
        cls,
        source: str | Path,
        *,
        num_corner_tokens: int,
        token_limit: int,
        revision: str | None = None,
        exact: bool = False,
    ) -> "LotlipTokenizer":
        """Open a vocabulary: a folder (`tokenizer.json` or `vocab.txt`), or a hub id and its revision.

        Raises:
            ModelError: there is no such vocabulary, or it is not BERT's kind.
        """
        backend = _open_backend(_find_file(str(source), revision))
        return cls(backend, num_corner_tokens, token_limit, exact=exact)

    @classmethod
    def from_pretrained(cls, folder: str | Path, revision: str | None = None) -> "LotlipTokenizer":
        """Open what `save_pretrained` wrote, from a folder or a hub id with its revision."""
        settings = read_json(_find_file(str(folder), revision, (_SETTINGS_FILE,)))
        if "num_corner_tokens" not in settings:
            raise ModelError(
                f"{folder} holds a tokenizer without LoTLIP's settings: open it with LotlipTokenizer.load, "
                "giving num_corner_tokens and token_limit."
            )
        return cls.load(
            folder,
            num_corner_tokens=settings["num_corner_tokens"],
            token_limit=settings["model_max_length"],
            revision=revision,
            exact=settings["exact"],
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `tokenizer.json` and `tokenizer_config.json`.

        `transformers.AutoTokenizer` opens them too and adds the same corners; only the cleaning is ours.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._backend.save(str(folder / "tokenizer.json"))
        settings: dict[str, Any] = {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": self.token_limit,
            "num_corner_tokens": self.num_corner_tokens,
            "exact": self.exact,
            **self._vocabulary.tokens,
        }
        write_json(folder / _SETTINGS_FILE, settings)

    @property
    def vocab_size(self) -> int:
        """Entries of the vocabulary, corner tokens included."""
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    def fingerprint(self) -> str:
        """Hex SHA-256 of all that determines the ids of a text."""
        return content_key([self._backend.to_str(), self.num_corner_tokens, self.token_limit, self.exact])

    def clean(self, text: str) -> str:
        """Separate sentences by `[SEP]` (not for CLIP), repair encoding and entities, and collapse whitespace."""
        vocabulary = self._vocabulary
        pieces = [text] if vocabulary.separator is None else text.split(". ")
        separator = vocabulary.separator or ""
        cleaned = _repair(separator.join(pieces))
        found = vocabulary.literal.findall(cleaned)
        if self.exact or found == [separator.strip("[]")] * (len(pieces) - 1):
            return cleaned
        return separator.join(vocabulary.literal.sub(vocabulary.escaped, _repair(piece)) for piece in pieces)

    def encode(self, texts: Sequence[str]) -> TextIds:
        """Clean and tokenize texts, all at once.

        Returns:
            ids of at most `token_limit` a text, `[CLS]`, corners and `[SEP]` included, without padding.
        """
        room = self.token_limit - self.num_corner_tokens - 2
        start = [self.start_id, *self.corner_ids]
        pieces = self._pieces(texts)
        return TextIds(
            ids=[[*start, *ids[:room], self.end_id] for ids in pieces],
            num_tokens=[len(ids) for ids in pieces],
            num_lost=[max(0, len(ids) - room) for ids in pieces],
        )

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """WordPiece tokens of each text, sentence separators and other special tokens not counted."""
        special = {_id(self._backend, token) for token in self._vocabulary.tokens.values() if token != "[UNK]"}
        return [sum(id_ not in special for id_ in ids) for ids in self._pieces(texts)]

    def pad(
        self, ids: Iterable[Sequence[int]], length: int | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Stack ids of texts, padded to `length` or to the longest.

        Returns:
            input_ids and attention_mask (1 where there is a token other than `[PAD]`), int64 [B, L]. CLIP pads with
            its end token; there the mask ends with the text.
        """
        rows = list(ids)
        longest = max((len(row) for row in rows), default=0)
        width = longest if length is None else length
        if longest > width:
            raise ShapeError(f"A text of {longest} ids does not fit {width}: truncate it with encode first.")
        input_ids = np.full((len(rows), width), self.pad_id, dtype=np.int64)
        for row, values in zip(input_ids, rows, strict=True):
            row[: len(values)] = values
        mask = np.arange(width) < np.array([len(row) for row in rows], dtype=np.int64)[:, None]
        if self.pad_id != self.end_id:
            mask &= input_ids != self.pad_id
        return input_ids, mask.astype(np.int64)

    def __call__(self, texts: str | Sequence[str], *, pad_to_limit: bool = False) -> dict[str, NDArray[np.int64]]:
        """Encode and pad texts: `input_ids` and `attention_mask`, int64 [B, L]."""
        encoded = self.encode([texts] if isinstance(texts, str) else texts)
        input_ids, attention_mask = self.pad(encoded.ids, self.token_limit if pad_to_limit else None)
        return {"input_ids": input_ids, "attention_mask": attention_mask}

    def _pieces(self, texts: Sequence[str]) -> list[list[int]]:
        cleaned = [self.clean(text) for text in texts]
        return [row.ids for row in self._backend.encode_batch_fast(cleaned, add_special_tokens=False)]


def _repair(text: str) -> str:
    # ftfy costs 0.1 ms a text; printable ASCII without `&` is what it and html.unescape leave alone.
    if not (text.isascii() and text.isprintable() and "&" not in text):
        import ftfy

        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split())


def _id(backend: Tokenizer, token: str) -> int:
    found = backend.token_to_id(token)
    assert found is not None, token
    return found


def _add_corners(backend: Tokenizer, num_corner_tokens: int) -> list[int]:
    names = [corner_token(i) for i in range(num_corner_tokens)]
    backend.add_special_tokens([AddedToken(name, normalized=False) for name in names])
    ids = [_id(backend, name) for name in names]
    size = backend.get_vocab_size(with_added_tokens=True)
    if ids != list(range(size - num_corner_tokens, size)):
        raise ModelError(
            f"The tokenizer's corner tokens have ids {ids}; expected the last {num_corner_tokens} of {size}. "
            "Its vocabulary has other added tokens: start from the plain vocabulary."
        )
    return ids


def _template(backend: Tokenizer, vocabulary: _Vocabulary, num_corner_tokens: int) -> TemplateProcessing:
    before = [vocabulary.start, *(corner_token(i) for i in range(num_corner_tokens))]
    tokens = [(token, backend.token_to_id(token)) for token in (*before, vocabulary.end)]
    return TemplateProcessing(single=[*before, "$A", vocabulary.end], pair=None, special_tokens=tokens)


def _find_file(source: str, revision: str | None, names: tuple[str, ...] = ("tokenizer.json", "vocab.txt")) -> Path:
    source = str(local_path(source))
    if Path(source).is_dir():
        for name in names:
            if (Path(source) / name).is_file():
                return Path(source) / name
        raise ModelError(f"Tokenizer folder {source} holds no {' or '.join(names)}.")
    if revision is None:
        raise ModelError(
            f"Tokenizer {source} is not a folder here. Give an existing folder, or a hub id together with "
            "its revision (the commit)."
        )
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(source, names[0], revision=revision))
    except Exception as error:  # the hub's client raises many unrelated types
        raise ModelError(
            f"Tokenizer {source} at {revision} cannot be fetched from the hub ({error}). Check the id, the "
            "revision and the network, or give a folder."
        ) from error


def _open_backend(file: Path) -> Tokenizer:
    if file.suffix == ".txt":
        return _bert_backend(file)
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises plain Exception
        raise ModelError(f"{file} is not a tokenizer ({error}).") from error


def _bert_backend(vocabulary: Path) -> Tokenizer:
    from tokenizers.decoders import WordPiece as Decoder
    from tokenizers.models import WordPiece
    from tokenizers.normalizers import BertNormalizer
    from tokenizers.pre_tokenizers import BertPreTokenizer

    backend = Tokenizer(WordPiece.from_file(str(vocabulary), unk_token="[UNK]"))
    backend.normalizer = BertNormalizer(lowercase=True)
    backend.pre_tokenizer = BertPreTokenizer()
    backend.decoder = Decoder()
    known = [token for token in SPECIAL_TOKENS if backend.token_to_id(token) is not None]
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in known])
    return backend
