"""Image-text retrieval: recall at k and median rank, both ways, with several correct texts an image.

Shapes: I images, T texts, D embedding width, B block of the score matrix.

Ranks are strict: a wrong item that scores exactly as high as the correct one comes first, and such tied
queries are counted, so that a collapsed model (all embeddings equal) gets 0, not 100; or chance where it embeds equal
inputs of batches of other sizes, which rounding tells apart.
"""

from typing import Any

import torch
from torch import Tensor

from lotlip.errors import ShapeError
from lotlip.evaluation.scores import Scores, block_size, make_scores

RECALL_AT = (1, 5, 10)


def retrieval_metrics(
    image: Tensor, text: Tensor, image_of_text_T: Tensor, keep_TL: Tensor | None = None
) -> dict[str, float | int]:
    """Recall in percent, median rank and tied queries, image to text (I2T) and text to image (T2I).

    The score of image i and text t is their dot product `image[i] @ text[t]`, or with `keep_TL` FILIP's late
    interaction, which has one score to rank texts and another to rank images. An image's rank is that of its best
    text: 1 + the number of texts of other images that score at least as high. A text's rank is 1 + the number of
    other images that score at least as high as its own. Blocks of B x B scores are made and dropped, the full I x T
    matrix never exists: memory is O((I + T) D + B^2).

    Example: two images, texts 0 and 1 belong to image 0, text 2 to image 1, with scores

                  text 0  text 1  text 2
        image 0     .9      .2      .5        best own text .9, beaten by none: rank 1
        image 1     .6      .1      .4        own text .4, beaten by text 0:    rank 2
        T2I rank     1       1       2        (text 2 prefers image 0)

    so `i2t_r1` = 50, `t2i_r1` = 66.7, and both are 100 at 5.

    Args:
        image: image embeddings, float [I, D], I >= 1, of unit length for cosine similarity; or patches [I, P, D].
        text: text embeddings, float [T, D], T >= 1, on the same device; or tokens [T, L, D].
        image_of_text_T: the image of each text, integer [T] in [0, I), every image at least once.
        keep_TL: where there is a token, bool [T, L]; None for embeddings of whole texts.

    Returns:
        `i2t_r1, i2t_r5, i2t_r10, t2i_r1, t2i_r5, t2i_r10` in percent, `i2t_median_rank, t2i_median_rank`,
        `tied_queries` (I2T and T2I together, at most I + T), `images` (I), `texts` (T).

    Raises:
        ShapeError: shapes or devices do not fit, an index is out of range, an image has no text or a text no token.
        ModelError: an embedding is not finite (comparisons with NaN would pass for perfect ranks).
    """
    scores = make_scores(image, text, keep_TL)
    ranks_I, ranks_T, num_tied = retrieval_ranks(scores, image_of_text_T)
    metrics = {f"i2t_r{k}": recall_percent(ranks_I, k) for k in RECALL_AT}
    metrics |= {f"t2i_r{k}": recall_percent(ranks_T, k) for k in RECALL_AT}
    return metrics | {
        "i2t_median_rank": _median(ranks_I),
        "t2i_median_rank": _median(ranks_T),
        "tied_queries": num_tied,
        "images": scores.num_images,
        "texts": scores.num_texts,
    }


