"""What is found in raw captions of the web: markup, and their language."""

import html.entities
import re
from collections.abc import Callable, Sequence

from lotlip.errors import ParamsError

UNSURE = "unsure"  # no language is more likely than all others together

# "I <3 it" and "x < y" are no tags; a tag with more words than its name has an attribute with a value.
_MARKUP = re.compile(
    r"</?[a-z][a-z0-9]*(?:\s+[a-z-]+\s*=[^<>]*)?\s*/?>|<!--|<!doctype"
    r"|\bhttps?://\S|\bwww\.[^\s.]+\.\S|&(?:#\d+|#x[0-9a-f]+);",
    re.IGNORECASE,
)
_ENTITY = re.compile(r"&([A-Za-z][A-Za-z0-9]*;)")

# From texts to the likeliest language of each and the probability that it is in an allowed one.
FindLanguages = Callable[[Sequence[str]], list[tuple[str, float]]]


def has_markup(text: str) -> bool:
    """Whether HTML tags, character entities or web addresses are left in a text."""
    if _MARKUP.search(text):
        return True
    return any(name in html.entities.html5 for name in _ENTITY.findall(text))


def open_language_finder(allowed: Sequence[str]) -> FindLanguages:
    """A function that finds the languages of texts, by naive Bayes over byte sequences (py3langid, 140 languages).

    A word or two says little: the probabilities stay near 1/140 then. So a text is foreign only where the allowed
    languages together are next to impossible.

    Args:
        allowed: ISO 639-1 codes.

    Raises:
        ParamsError: a code is unknown.
    """
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    if unknown := set(allowed) - set(identifier.labels):
        known = ", ".join(sorted(identifier.labels))
        raise ParamsError(f"validate.raw.languages: {', '.join(sorted(unknown))} unknown; known are {known}.")

    def find_languages(texts: Sequence[str]) -> list[tuple[str, float]]:
        found = []
        for text in texts:
            ranked = identifier.rank(text)
            language, probability = ranked[0]
            of_allowed = sum(share for name, share in ranked if name in allowed)
            found.append((language if probability > 0.5 else UNSURE, of_allowed))
        return found

    return find_languages
