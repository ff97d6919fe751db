"""Sub-captions: the pieces of a long text that training draws and statistics count.

Source: METHOD "Long texts"; the split is DreamLIP's (arXiv:2403.17007), the joining LoTLIP's evaluation code.
"""

import re

_BOUNDARY = re.compile(r"\n|</s>|\.")


def split_sub_captions(text: str) -> list[str]:
    """The non-empty pieces of `text` between newlines, `</s>` and full stops, stripped, in order.

    `"A dog. It runs.\\nGrass"` gives `["A dog", "It runs", "Grass"]`; a text of separators gives `[]`.
    """
    return [piece for part in _BOUNDARY.split(text) if (piece := part.strip())]


def join_sub_captions(pieces: list[str]) -> str:
    """Sub-captions as one text, joined by `". "`, which the tokenizer turns into separator tokens."""
    return ". ".join(pieces)


def normalize_long(text: str) -> str:
    """A long text as evaluation reads it: split into sub-captions and joined by `". "`."""
    return join_sub_captions(split_sub_captions(text))
