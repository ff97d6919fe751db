"""One optimizer step: forward, loss, backward, clipping, update. A step that is not finite is skipped."""

from dataclasses import dataclass, field

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


@dataclass
class StepSums:
    """Sums over steps, of which the `finite` ones count: the loss of each text slot, and the gradient's norm."""

    steps: int = 0
    finite: int = 0
    slot_losses: list[float] = field(default_factory=list)
    grad_norm: float = 0.0

    def add(self, result: StepResult) -> None:
        self.steps += 1
        if not result.skipped:
            before = self.slot_losses or [0.0] * len(result.slot_losses)
            self.slot_losses = [a + b for a, b in zip(before, result.slot_losses, strict=True)]
            self.grad_norm += result.grad_norm
            self.finite += 1

    def mean_losses(self) -> list[float]:
        """Of each slot; there must be a finite step."""
        return [total / self.finite for total in self.slot_losses]


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
