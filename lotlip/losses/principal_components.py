"""Image features reduced to their principal components, which Long-CLIP compares with short texts.

Shapes: B images, D shared width.
"""

import torch
from torch import Tensor

from lotlip.errors import ShapeError


def principal_part(image_BD: Tensor, num_components: int) -> Tensor:
    """The batch's features with everything but their strongest components removed.

    A short text names what strikes most in an image; so its counterpart keeps the directions in which images differ
    most. The directions are taken as constants: gradients flow through the features alone (ours; the gradient of a
    singular value decomposition is not finite where singular values are equal).

    Args:
        image_BD: image embeddings, float [B, D].
        num_components: directions to keep, from 1; min(B, D) and more change nothing.

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
    mean_D = image_BD.mean(dim=0)
    centred = image_BD - mean_D
    if num_components >= min(image_BD.shape):
        return image_BD
    with torch.no_grad(), torch.autocast(image_BD.device.type, enabled=False):
        wide = centred if centred.dtype == torch.float64 else centred.float()
        # NaN and infinity have no decomposition; the loss shows them, and a training step is skipped.
        directions = torch.linalg.svd(wide.nan_to_num(0.0, 0.0, 0.0), full_matrices=False).Vh[:num_components]
    basis_DC = directions.T.to(centred.dtype)
    reduced: Tensor = mean_D + centred @ basis_DC @ basis_DC.T
    return reduced
