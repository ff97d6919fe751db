"""Softmax contrastive loss (InfoNCE) between images and their texts, for one or several text slots.

Shapes: B images, N text slots an image, D shared width.
"""

import torch
from torch import Tensor
from torch.nn import functional

from lotlip.errors import ShapeError


def contrastive_loss_per_slot(image_BD: Tensor, text_BND: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE of every text slot with the images.

    Slot n of image i meets only the n-th texts of the other images, so the texts of one image never compete.

    Args:
        image_BD: unit-length image embeddings, float [B, D].
        text_BND: unit-length text embeddings, float [B, N, D], N >= 1.
        scale: scalar inverse temperature (not its log), > 0.

    Returns:
        (CE_i2t + CE_t2i) / 2 of each slot, [N], in nats; ln(B) when all embeddings are equal.

    Raises:
        ShapeError: B or D differ between the inputs, or a dimension is empty.

    Source: CLIP, arXiv:2103.00020, fig. 3, for each slot.
    """
    check_shapes(image_BD, text_BND)
    logits_NBB = scale * torch.einsum("id,jnd->nij", image_BD, text_BND)
    matching = torch.arange(len(image_BD), device=image_BD.device).expand(len(logits_NBB), -1)
    # cross_entropy wants the classes second: texts j for each image i, then images i for each text j.
    image_to_text = functional.cross_entropy(logits_NBB.transpose(1, 2), matching, reduction="none")
    text_to_image = functional.cross_entropy(logits_NBB, matching, reduction="none")
    return (image_to_text.mean(dim=1) + text_to_image.mean(dim=1)) / 2


def check_shapes(image_BD: Tensor, text_BND: Tensor) -> None:
    """Refuse embeddings that do not fit each other, as `contrastive_loss_per_slot` describes."""
    if text_BND.ndim != 3 or text_BND.shape[::2] != image_BD.shape or 0 in text_BND.shape:
        raise ShapeError(
            f"text {tuple(text_BND.shape)} does not fit image {tuple(image_BD.shape)}: expected [B, N, D] "
            "and [B, D], none of them empty; give a single text as N=1."
        )
