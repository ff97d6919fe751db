"""Measures of a text: tokens, and content words."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lotlip.errors import DataError
from lotlip.storage.copies import local_path

if TYPE_CHECKING:
    from tokenizers import Tokenizer

CountTokens = Callable[[Sequence[str]], list[int]]

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
_STOP_WORDS = frozenset(
    """
    a about above after against all along also among an and another any are around as at be because been
    before behind being below beside between both but by can could did do does during each either few
    for from further had has have having he her here hers him his how i if in inside into is it its just
    many may me might more most much my near no nor not of off on one onto or other our out outside over
    own s same she should so some such t than that the their them then there these they this those
    through to too toward towards under until up upon us very was we were what when where which while
    who whom whose why will with within without would you your
    """.split()  # noqa: SIM905
)


def open_token_counter(name: str, revision: str | None) -> CountTokens:
    """A function from texts to their numbers of tokens, special tokens not counted (METHOD.md's definition).

    Args:
        name: a folder or hub id with `tokenizer.json`; read without transformers, whose import takes seconds.
        revision: commit of a hub tokenizer.

    Raises:
        DataError: there is no such tokenizer.
    """
    tokenizer = _open_tokenizer(name, revision)
    # A saved tokenizer may remember the truncation of the model it served: lengths must be true ones here.
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count_tokens(texts: Sequence[str]) -> list[int]:
        return [len(text) for text in tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    return count_tokens


def content_words(text: str) -> frozenset[str]:
    """The words of a text, lower-cased, without English stop words."""
    return frozenset(_WORD.findall(text.lower())) - _STOP_WORDS


def raw_word_recall(raw: str, long: str) -> float:
    """Share of a raw caption's content words that its long text repeats, 0 to 1; NaN when it has none.

    Near 0 on average means that the captioner describes something else than the images.
    """
    wanted = content_words(raw)
    return len(wanted & content_words(long)) / len(wanted) if wanted else float("nan")


def _open_tokenizer(name: str, revision: str | None) -> "Tokenizer":
    from tokenizers import Tokenizer

    name = str(local_path(name))
    folder = Path(name)
    if folder.is_dir() and not (folder / "tokenizer.json").is_file():
        raise DataError(
            f"validate.tokenizer: {name} has no tokenizer.json; `save_pretrained` of a tokenizer writes it."
        )
    try:
        if folder.is_dir():
            return Tokenizer.from_file(str(folder / "tokenizer.json"))
        return Tokenizer.from_pretrained(name, revision=revision or "main")
    except (OSError, ValueError) as error:
        raise DataError(
            f"validate.tokenizer: {name!r} is no folder here and cannot be had from the hub "
            f"({str(error).splitlines()[0]}): give a folder with tokenizer.json or the hub id of such a one."
        ) from error
