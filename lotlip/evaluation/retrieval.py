"""Image-text retrieval: recall at k and median rank, both ways, with several correct texts an image.

Shapes: I images, T texts, D embedding width, B block of the score matrix.

Ranks are strict: a wrong item that scores exactly as high as the correct one comes first, and such tied
queries are counted, so that a collapsed model (all embeddings equal) gets 0, not 100. Scores are float32
whatever the embeddings are: in bfloat16 a third of the queries tie.
"""

from typing import Any

import torch
from torch import Tensor

from lotlip.errors import ModelError, ShapeError

RECALL_AT = (1, 5, 10)
BLOCK = 1024  # rows and columns scored at once: 4 MB of scores, more is no faster on a CPU


def retrieval_metrics(image_ID: Tensor, text_TD: Tensor, image_of_text_T: Tensor) -> dict[str, float | int]:
    """Recall in percent, median rank and tied queries, image to text (I2T) and text to image (T2I).

    The score of image i and text t is the dot product `image_ID[i] @ text_TD[t]`. An image's rank is that of
    its best text: 1 + the number of texts of other images that score at least as high. A text's rank is
    1 + the number of other images that score at least as high as its own. Blocks of B x B scores are made and
    dropped, the full I x T matrix never exists: memory is O((I + T) D + B^2).

    Example: two images, texts 0 and 1 belong to image 0, text 2 to image 1, with scores

                  text 0  text 1  text 2
        image 0     .9      .2      .5        best own text .9, beaten by none: rank 1
        image 1     .6      .1      .4        own text .4, beaten by text 0:    rank 2
        T2I rank     1       1       2        (text 2 prefers image 0)

    so `i2t_r1` = 50, `t2i_r1` = 66.7, and both are 100 at 5.

    Args:
        image_ID: image embeddings, float [I, D], I >= 1; unit length for cosine similarity.
        text_TD: text embeddings, float [T, D], T >= 1, on the same device.
        image_of_text_T: the image of each text, integer [T] in [0, I), every image at least once.

    Returns:
        `i2t_r1, i2t_r5, i2t_r10, t2i_r1, t2i_r5, t2i_r10` in percent, `i2t_median_rank, t2i_median_rank`,
        `tied_queries` (I2T and T2I together, at most I + T), `images` (I), `texts` (T).

    Raises:
        ShapeError: shapes do not fit, an index is out of range, or an image has no text.
        ModelError: an embedding is not finite (comparisons with NaN would pass for perfect ranks).
    """
    _check(image_ID, text_TD, image_of_text_T)
    ranks_I, ranks_T, num_tied = retrieval_ranks(image_ID, text_TD, image_of_text_T)
    metrics = {f"i2t_r{k}": recall_percent(ranks_I, k) for k in RECALL_AT}
    metrics |= {f"t2i_r{k}": recall_percent(ranks_T, k) for k in RECALL_AT}
    return metrics | {
        "i2t_median_rank": _median(ranks_I),
        "t2i_median_rank": _median(ranks_T),
        "tied_queries": num_tied,
        "images": len(image_ID),
        "texts": len(text_TD),
    }


@torch.no_grad()
def retrieval_ranks(
    image_ID: Tensor, text_TD: Tensor, image_of_text_T: Tensor, block: int = BLOCK
) -> tuple[Tensor, Tensor, int]:
    """Strict ranks of I2T (int64 [I]) and T2I (int64 [T]), from 1, and the number of tied queries.

    Ties are exact only if equal pairs get equal scores wherever they stand: see `score_block`.
    """
    block = min(block, round_up(max(len(image_ID), len(text_TD))))
    images, texts, owner_T = image_ID.float(), text_TD.float(), image_of_text_T.to(image_ID.device).long()
    own_T = _own_scores(images, texts, owner_T, block)
    best_I = own_T.new_full((len(images),), -torch.inf).scatter_reduce(0, owner_T, own_T, "amax")
    above_I, tied_I = _zeros(len(images), own_T), _zeros(len(images), own_T)
    above_T, tied_T = _zeros(len(texts), own_T), _zeros(len(texts), own_T)
    for i in range(0, len(images), block):
        for t in range(0, len(texts), block):
            scores_BB = score_block(images[i : i + block], texts[t : t + block], block, block)
            _hide_own(scores_BB, owner_T[t : t + block] - i)
            rows, columns = slice(i, i + scores_BB.shape[0]), slice(t, t + scores_BB.shape[1])
            _count(scores_BB, best_I[rows, None], 1, above_I[rows], tied_I[rows])
            _count(scores_BB, own_T[None, columns], 0, above_T[columns], tied_T[columns])
    num_tied = int((tied_I > 0).sum() + (tied_T > 0).sum())
    return 1 + above_I + tied_I, 1 + above_T + tied_T, num_tied


