"""LoTLIP's loss over one raw caption and several long-text features of each image.

Shapes: N text slots an image; slot 0 is the raw caption, the others belong to long texts.
"""

import torch
from torch import Tensor

from lotlip.errors import ParamsError
from lotlip.losses.contrastive import contrastive_loss_per_slot


def multi_caption_loss(
    image_BD: Tensor, text_BND: Tensor, scale: Tensor, *, weight_raw: float = 1.0, weight_long: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Weighted mean of the symmetric InfoNCE losses of all slots.

    L = [w_raw * (CE_i2t + CE_t2i)(raw) + w_long * sum over the other slots of (CE_i2t + CE_t2i)] / (2N).

    Args:
        image_BD: unit-length image embeddings, float [B, D].
        text_BND: unit-length text embeddings, float [B, N, D], N >= 1, the raw caption first.
        scale: scalar inverse temperature, > 0.
        weight_raw: w_raw >= 0.
        weight_long: w_long >= 0.

    Returns:
        L (scalar, in nats) and the unweighted loss of each slot [N], detached.

    Raises:
        ShapeError: the embeddings do not fit each other.
        ParamsError: the weights leave nothing to train on.

    Source: LoTLIP, arXiv:2410.05249; the released training code's averaging.
    """
    losses_N = contrastive_loss_per_slot(image_BD, text_BND, scale)
    has_long = len(losses_N) > 1
    if min(weight_raw, weight_long) < 0 or not (weight_raw > 0 or (weight_long > 0 and has_long)):
        raise ParamsError(
            f"weight_raw {weight_raw} and weight_long {weight_long} with {len(losses_N)} text slots: weights "
            "must not be negative and at least one slot needs a positive one."
        )
    weights_N = torch.full_like(losses_N, weight_long)
    weights_N[0] = weight_raw
    return (weights_N * losses_N).sum() / len(losses_N), losses_N.detach()
