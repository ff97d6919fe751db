"""Zero-shot classification: an image gets the class whose prompts lie nearest.

Shapes: N images, C classes, P prompt templates, D embedding width.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lotlip.errors import DataError, ShapeError
from lotlip.evaluation.retrieval import check_finite, recall_percent, round_up, score_block

BLOCK = 1024  # images scored at once


def class_embeddings(
    encode_texts: Callable[[list[str]], Tensor], classes: Sequence[str], templates: Sequence[str]
) -> Tensor:
    """One embedding a class: the mean of its prompts' unit-length embeddings, brought back to unit length.

    Example: classes ("red circle",) and templates ("a {}.", "a picture of a {}.") give two prompts; their
    normalised mean is the class embedding.

    Args:
        encode_texts: maps a list of L texts to float [L, D], in order, of any length.
        classes: C names, put in place of `{}` in each template.
        templates: P prompts with one `{}`.

    Returns:
        float32 [C, D], unit length.

    Raises:
        DataError: no class, no template, or a template without `{}`.

    Source: CLIP, arXiv:2103.00020, section 3.1.4.
    """
    wrong = [template for template in templates if "{}" not in template]
    if not classes or not templates or wrong:
        raise DataError(
            f"{len(classes)} classes and {len(templates)} templates, {len(wrong)} of them without {{}}: "
            "zero-shot classification needs at least one of each, such as 'a photo of a {}.'"
        )
    prompts = [template.replace("{}", name) for name in classes for template in templates]
    each_LD = normalize(encode_texts(prompts).float(), dim=-1)
    each_CPD = each_LD.reshape(len(classes), len(templates), -1)
    return normalize(each_CPD.mean(dim=1), dim=-1)


@torch.no_grad()
def zero_shot_metrics(image_ND: Tensor, class_CD: Tensor, label_N: Tensor) -> dict[str, float | int]:
    """Top-1 and top-5 accuracy in percent, strict: a wrong class that ties with the right one comes first.

    Example: an image scores its own class .7 and others .9, .7, .1: one is higher and one equal, so its rank
    is 3, a miss at 1 and a hit at 5; it counts as one tied query.

    Args:
        image_ND: image embeddings, float [N, D], N >= 1.
        class_CD: class embeddings, float [C, D], from `class_embeddings`.
        label_N: the right class of each image, integer [N], values in [0, C).

    Returns:
        `top1`, `top5` (100 where C <= 5), `tied_queries`, `images` (N), `classes` (C).

    Raises:
        ShapeError: shapes do not fit or a label is out of range.
        ModelError: an embedding is not finite.
    """
    _check(image_ND, class_CD, label_N)
    label_N = label_N.to(image_ND.device).long()
    ranks, ties = [], []
    num_columns = round_up(len(class_CD))
    for start in range(0, len(image_ND), BLOCK):
        scores_BC = score_block(image_ND[start : start + BLOCK], class_CD, BLOCK, num_columns)
        own_B1 = scores_BC.gather(1, label_N[start : start + BLOCK, None])
        ranks.append((scores_BC >= own_B1).sum(dim=1))
        ties.append((scores_BC == own_B1).sum(dim=1) > 1)
    all_ranks = torch.cat(ranks)
    return {
        "top1": recall_percent(all_ranks, 1),
        "top5": recall_percent(all_ranks, 5),
        "tied_queries": int(torch.cat(ties).sum()),
        "images": len(image_ND),
        "classes": len(class_CD),
    }


def _check(image_ND: Tensor, class_CD: Tensor, label_N: Tensor) -> None:
    fits = image_ND.ndim == 2 and class_CD.ndim == 2 and image_ND.shape[1] == class_CD.shape[1]
    if not fits or label_N.shape != image_ND.shape[:1] or 0 in (*image_ND.shape, *class_CD.shape):
        raise ShapeError(
            f"images {tuple(image_ND.shape)}, classes {tuple(class_CD.shape)}, labels {tuple(label_N.shape)} "
            "do not fit: expected [N, D], [C, D] and [N], none of them empty."
        )
    lowest, highest = int(label_N.min()), int(label_N.max())
    if lowest < 0 or highest >= len(class_CD):
        raise ShapeError(f"labels run from {lowest} to {highest}; expected 0 to {len(class_CD) - 1}.")
    check_finite(image_ND, "image")
    check_finite(class_CD, "class")
