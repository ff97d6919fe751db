"""Zero-shot classification: an image gets the class whose prompts lie nearest.

Shapes: N images, C classes, T = C x templates prompts, P patches an image, L tokens a prompt, D embedding width.
"""

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import normalize

from lotlip.errors import DataError, ShapeError
from lotlip.evaluation.retrieval import recall_percent
from lotlip.evaluation.scores import (
    TokenScores,
    block_size,
    check_device,
    check_finite,
    make_scores,
    round_up,
    score_block,
)

BLOCK = 1024  # images scored at once
PROMPTS = 8192  # embedded at once: texts of similar length fill a batch, and ImageNet has 80,000


def make_prompts(classes: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every class in every template: the first class in all of them, then the second, and so on.

    Raises:
        DataError: no class, no template, or a template without `{}`.
    """
    wrong = [template for template in templates if "{}" not in template]
    if not classes or not templates or wrong:
        raise DataError(
            f"{len(classes)} classes and {len(templates)} templates, {len(wrong)} of them without {{}}: "
            "zero-shot classification needs at least one of each, such as 'a photo of a {}.'"
        )
    return [template.replace("{}", name) for name in classes for template in templates]


def class_embeddings(
    encode_texts: Callable[[list[str]], Tensor], classes: Sequence[str], templates: Sequence[str]
) -> Tensor:
    """One embedding a class: the mean of its prompts' unit-length embeddings, brought back to unit length.

    Memory is O(C D), whatever the number of templates: about `PROMPTS` texts are embedded at once.

    Example: classes ("red circle",) and templates ("a {}.", "a picture of a {}.") give two prompts; their
    normalised mean is the class embedding.

    Args:
        encode_texts: maps a list of L texts to float [L, D], in order, of any length.
        classes: C names, put in place of `{}` in each template.
        templates: prompts with one `{}`.

    Returns:
        float32 [C, D], unit length.

    Raises:
        DataError: no class, no template, or a template without `{}`.

    Source: CLIP, arXiv:2103.00020, section 3.1.4.
    """
    prompts = make_prompts(classes, templates)
    each = len(templates)
    size = max(1, PROMPTS // each) * each
    means = []
    for start in range(0, len(prompts), size):
        each_LD = normalize(encode_texts(prompts[start : start + size]).float(), dim=-1)
        means.append(each_LD.reshape(-1, each, each_LD.shape[1]).mean(dim=1))
    return normalize(torch.cat(means), dim=-1)


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
        ShapeError: shapes or devices do not fit, or a label is out of range.
        ModelError: an embedding is not finite.
    """
    _check(image_ND, class_CD, label_N)
    num_columns = round_up(len(class_CD))
    blocks = (score_block(block_BD, class_CD, BLOCK, num_columns) for block_BD in torch.split(image_ND, BLOCK))
    return _accuracies(blocks, label_N.to(image_ND.device).long(), len(class_CD))


@torch.no_grad()
def zero_shot_token_metrics(
    image_NPD: Tensor,
    encode_tokens: Callable[[list[str]], tuple[Tensor, Tensor]],
    classes: Sequence[str],
    templates: Sequence[str],
    label_N: Tensor,
) -> dict[str, float | int]:
    """As `zero_shot_metrics`, by late interaction: a class scores the mean of an image's i2t scores with its prompts.

    Memory is O(N C), whatever the number of templates: about `PROMPTS` texts are embedded at once.

    Args:
        image_NPD: patch embeddings, float [N, P, D].
        encode_tokens: maps a list of T texts to token embeddings, float [T, L, D], and where there is a token, bool
            [T, L], in order.
        classes: C names, put in place of `{}` in each template.
        templates: prompts with one `{}`.
        label_N: the right class of each image, integer [N], values in [0, C).

    Raises:
        DataError: no class, no template, or a template without `{}`.
        ShapeError: shapes or devices do not fit, or a label is out of range.
        ModelError: an embedding is not finite.

    Source: FILIP, arXiv:2111.07783, section 3.3.
    """
    prompts, each = make_prompts(classes, templates), len(templates)
    _check_labels(label_N, len(image_NPD), len(classes))
    at_once = max(1, PROMPTS // each) * each
    scores_NC = image_NPD.new_empty(len(image_NPD), len(classes), dtype=torch.float32)
    for start in range(0, len(prompts), at_once):
        scores = make_scores(image_NPD, *encode_tokens(prompts[start : start + at_once]))
        assert isinstance(scores, TokenScores)
        first = start // each
        _fill(scores_NC[:, first : first + scores.num_texts // each], scores, each)
    return _accuracies(torch.split(scores_NC, BLOCK), label_N.to(image_NPD.device).long(), len(classes))


def _fill(target_NC: Tensor, scores: TokenScores, each: int) -> None:
    """Write the scores of images with classes of `each` prompts, whose tokens `scores` has."""
    size = block_size(scores)
    for i in range(0, scores.num_images, size):
        rows = slice(i, i + size)
        columns = [scores.block(rows, slice(t, t + size), size)[0] for t in range(0, scores.num_texts, size)]
        target_NC[rows] = torch.cat(columns, dim=1).reshape(-1, target_NC.shape[1], each).mean(dim=2)


def _accuracies(blocks: Iterable[Tensor], label_N: Tensor, num_classes: int) -> dict[str, float | int]:
    """Metrics of scores [B, C] of one block of images after another."""
    ranks, ties, start = [], [], 0
    for scores_BC in blocks:
        own_B1 = scores_BC.gather(1, label_N[start : start + len(scores_BC), None])
        ranks.append((scores_BC >= own_B1).sum(dim=1))
        ties.append((scores_BC == own_B1).sum(dim=1) > 1)
        start += len(scores_BC)
    all_ranks = torch.cat(ranks)
    return {
        "top1": recall_percent(all_ranks, 1),
        "top5": recall_percent(all_ranks, 5),
        "tied_queries": int(torch.cat(ties).sum()),
        "images": len(all_ranks),
        "classes": num_classes,
    }


def _check(image_ND: Tensor, class_CD: Tensor, label_N: Tensor) -> None:
    fits = image_ND.ndim == 2 and class_CD.ndim == 2 and image_ND.shape[1] == class_CD.shape[1]
    if not fits or label_N.shape != image_ND.shape[:1] or 0 in (*image_ND.shape, *class_CD.shape):
        raise ShapeError(
            f"images {tuple(image_ND.shape)}, classes {tuple(class_CD.shape)}, labels {tuple(label_N.shape)} "
            "do not fit: expected [N, D], [C, D] and [N], none of them empty."
        )
    _check_labels(label_N, len(image_ND), len(class_CD))
    check_device(image_ND, class_CD)
    check_finite(image_ND, "image")
    check_finite(class_CD, "class")


def _check_labels(label_N: Tensor, num_images: int, num_classes: int) -> None:
    if label_N.shape != (num_images,):
        raise ShapeError(
            f"labels {tuple(label_N.shape)} and {num_images} images do not fit: expected a label for each."
        )
    lowest, highest = int(label_N.min()), int(label_N.max())
    if lowest < 0 or highest >= num_classes:
        raise ShapeError(f"labels run from {lowest} to {highest}; expected 0 to {num_classes - 1}.")