def recall_percent(ranks: Tensor, k: int) -> float:
    """Percent of ranks (from 1) that are at most k."""
    return 100 * int((ranks <= k).sum()) / len(ranks)


def check_finite(embeddings: Tensor, what: str) -> None:
    """Raise ModelError if any value is NaN or infinite."""
    if not bool(torch.isfinite(embeddings).all()):
        bad = int((~torch.isfinite(embeddings)).any(dim=-1).sum())
        raise ModelError(
            f"{bad} of {len(embeddings)} {what} embeddings are NaN or infinite: its training diverged. "
            "Look at its loss curve and train it again with a lower learning rate."
        )


def score_block(rows_RD: Tensor, columns_CD: Tensor, num_rows: int, num_columns: int) -> Tensor:
    """Dot products [R, C] in float32, computed as [num_rows, num_columns], padded with zeros.

    Products of one shape run the same kernel, which sums in the same order: equal pairs get equal scores.
    """
    with torch.autocast(rows_RD.device.type, enabled=False):
        scores = _pad(rows_RD.float(), num_rows) @ _pad(columns_CD.float(), num_columns).T
    return scores[: len(rows_RD), : len(columns_CD)]


def round_up(value: int, multiple: int = 64) -> int:
    """The next multiple of `multiple`, at least `value`."""
    return -(-value // multiple) * multiple


def _own_scores(images: Tensor, texts: Tensor, owner_T: Tensor, block: int) -> Tensor:
    parts = []
    for t in range(0, len(texts), block):
        scores = score_block(images[owner_T[t : t + block]], texts[t : t + block], block, block)
        parts.append(scores.diagonal())
    return torch.cat(parts)


def _hide_own(scores_BB: Tensor, row_of_column: Tensor) -> None:
    """Set the scores of correct pairs to -inf, in place, so that only wrong pairs are counted."""
    columns = torch.nonzero((row_of_column >= 0) & (row_of_column < scores_BB.shape[0])).squeeze(1)
    scores_BB[row_of_column[columns], columns] = -torch.inf


def _count(scores_BB: Tensor, own: Tensor, dim: int, above: Tensor, tied: Tensor) -> None:
    # int32 sums of booleans run 2 to 20 times faster than count_nonzero or int64 sums (torch 2.13, CPU).
    above += (scores_BB > own).sum(dim, dtype=torch.int32)
    tied += (scores_BB == own).sum(dim, dtype=torch.int32)


def _zeros(length: int, like: Tensor) -> Tensor:
    return torch.zeros(length, dtype=torch.int64, device=like.device)


def _pad(rows: Tensor, block: int) -> Tensor:
    missing = block - len(rows)
    return rows if missing == 0 else torch.cat([rows, rows.new_zeros(missing, rows.shape[1])])


def _median(ranks: Tensor) -> float:
    ordered: Any = torch.sort(ranks).values
    middle = len(ordered) // 2
    low = ordered[middle] if len(ordered) % 2 else ordered[middle - 1]
    return (int(low) + int(ordered[middle])) / 2


def _check(image_ID: Tensor, text_TD: Tensor, image_of_text_T: Tensor) -> None:
    shapes = ", ".join(str(tuple(each.shape)) for each in (image_ID, text_TD, image_of_text_T))
    fits = image_ID.ndim == 2 and text_TD.ndim == 2 and image_ID.shape[1] == text_TD.shape[1]
    if not fits or image_of_text_T.shape != text_TD.shape[:1] or 0 in (*image_ID.shape, *text_TD.shape):
        raise ShapeError(
            f"images, texts and owners {shapes} do not fit: expected [I, D], [T, D], [T], none of them empty."
        )
    if image_of_text_T.is_floating_point() or image_of_text_T.dtype == torch.bool:
        raise ShapeError(f"image_of_text is {image_of_text_T.dtype}; expected an integer index of images.")
    lowest, highest = int(image_of_text_T.min()), int(image_of_text_T.max())
    if lowest < 0 or highest >= len(image_ID):
        raise ShapeError(f"image_of_text runs from {lowest} to {highest}; expected 0 to {len(image_ID) - 1}.")
    num_without = int((torch.bincount(image_of_text_T, minlength=len(image_ID)) == 0).sum())
    if num_without:
        raise ShapeError(f"{num_without} of {len(image_ID)} images have no text: leave them out.")
    check_finite(image_ID, "image")
    check_finite(text_TD, "text")
