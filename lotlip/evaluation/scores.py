"""Scores of images and texts, block by block: cosines of one vector each, or late interaction of their tokens.

Shapes: I images, T texts, P patches, L tokens, D embedding width, B side of a block.

Embeddings may be of any float type and lie in a file (`torch.from_file`): what a block needs is read and made float32.
Scores are float32 whatever the embeddings are, within autocast and where products of float32 are allowed TF32 or
bfloat16: in bfloat16 a third of the queries tie. Blocks are padded to one shape, since products of one shape run the
same kernel, which sums in the same order: equal pairs get equal scores wherever they stand, and ties are exact.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import isqrt
from typing import Any, Protocol

import torch
from torch import Tensor

from lotlip.errors import ModelError, ShapeError
from lotlip.losses.late_interaction import block_scores

Index = slice | Tensor

# Sides of blocks, which caches decide on a CPU, and the costs of starting a kernel on a GPU.
_COSINES = {"cpu": 1024, "cuda": 8192}  # scores of 4 MB and 256 MB
_SIMILARITY_BYTES = {"cpu": 16 * 2**20, "cuda": 512 * 2**20}
_CHECKED = 2**22  # numbers looked at at once


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

    @property
    def num_images(self) -> int:
        return len(self.image_ID)

    @property
    def num_texts(self) -> int:
        return len(self.text_TD)

    @property
    def device(self) -> torch.device:
        return self.image_ID.device

    @property
    def max_block(self) -> int:
        return _COSINES["cpu" if self.device.type == "cpu" else "cuda"]

    def block(self, images: Index, texts: Index, size: int) -> tuple[Tensor, Tensor]:
        scores = score_block(self.image_ID[images], self.text_TD[texts], size, size)
        return scores, scores


@dataclass(frozen=True)
class TokenScores:
    """Late interaction of patches [I, P, D] with tokens [T, L, D], of which `keep` [T, L] are there."""

    image_IPD: Tensor
    text_TLD: Tensor
    keep_TL: Tensor

    @property
    def num_images(self) -> int:
        return len(self.image_IPD)

    @property
    def num_texts(self) -> int:
        return len(self.text_TLD)

    @property
    def device(self) -> torch.device:
        return self.image_IPD.device

    @property
    def max_block(self) -> int:
        similarities = _SIMILARITY_BYTES["cpu" if self.device.type == "cpu" else "cuda"] // 4
        pairs = similarities // (self.image_IPD.shape[1] * self.text_TLD.shape[1])
        return max(16, isqrt(pairs) // 16 * 16)

    def block(self, images: Index, texts: Index, size: int) -> tuple[Tensor, Tensor]:
        patches, tokens, keep = self.image_IPD[images].float(), self.text_TLD[texts].float(), self.keep_TL[texts]
        with _exact_float32(self.device):
            i2t, t2i = block_scores(_pad(patches, size), _pad(tokens, size), _pad(keep, size))
        return i2t[: len(patches), : len(tokens)], t2i[: len(patches), : len(tokens)]


def make_scores(image: Tensor, text: Tensor, keep_TL: Tensor | None) -> Scores:
    """Cosines of [I, D] and [T, D], or late interaction of [I, P, D] and [T, L, D] where there is a `keep_TL`.

    Raises:
        ShapeError: shapes or devices do not fit, or a text has no token.
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
    check_device(image, text)
    check_finite(image, "image")
    check_finite(text, "text")
    if keep_TL is None:
        return CosineScores(image, text)
    keep_TL = keep_TL.to(text.device)
    num_without = int((~keep_TL.any(dim=1)).sum())
    if num_without:
        raise ShapeError(f"{num_without} of {len(text)} texts have no token: leave them out.")
    longest = 1 + int(keep_TL.any(dim=0).nonzero().max())
    return TokenScores(image, text[:, :longest], keep_TL[:, :longest])


def block_size(scores: Scores, largest: int | None = None) -> int:
    """B: at most `largest`, or what is worth its memory; as much smaller as leaves the last block little padding."""
    largest = largest or scores.max_block
    most = max(scores.num_images, scores.num_texts)
    num_blocks = -(-most // largest)
    return min(largest, round_up(-(-most // num_blocks)))


def score_block(rows_RD: Tensor, columns_CD: Tensor, num_rows: int, num_columns: int) -> Tensor:
    """Dot products [R, C] in float32, computed as [num_rows, num_columns], padded with zeros."""
    with _exact_float32(rows_RD.device):
        scores = _pad(rows_RD.float(), num_rows) @ _pad(columns_CD.float(), num_columns).T
    return scores[: len(rows_RD), : len(columns_CD)]


def check_device(image: Tensor, other: Tensor) -> None:
    """Raise ShapeError if embeddings are on two devices."""
    if image.device != other.device:
        raise ShapeError(f"images are on {image.device}, what they meet on {other.device}: move one to the other.")


def check_finite(embeddings: Tensor, what: str) -> None:
    """Raise ModelError if any value is NaN or infinite."""
    num_rows = max(1, _CHECKED // embeddings[0].numel())  # a part at a time: isfinite makes a copy
    bad = torch.zeros((), dtype=torch.int64, device=embeddings.device)
    for part in torch.split(embeddings, num_rows):
        bad += (~torch.isfinite(part)).flatten(1).any(dim=1).sum()
    if bad:
        raise ModelError(
            f"{int(bad)} of {len(embeddings)} {what} embeddings are NaN or infinite: its training diverged. "
            "Look at its loss curve and train it again with a lower learning rate."
        )


def round_up(value: int, multiple: int = 64) -> int:
    """The next multiple of `multiple`, at least `value`."""
    return -(-value // multiple) * multiple


@contextmanager
def _exact_float32(device: torch.device) -> Iterator[None]:
    """Within it products of float32 are computed in float32; afterwards as before.

    Torch has an older switch and newer ones, which the older sets too: it is the older that is turned, lest they
    contradict each other, and all are put back.
    """
    backends: Any = torch.backends
    newer = (backends.cuda.matmul, backends.mkldnn.matmul)
    before = [backend.fp32_precision for backend in newer]
    try:
        precision = torch.get_float32_matmul_precision()
    except RuntimeError:  # the newer ones were turned, and torch no longer says where the older stands: its default
        precision = "highest"
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        for backend, value in zip(newer, before, strict=True):
            backend.fp32_precision = value


def _pad(rows: Tensor, size: int) -> Tensor:
    missing = size - len(rows)
    return rows if missing == 0 else torch.cat([rows, rows.new_zeros(missing, *rows.shape[1:])])
