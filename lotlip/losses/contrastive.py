"""Softmax contrastive loss (InfoNCE) between images and their texts, the loss of CLIP and LiT.

Shapes: B images, N text slots an image, D shared width.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from lotlip.losses.tiles import Group, Tiles, tiled_loss


def contrastive_loss(
    image_BD: Tensor,
    text_BND: Tensor,
    scale: Tensor,
    weights: Sequence[float] = (1.0,),
    *,
    label_smoothing: float = 0.0,
    group: Group = None,
    tile_bytes: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Weighted sum over slots of the symmetric InfoNCE of each slot with the images.

    Slot n of image i meets only the n-th texts of the other images, so the texts of one image never compete.

    Args:
        image_BD: unit-length image embeddings, float [B, D].
        text_BND: unit-length text embeddings, float [B, N, D], N >= 1.
        scale: scalar inverse temperature (not its log), > 0.
        weights: of the N slots.
        label_smoothing: share in [0, 1) of the target spread evenly over all B.
        group, tile_bytes: see `tiled_loss`.

    Returns:
        The weighted sum (scalar) and (CE_i2t + CE_t2i) / 2 of each slot, [N], detached, in nats; ln(B) each
        when all embeddings are equal.

    Raises:
        ShapeError: B or D differ between the inputs, a dimension is empty, or processes differ in B.

    Source: CLIP, arXiv:2103.00020, fig. 3, for each slot.
    """
    slot_loss = partial(_slot_loss, label_smoothing=label_smoothing)
    return tiled_loss(image_BD, text_BND, scale, None, weights, slot_loss, group=group, tile_bytes=tile_bytes)


def _slot_loss(tiles: Tiles, weight: float, label_smoothing: float) -> Tensor:
    rows_lse, columns_lse, own = _log_sums(tiles)
    own_share, even_share = 1 - label_smoothing, label_smoothing / tiles.num_columns
    losses = rows_lse + columns_lse[tiles.own] - 2 * own_share * own
    if label_smoothing:
        all_images = tiles.sum_over_processes(tiles.image.sum(dim=0))
        sums = tiles.image @ tiles.text.sum(dim=0) + tiles.text[tiles.own] @ all_images
        losses = losses - even_share * tiles.scale * sums
    if weight:
        factor = weight / (2 * tiles.num_rows)
        for rows, logits in tiles:
            grad = (logits - rows_lse[rows, None]).exp_()
            grad += logits.sub_(columns_lse).exp_()
            grad -= 2 * even_share
            grad[torch.arange(len(grad), device=grad.device), tiles.own[rows]] -= 2 * own_share
            tiles.add_gradient(rows, grad.mul_(factor))
    return losses.mean() / 2


def _log_sums(tiles: Tiles) -> tuple[Tensor, Tensor, Tensor]:
    """Logarithms of the sums of exponentials over rows [b] and, of all processes, columns [B]; own logits [b]."""
    rows_lse, own = torch.empty_like(tiles.image[:, 0]), torch.empty_like(tiles.image[:, 0])
    highest, sums = torch.full_like(tiles.text[:, 0], -torch.inf), torch.zeros_like(tiles.text[:, 0])
    for rows, logits in tiles:
        rows_lse[rows] = logits.logsumexp(dim=1)
        own[rows] = logits.gather(1, tiles.own[rows, None])[:, 0]
        higher = torch.maximum(highest, logits.amax(dim=0))
        sums = sums * (highest - higher).exp() + (logits - higher).exp_().sum(dim=0)
        highest = higher
    highest_of_all = tiles.max_over_processes(highest)
    sums = tiles.sum_over_processes(sums * (highest - highest_of_all).exp())
    return rows_lse, highest_of_all + sums.log(), own
