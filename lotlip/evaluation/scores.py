"""Scores of images and texts, block by block: cosines of one vector each, or late interaction of their tokens.

Shapes: I images, T texts, P patches, L tokens, D embedding width, B side of a block.

Scores are float32 whatever the embeddings are: in bfloat16 a third of the queries tie. Blocks are padded to one shape,
since products of one shape run the same kernel, which sums in the same order: equal pairs get equal scores wherever
they stand, and ties are exact.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from lotlip.errors import ModelError, ShapeError
from lotlip.losses.late_interaction import late_interaction_scores

Index = slice | Tensor


class Scores(Protocol):
    """Scores of all pairs, of which only blocks ever exist."""

    @property
    def num_images(self) -> int:
        """I."""

    @property
    def num_texts(self) -> int:
        """T."""

    @property
    def device(self) -> torch.device:
        """Where scores are computed."""

    @property
    def max_block(self) -> int:
        """The largest B that is worth its memory."""

    def block(self, images: Index, texts: Index, size: int) -> tuple[Tensor, Tensor]:
        """Scores of at most `size` images with at most `size` texts, [B, B'] each, which the caller may overwrite.

        The first rank texts for an image, the second images for a text; for cosines they are one tensor.
        """


@dataclass(frozen=True)
class CosineScores:
    """Dot products of image embeddings [I, D] and text embeddings [T, D]."""

    image_ID: Tensor
    text_TD: Tensor
    max_block: int = 1024  # 4 MB of scores; more is no faster on a CPU

    @property
    def num_images(self) -> int:
        return len(self.image_ID)

    @property
    def num_texts(self) -> int:
        return len(self.text_TD)

    @property
    def device(self) -> torch.device:
        return self.image_ID.device

    def block(self, images: Index, texts: Index, size: int) -> tuple[Tensor, Tensor]:
        scores = score_block(self.image_ID[images], self.text_TD[texts], size, size)
        return scores, scores


@dataclass(frozen=True)
class TokenScores:
    """Late interaction of patches [I, P, D] with tokens [T, L, D], of which `keep` [T, L] are there."""

    image_IPD: Tensor
    text_TLD: Tensor
    keep_TL: Tensor
    max_block: int = 64  # 64 x 64 pairs of 196 patches and 77 tokens: 250 MB of similarities

    @property
    def num_images(self) -> int:
        return len(self.image_IPD)

    @property
    def num_texts(self) -> int:
        return len(self.text_TLD)

    @property
    def device(self) -> torch.device:
        return self.image_IPD.device

    def block(self, images: Index, texts: Index, size: int) -> tuple[Tensor, Tensor]:
        patches, tokens, keep = self.image_IPD[images].float(), self.text_TLD[texts].float(), self.keep_TL[texts]
        keep_padded = _pad(keep, size)
        keep_padded[len(keep) :, 0] = True  # a text needs a token; these rows are cut off below
        with torch.autocast(self.device.type, enabled=False):
            i2t, t2i = late_interaction_scores(_pad(patches, size), _pad(tokens, size), keep_padded)
        return i2t[: len(patches), : len(tokens)], t2i[: len(patches), : len(tokens)]


def make_scores(image: Tensor, text: Tensor, keep_TL: Tensor | None) -> Scores:
    """Cosines of [I, D] and [T, D], or late interaction of [I, P, D] and [T, L, D] where there is a `keep_TL`.

    Raises:
        ShapeError: shapes do not fit.
        ModelError: an embedding is not finite (comparisons with NaN would pass for perfect ranks).
    """
    dims = 2 if keep_TL is None else 3
    fits = image.ndim == text.ndim == dims and image.shape[-1] == text.shape[-1]
    if not fits or 0 in (*image.shape, *text.shape) or (keep_TL is not None and keep_TL.shape != text.shape[:2]):
        expected = "[I, D] and [T, D]" if keep_TL is None else "[I, P, D] and [T, L, D] with a mask [T, L]"
        raise ShapeError(
            f"images {tuple(image.shape)} and texts {tuple(text.shape)} do not fit: expected {expected}, "
            "none of them empty."
        )
    check_finite(image, "image")
    check_finite(text, "text")
    return CosineScores(image, text) if keep_TL is None else TokenScores(image, text, keep_TL)


def score_block(rows_RD: Tensor, columns_CD: Tensor, num_rows: int, num_columns: int) -> Tensor:
    """Dot products [R, C] in float32, computed as [num_rows, num_columns], padded with zeros."""
    with torch.autocast(rows_RD.device.type, enabled=False):
        scores = _pad(rows_RD.float(), num_rows) @ _pad(columns_CD.float(), num_columns).T
    return scores[: len(rows_RD), : len(columns_CD)]


def check_finite(embeddings: Tensor, what: str) -> None:
    """Raise ModelError if any value is NaN or infinite."""
    if not bool(torch.isfinite(embeddings).all()):
        bad = int((~torch.isfinite(embeddings)).flatten(1).any(dim=1).sum())
        raise ModelError(
            f"{bad} of {len(embeddings)} {what} embeddings are NaN or infinite: its training diverged. "
            "Look at its loss curve and train it again with a lower learning rate."
        )


def round_up(value: int, multiple: int = 64) -> int:
    """The next multiple of `multiple`, at least `value`."""
    return -(-value // multiple) * multiple


def _pad(rows: Tensor, size: int) -> Tensor:
    missing = size - len(rows)
    return rows if missing == 0 else torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])])
