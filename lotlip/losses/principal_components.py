"""Image features reduced to their principal components, which Long-CLIP compares with short texts.

Shapes: B images, D shared width.
"""

import torch
from torch import Tensor
from torch.distributed.nn import functional as collectives

from lotlip.errors import ShapeError
from lotlip.losses.tiles import Group


def principal_part(image_BD: Tensor, num_components: int, group: Group = None) -> Tensor:
    """The batch's features with everything but their strongest components removed.

    A short text names what strikes most in an image; so its counterpart keeps the directions in which images differ
    most. The directions are taken as constants: gradients flow through the features alone (ours; the gradient of a
    singular value decomposition is not finite where singular values are equal).

    Args:
        image_BD: image embeddings, float [B, D].
        num_components: directions to keep, from 1; min(B, D) and more change nothing.
        group: processes that share the batch; mean and directions are those of all their images.

    Returns:
        mean + (x - mean) V V^T with the first right singular vectors V of the centred batch; float [B, D], not of
        unit length.

    Raises:
        ShapeError: the input is not [B, D], or no component is to be kept.

    Source: Long-CLIP, arXiv:2403.15378, section 3.3.
    """
    if image_BD.ndim != 2 or 0 in image_BD.shape or num_components < 1:
        raise ShapeError(
            f"image {tuple(image_BD.shape)} and {num_components} components: expected a non-empty [B, D] and 1 or more."
        )
    all_images = image_BD
    if group is not None:  # gathered with their gradients: the mean depends on all
        all_images = torch.cat(collectives.all_gather(image_BD, group))  # type: ignore[no-untyped-call]
    if num_components >= min(all_images.shape):
        return image_BD
    mean_D = all_images.mean(dim=0)
    with torch.no_grad(), torch.autocast(image_BD.device.type, enabled=False):
        centred = all_images - mean_D
        wide = centred if centred.dtype == torch.float64 else centred.float()
        # NaN and infinity have no decomposition; the loss shows them, and a training step is skipped.
        directions = torch.linalg.svd(wide.nan_to_num(0.0, 0.0, 0.0), full_matrices=False).Vh[:num_components]
    basis_DC = directions.T.to(image_BD.dtype)
    reduced: Tensor = mean_D + (image_BD - mean_D) @ basis_DC @ basis_DC.T
    return reduced
