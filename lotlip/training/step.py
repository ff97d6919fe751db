"""One optimizer step: forward, loss, backward, clipping, update. A step that is not finite is skipped."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lotlip.model.modeling import LotlipModel
from lotlip.params import Method, Train
from lotlip.training.objective import compute_loss


@dataclass(frozen=True)
class StepResult:
    """Loss L, the loss of each text slot and the gradient's norm before clipping; `skipped` if not finite."""

    loss: float
    slot_losses: tuple[float, ...]
    grad_norm: float
    skipped: bool


@dataclass(frozen=True)
class Batch:
    """ids and mask of texts, int64 [B, 1 + K, L]; images: pixels [B, 3, S, S], or what a locked tower made of them.

    `precomputed`: the latter, [B, H] or, for token features, [B, P, H].
    """

    ids: Tensor
    mask: Tensor
    images: Tensor
    precomputed: bool


def train_step(
    model: LotlipModel, optimizer: torch.optim.Optimizer, batch: Batch, settings: Train, method: Method, rate: float
) -> StepResult:
    """Update the model once.

    Args:
        model: in training mode.
        optimizer: over the model's trainable weights.
        batch: on the model's device.
        settings: loss weights and clipping norm.
        method: the objective.
        rate: learning rate of this step.

    Returns:
        What happened; weights and optimizer are untouched when loss or gradient is not finite.
    """
    kind = "image_embeds" if batch.precomputed else "pixel_values"
    output = model(input_ids=batch.ids, attention_mask=batch.mask, **{kind: batch.images})
    loss, slot_losses = compute_loss(output, method, settings)
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    grad_norm = torch.nn.utils.clip_grad_norm_(parameters, settings.grad_clip)
    finite = bool(torch.isfinite(loss) & torch.isfinite(grad_norm))
    if finite:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        model.clamp_logit_scale()
    return StepResult(loss.item(), tuple(slot_losses.tolist()), grad_norm.item(), not finite)
