"""Position embeddings for longer texts than a tower was trained on.

Shapes: P positions of the tower, L wanted, H width of the tower.
"""

import torch
from torch import Tensor

from lotlip.errors import ModelError


def stretch_positions(weight_PH: Tensor, length: int, keep: int) -> Tensor:
    """Keep the first positions, which short texts have trained well, and stretch the others over the rest.

    New position keep + j reads the old ones at keep + j (P - keep) / (L - keep), linearly between neighbours; beyond
    the last one the line through the last two goes on.

    Args:
        weight_PH: position embeddings, float [P, H].
        length: L > P.
        keep: in [0, P - 2].

    Returns:
        float [L, H].

    Raises:
        ModelError: `length` or `keep` is out of range.

    Source: Long-CLIP, arXiv:2403.15378, section 3.2: 77 positions, 20 kept, the others x 4: 248.
    """
    num = len(weight_PH)
    check_stretch(num, length, keep)
    steps = torch.arange(length - keep, dtype=torch.float64, device=weight_PH.device)
    places = keep + steps * ((num - keep) / (length - keep))
    left = places.floor().long().clamp(max=num - 2)
    share = (places - left).to(weight_PH.dtype)[:, None]
    stretched = weight_PH[left] + share * (weight_PH[left + 1] - weight_PH[left])
    return torch.cat([weight_PH[:keep], stretched])


def check_stretch(num: int, length: int, keep: int) -> None:
    """Refuse what `stretch_positions` cannot do with `num` positions.

    Raises:
        ModelError: `length` or `keep` is out of range.
    """
    if not (0 <= keep <= num - 2 and length > num):
        raise ModelError(
            f"{num} positions cannot be stretched to {length} with the first {keep} kept: expected more than {num}, "
            f"and to keep at most {num - 2}. Change token_limit or keep_positions."
        )
