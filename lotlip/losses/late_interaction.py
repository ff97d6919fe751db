"""FILIP's token-wise late interaction: scores of images and texts, and their contrastive loss.

Shapes: I images, T texts, P patches an image, L tokens a text, D shared width; in the loss B of both.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.nn import functional as collectives
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from lotlip.errors import ShapeError

BLOCK_BYTES = 64 * 2**20  # of token-patch similarities at once


def late_interaction_scores(
    image_IPD: Tensor, text_TLD: Tensor, keep_TL: Tensor, *, block_bytes: int = BLOCK_BYTES
) -> tuple[Tensor, Tensor]:
    """Token-wise similarities of all images with all texts.

    Example, one image of two patches and one text of three tokens of which the last is padding, with similarities

                  token 0  token 1  (pad)
        patch 0     .9       .1      .8       best token .9
        patch 1     .3       .5      .7       best token .5      i2t = (.9 + .5) / 2 = .7
        best        .9       .5               t2i = (.9 + .5) / 2 = .7

    Args:
        image_IPD: unit-length patch embeddings, float [I, P, D].
        text_TLD: unit-length token embeddings, float [T, L, D].
        keep_TL: where there is a token, bool [T, L], at least one a text.
        block_bytes: most bytes of similarities at once, but at least those of one text.

    Returns:
        i2t [I, T], the mean over an image's patches of the highest similarity with a token of the text; t2i
        [I, T], the mean over a text's tokens of the highest similarity with a patch of the image.

    Raises:
        ShapeError: shapes do not fit, a dimension is empty, or a text has no token.

    Source: FILIP, arXiv:2111.07783, section 3.1.
    """
    _check(image_IPD, text_TLD, keep_TL)
    per_text = image_IPD.shape[0] * image_IPD.shape[1] * text_TLD.shape[1] * image_IPD.element_size()
    block = max(1, block_bytes // per_text)
    parts = [
        # Similarities are recomputed in the backward pass, so those of one block exist at a time.
        checkpoint(block_scores, image_IPD, text, keep, use_reentrant=False)
        for text, keep in zip(torch.split(text_TLD, block), torch.split(keep_TL, block), strict=True)
    ]
    i2t, t2i = (torch.cat(each, dim=1) for each in zip(*parts, strict=True))
    return i2t, t2i


def late_interaction_loss(
    image_BPD: Tensor,
    text_BLD: Tensor,
    keep_BL: Tensor,
    scale: Tensor,
    *,
    group: dist.ProcessGroup | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Tensor:
    """Symmetric InfoNCE of late-interaction scores: i2t scores rank texts, t2i scores rank images.

    Args:
        image_BPD: unit-length patch embeddings, float [B, P, D].
        text_BLD: unit-length token embeddings, float [B, L, D].
        keep_BL: where there is a token, bool [B, L].
        scale: scalar inverse temperature (not its log), > 0.
        group: processes that share the batch, all of the same B; None: this one alone.
        block_bytes: see `late_interaction_scores`.

    Returns:
        (CE_i2t + CE_t2i) / 2, the mean over this process's pairs (scalar, in nats).

    Raises:
        ShapeError: see `late_interaction_scores`; B differs between the inputs.
    """
    if len(image_BPD) != len(text_BLD):
        raise ShapeError(f"{len(image_BPD)} images and {len(text_BLD)} texts: expected as many texts as images.")
    own = torch.arange(len(image_BPD), device=image_BPD.device)
    if group is None:
        i2t, t2i = late_interaction_scores(image_BPD, text_BLD, keep_BL, block_bytes=block_bytes)
        t2i = t2i.T
    else:
        own = own + dist.get_rank(group) * len(own)
        text_BLD, keep_BL = _pad_to_longest(text_BLD, keep_BL, group)
        # Gathered with their gradients: every process ranks its own images and its own texts among all.
        images = torch.cat(collectives.all_gather(image_BPD, group))  # type: ignore[no-untyped-call]
        texts = torch.cat(collectives.all_gather(text_BLD, group))  # type: ignore[no-untyped-call]
        keep = [torch.empty_like(keep_BL) for _ in range(dist.get_world_size(group))]
        dist.all_gather(keep, keep_BL, group)
        i2t, _ = late_interaction_scores(image_BPD, texts, torch.cat(keep), block_bytes=block_bytes)
        _, t2i = late_interaction_scores(images, text_BLD, keep_BL, block_bytes=block_bytes)
        t2i = t2i.T
    losses = [functional.cross_entropy(scale * scores, own) for scores in (i2t, t2i)]
    return (losses[0] + losses[1]) / 2


def block_scores(image_IPD: Tensor, text_TLD: Tensor, keep_TL: Tensor) -> tuple[Tensor, Tensor]:
    """As `late_interaction_scores`, unchecked, all [I, P, T, L] similarities at once."""
    (num_images, num_patches, _), (num_texts, length, _) = image_IPD.shape, text_TLD.shape
    # A token of the text in the place of its padding changes no maximum, and spares a mask of all similarities.
    first_T1D = text_TLD[torch.arange(num_texts, device=text_TLD.device), keep_TL.int().argmax(dim=1), None]
    filled_TLD = torch.where(keep_TL[..., None], text_TLD, first_T1D)
    similarities = image_IPD.flatten(0, 1) @ filled_TLD.flatten(0, 1).T
    best_IPT = similarities.view(num_images, num_patches, num_texts, length).amax(dim=3)
    best_ITL = similarities.view(num_images, num_patches, -1).amax(dim=1).view(num_images, num_texts, length)
    # Sums along rows: those along columns may add up in another order at the edges, and equal pairs differ.
    i2t = best_IPT.transpose(1, 2).contiguous().mean(dim=2)
    return i2t, (best_ITL * keep_TL).sum(dim=2) / keep_TL.sum(dim=1)


def _pad_to_longest(text_BLD: Tensor, keep_BL: Tensor, group: dist.ProcessGroup) -> tuple[Tensor, Tensor]:
    """Texts padded to the longest of all processes, as gathering wants equal shapes."""
    longest = torch.tensor([text_BLD.shape[1]], device=text_BLD.device)
    dist.all_reduce(longest, dist.ReduceOp.MAX, group)
    missing = int(longest) - text_BLD.shape[1]
    return functional.pad(text_BLD, (0, 0, 0, missing)), functional.pad(keep_BL, (0, missing))


def _check(image_IPD: Tensor, text_TLD: Tensor, keep_TL: Tensor) -> None:
    fits = image_IPD.ndim == text_TLD.ndim == 3 and image_IPD.shape[2] == text_TLD.shape[2]
    if not fits or keep_TL.shape != text_TLD.shape[:2] or 0 in (*image_IPD.shape, *text_TLD.shape):
        raise ShapeError(
            f"patches {tuple(image_IPD.shape)}, tokens {tuple(text_TLD.shape)} and mask {tuple(keep_TL.shape)} do not "
            "fit: expected [I, P, D], [T, L, D] and [T, L], none of them empty."
        )
    if not bool(keep_TL.any(dim=1).all()):
        raise ShapeError(f"Text {int((~keep_TL.any(dim=1)).nonzero()[0])} of {len(keep_TL)} has no token.")
