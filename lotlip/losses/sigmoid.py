"""Pairwise sigmoid loss, the loss of SigLIP: every image-text pair is a yes-or-no question of its own.

Shapes: B images, N text slots an image, D shared width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from lotlip.losses.tiles import Group, Tiles, tiled_loss


def sigmoid_loss(
    image_BD: Tensor,
    text_BND: Tensor,
    scale: Tensor,
    bias: Tensor,
    weights: Sequence[float] = (1.0,),
    *,
    group: Group = None,
    tile_bytes: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Weighted sum over slots of the pairwise sigmoid loss of each slot with the images.

    Args:
        image_BD: unit-length image embeddings, float [B, D].
        text_BND: unit-length text embeddings, float [B, N, D], N >= 1.
        scale: scalar inverse temperature (not its log), > 0.
        bias: scalar added to every logit; starts low, because nearly all pairs are wrong ones.
        weights: of the N slots.
        group, tile_bytes: see `tiled_loss`.

    Returns:
        The weighted sum (scalar) and of each slot -(1 / B) sum over i, j of log sigmoid(z_ij (scale x cosine +
        bias)), z = 1 for a pair and -1 otherwise, [N], detached, in nats.

    Raises:
        ShapeError: B or D differ between the inputs, a dimension is empty, or processes differ in B.

    Source: SigLIP, arXiv:2303.15343, equation 1.
    """
    return tiled_loss(image_BD, text_BND, scale, bias, weights, _slot_loss, group=group, tile_bytes=tile_bytes)


def _slot_loss(tiles: Tiles, weight: float) -> Tensor:
    total = torch.zeros_like(tiles.scale)
    for rows, logits in tiles:
        own = (torch.arange(len(logits), device=logits.device), tiles.own[rows])
        # A wrong pair costs -log sigmoid(-logit), a right one -log sigmoid(logit): less by the logit.
        total -= functional.logsigmoid(-logits).sum() + logits[own].sum()
        if weight:
            grad = logits.sigmoid_()
            grad[own] -= 1
            tiles.add_gradient(rows, grad.mul_(weight / tiles.num_rows))
    return total / tiles.num_rows
