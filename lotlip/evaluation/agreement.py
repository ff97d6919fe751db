"""Which objects captions name, and how far captioners agree on them: what only one of them sees may not be there.

Nothing here knows the truth: `lotlip.sample.hallucination` measures on drawn scenes how well agreement tells it.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from lotlip.errors import DataError


class ObjectNames:
    """Finds the objects of a list in texts, by their names, synonyms and plurals.

    Args:
        names: for every object its name and synonyms, the name first.
    """

    def __init__(self, names: Iterable[Iterable[str]]) -> None:
        self._object_of: dict[str, str] = {}
        for first, *others in names:
            for word in (first, *others):
                for form in (word, *_plurals(word)):
                    self._object_of.setdefault(form.lower(), first)
        longest_first = sorted(self._object_of, key=len, reverse=True)  # "hot dog" is no dog
        self._pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, longest_first))})\b")

    @classmethod
    def load(cls, path: Path) -> "ObjectNames":
        """Read a list: an object a line, its name, then synonyms after commas; `#` begins a comment.

        Raises:
            DataError: the file is missing or names nothing.
        """
        try:
            lines = [line.partition("#")[0].split(",") for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"quality.objects: {path} cannot be read ({error}).") from None
        names = [[name.strip() for name in line if name.strip()] for line in lines]
        if not any(names):
            raise DataError(f"quality.objects: {path} names no object: write one a line, synonyms after commas.")
        return cls(line for line in names if line)

    def named_in(self, text: str) -> frozenset[str]:
        """The objects that a text names, each once."""
        return frozenset(self._object_of[form] for form in self._pattern.findall(text.lower()))


def support(named: Mapping[str, frozenset[str]]) -> dict[str, dict[str, float]]:
    """For each captioner and each object that it names: the share of the other captioners that name it, too.

    Args:
        named: the objects that each captioner names in one image.

    Returns:
        Shares in 0..1; empty for a captioner without any other beside it.
    """
    shares: dict[str, dict[str, float]] = {}
    for captioner, objects in named.items():
        others = [found for name, found in named.items() if name != captioner]
        shares[captioner] = {
            thing: sum(thing in found for found in others) / len(others) for thing in sorted(objects) if others
        }
    return shares


def overlap(first: frozenset[str], second: frozenset[str]) -> float | None:
    """Jaccard index of two sets of objects; None where both are empty."""
    return len(first & second) / len(first | second) if first | second else None


def consensus(named: Mapping[str, frozenset[str]]) -> frozenset[str]:
    """The objects that more than half of the captioners name."""
    every = frozenset().union(*named.values()) if named else frozenset()
    return frozenset(thing for thing in every if 2 * sum(thing in found for found in named.values()) > len(named))


def _plurals(word: str) -> tuple[str, ...]:
    if re.search(r"[^aeiou]y$", word):
        return (f"{word[:-1]}ies",)
    if re.search(r"(s|x|z|ch|sh)$", word):
        return (f"{word}es",)
    if word.endswith("fe"):
        return (f"{word[:-2]}ves", f"{word}s")
    return (f"{word}s",)
