"""LoTLIP's weighting of one short text and several long-text features of each image.

Shapes: B images, N text slots an image, D shared width; slot 0 is the short text, the others belong to long texts.
"""

from torch import Tensor

from lotlip.errors import ParamsError
from lotlip.losses.contrastive import contrastive_loss
from lotlip.losses.tiles import Group


def slot_weights(num_slots: int, weight_raw: float, weight_long: float) -> list[float]:
    """Weight of each slot in L = [w_raw * loss(slot 0) + w_long * sum of the other slots' losses] / N.

    Raises:
        ParamsError: the weights leave nothing to train on.
    """
    if min(weight_raw, weight_long) < 0 or not (weight_raw > 0 or (weight_long > 0 and num_slots > 1)):
        raise ParamsError(
            f"weight_raw {weight_raw} and weight_long {weight_long} with {num_slots} text slots: weights "
            "must not be negative and at least one slot needs a positive one."
        )
    return [weight_raw / num_slots, *([weight_long / num_slots] * (num_slots - 1))]


def multi_caption_loss(
    image_BD: Tensor,
    text_BND: Tensor,
    scale: Tensor,
    *,
    weight_raw: float = 1.0,
    weight_long: float = 1.0,
    group: Group = None,
    tile_bytes: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Weighted mean of the symmetric InfoNCE losses of all slots.

    L = [w_raw * (CE_i2t + CE_t2i)(raw) + w_long * sum over the other slots of (CE_i2t + CE_t2i)] / (2N).

    Args:
        image_BD: unit-length image embeddings, float [B, D].
        text_BND: unit-length text embeddings, float [B, N, D], N >= 1, the raw caption first.
        scale: scalar inverse temperature, > 0.
        weight_raw: w_raw >= 0.
        weight_long: w_long >= 0.
        group, tile_bytes: see `tiled_loss`.

    Returns:
        L (scalar, in nats) and the unweighted loss of each slot [N], detached.

    Raises:
        ShapeError: the embeddings do not fit each other.
        ParamsError: the weights leave nothing to train on.

    Source: LoTLIP, arXiv:2410.05249; the released training code's averaging.
    """
    num_slots = text_BND.shape[1] if text_BND.ndim == 3 else 1
    weights = slot_weights(num_slots, weight_raw, weight_long)
    return contrastive_loss(image_BD, text_BND, scale, weights, group=group, tile_bytes=tile_bytes)