@torch.no_grad()
def retrieval_ranks(scores: Scores, image_of_text_T: Tensor, block: int | None = None) -> tuple[Tensor, Tensor, int]:
    """Strict ranks of I2T (int64 [I]) and T2I (int64 [T]), from 1, and the number of tied queries.

    Errors are those of `retrieval_metrics`; `block` rows and columns are scored at once.
    """
    _check(scores, image_of_text_T)
    num_images, num_texts = scores.num_images, scores.num_texts
    size = block_size(scores, block)
    owner_T = image_of_text_T.to(scores.device).long()
    own_i2t_T, own_t2i_T = _own_scores(scores, owner_T, size)
    best_I = own_i2t_T.new_full((num_images,), -torch.inf).scatter_reduce(0, owner_T, own_i2t_T, "amax")
    above_I, tied_I = _zeros(num_images, best_I), _zeros(num_images, best_I)
    above_T, tied_T = _zeros(num_texts, best_I), _zeros(num_texts, best_I)
    for i in range(0, num_images, size):
        for t in range(0, num_texts, size):
            rows, columns = slice(i, min(i + size, num_images)), slice(t, min(t + size, num_texts))
            i2t_BB, t2i_BB = scores.block(rows, columns, size)
            for each in (i2t_BB, t2i_BB):
                _hide_own(each, owner_T[columns] - i)
            _count(i2t_BB, best_I[rows, None], 1, above_I[rows], tied_I[rows])
            _count(t2i_BB, own_t2i_T[None, columns], 0, above_T[columns], tied_T[columns])
    num_tied = int((tied_I > 0).sum() + (tied_T > 0).sum())
    return 1 + above_I + tied_I, 1 + above_T + tied_T, num_tied


def recall_percent(ranks: Tensor, k: int) -> float:
    """Percent of ranks (from 1) that are at most k."""
    return 100 * int((ranks <= k).sum()) / len(ranks)


def _own_scores(scores: Scores, owner_T: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """I2T and T2I scores of each text with its own image, [T] each."""
    parts = []
    for t in range(0, len(owner_T), size):
        both = scores.block(owner_T[t : t + size], slice(t, t + size), size)
        parts.append(torch.stack([each.diagonal() for each in both]))
    i2t_T, t2i_T = torch.cat(parts, dim=1)
    return i2t_T, t2i_T


def _hide_own(scores_BB: Tensor, row_of_column: Tensor) -> None:
    """Set the scores of correct pairs to -inf, in place, so that only wrong pairs are counted."""
    # Every column is written to, at a row of its own, as a choice of columns would make a GPU wait for the CPU.
    row = row_of_column.clamp(0, len(scores_BB) - 1)[None]
    hidden = scores_BB.gather(0, row).masked_fill(row == row_of_column, -torch.inf)
    scores_BB.scatter_(0, row, hidden)


def _count(scores_BB: Tensor, own: Tensor, dim: int, above: Tensor, tied: Tensor) -> None:
    # Comparisons into float32 and its sums take a third of the time of booleans (torch 2.13, CPU), and are as exact
    # up to 2^24 rows.
    found = torch.empty_like(scores_BB)
    above += torch.gt(scores_BB, own, out=found).sum(dim).long()
    tied += torch.eq(scores_BB, own, out=found).sum(dim).long()


def _zeros(length: int, like: Tensor) -> Tensor:
    return torch.zeros(length, dtype=torch.int64, device=like.device)


def _median(ranks: Tensor) -> float:
    ordered: Any = torch.sort(ranks).values
    middle = len(ordered) // 2
    low = ordered[middle] if len(ordered) % 2 else ordered[middle - 1]
    return (int(low) + int(ordered[middle])) / 2


def _check(scores: Scores, image_of_text_T: Tensor) -> None:
    num_images, shape = scores.num_images, tuple(image_of_text_T.shape)
    if shape != (scores.num_texts,):
        raise ShapeError(f"owners {shape} and {scores.num_texts} texts do not fit: expected the image of each text.")
    if image_of_text_T.is_floating_point() or image_of_text_T.dtype == torch.bool:
        raise ShapeError(f"image_of_text is {image_of_text_T.dtype}; expected an integer index of images.")
    lowest, highest = int(image_of_text_T.min()), int(image_of_text_T.max())
    if lowest < 0 or highest >= num_images:
        raise ShapeError(f"image_of_text runs from {lowest} to {highest}; expected 0 to {num_images - 1}.")
    num_without = int((torch.bincount(image_of_text_T, minlength=num_images) == 0).sum())
    if num_without:
        raise ShapeError(f"{num_without} of {num_images} images have no text: leave them out.")
