"""What is wrong with a caption, by rules on its text alone: each gives a reason, and the caption stays.

Reasons that another try may mend (`FIXABLE`) earn a caption one retry with a new seed.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lotlip.captioning.captioner import EMPTY, Caption, Captioner, Kind
from lotlip.data.tables import CAPTION_REASONS
from lotlip.text.subcaptions import split_sub_captions

if TYPE_CHECKING:
    from PIL.Image import Image

LOOP_TIMES = 4  # a phrase said so often without anything between is a loop
LOOP_WORDS = 12  # of at most so many words
REPEATED_SHARE = 0.4  # of a text's sub-captions that were said before in it
LATIN_SHARE = 0.8  # of letters, at least: the captioners are asked in English

_WORD = re.compile(r"\w+")
_SENTENCE_END = re.compile(r"[.!?。！？…][\"'”’»)\]]*\s*$")
# A model that speaks of itself or of what it cannot do. "The image shows ..." is no refusal.
_REFUSAL = re.compile(
    r"\b(i'm|i am|we're|we are) (sorry|afraid)\b|\bsorry, (but )?i\b"
    r"|\b(i|we) (cannot|can't|can not|could not|couldn't|won't|do not|don't) "
    r"(see|view|describe|provide|identify|determine|access|help|assist)\b"
    r"|\bas an? (ai|language model|assistant)\b"
    r"|\bunable to (see|view|describe|process|provide|identify)\b"
    r"|\bno image (was|is|has been) (provided|attached|given)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Written:
    """A caption, the rules that it breaks, and how many attempts it took."""

    caption: Caption
    reasons: tuple[str, ...]
    attempts: int = 1


def write_checked(captioner: Captioner, images: "Sequence[Image]", kind: Kind, prepared: Any = None) -> list[Written]:
    """Caption images, and once more those whose captions are empty or break a rule that another draw may mend.

    The second caption is kept if it breaks fewer rules than the first.
    """
    written = [
        Written(caption, find_reasons(caption)) for caption in captioner.caption(images, kind, prepared=prepared)
    ]
    again = [i for i, each in enumerate(written) if _may_be_mended(each)] if captioner.retries else []
    if not again:
        return written
    drawn = captioner.caption([images[i] for i in again], kind, attempt=1)
    for i, caption in zip(again, drawn, strict=True):
        first, second = written[i], Written(caption, find_reasons(caption), 2)
        is_better = caption.failure is None and (first.caption.failure or len(second.reasons) < len(first.reasons))
        written[i] = second if is_better else Written(first.caption, first.reasons, 2)
    return written


def _may_be_mended(written: Written) -> bool:
    return written.caption.failure == EMPTY or bool(FIXABLE.intersection(written.reasons))


def is_truncated(caption: Caption) -> bool:
    """Cut off by the token limit in the middle of a sentence."""
    return caption.finish_reason == "length" and not _SENTENCE_END.search(caption.text)


def is_repetitive(caption: Caption) -> bool:
    """It loops over a phrase, or says many of its sub-captions again."""
    if has_loop(_WORD.findall(caption.text.lower())):
        return True
    pieces = [piece.lower() for piece in split_sub_captions(caption.text)]
    return len(pieces) >= LOOP_TIMES and 1 - len(set(pieces)) / len(pieces) > REPEATED_SHARE


def is_refusal(caption: Caption) -> bool:
    """It speaks of what it cannot do instead of the image."""
    return _REFUSAL.search(caption.text.replace("’", "'")) is not None


def is_foreign(caption: Caption) -> bool:
    """Its letters are mostly of another script than Latin."""
    if caption.text.isascii():
        return False
    letters = [letter for letter in caption.text if letter.isalpha()]
    return bool(letters) and sum(letter < "\u0250" for letter in letters) / len(letters) < LATIN_SHARE


RULES: dict[str, Callable[[Caption], bool]] = {
    "truncated": is_truncated,
    "repetition": is_repetitive,
    "refusal": is_refusal,
    "language": is_foreign,
}
assert tuple(RULES) == CAPTION_REASONS
FIXABLE = frozenset({"truncated", "repetition", "refusal"})


def find_reasons(caption: Caption) -> tuple[str, ...]:
    """The names of all rules that a caption breaks; none for a failed one, which has a failure of its own."""
    return () if caption.failure is not None else tuple(name for name, breaks in RULES.items() if breaks(caption))


def has_loop(words: list[str]) -> bool:
    """Whether a phrase of at most LOOP_WORDS words stands LOOP_TIMES times in a row.

    `["a", "b", "a", "b", "a", "b", "a", "b"]` has one, of two words.
    """
    for size in range(1, min(LOOP_WORDS, len(words) // LOOP_TIMES) + 1):
        enough = size * (LOOP_TIMES - 1)  # words in a row that equal the one a phrase earlier
        # Such a row covers one of every `enough` places: it is looked for there only.
        if any(_row_around(words, at, size) >= enough for at in range(size + enough - 1, len(words), enough)):
            return True
    return False


def _row_around(words: list[str], at: int, size: int) -> int:
    """Length of the row around `at` of words that equal the one `size` places earlier."""
    first, end = at, at
    while end < len(words) and words[end] == words[end - size]:
        end += 1
    if end == at:
        return 0
    while first > size and words[first - 1] == words[first - 1 - size]:
        first -= 1
    return end - first
