"""One optimizer step: forward, loss, backward, clipping, update. A step that is not finite is skipped."""

from dataclasses import dataclass

import torch
from torch import Tensor

from lotlip.losses.multi_caption import multi_caption_loss
from lotlip.model.modeling import LotlipModel
from lotlip.params import Train


@dataclass(frozen=True)
class StepResult:
    """Loss L, the loss of each text slot and the gradient's norm before clipping; `skipped` if not finite."""

    loss: float
    slot_losses: tuple[float, ...]
    grad_norm: float
    skipped: bool


def train_step(
    model: LotlipModel,
    optimizer: torch.optim.Optimizer,
    input_ids: Tensor,
    images: Tensor,
    settings: Train,
    rate: float,
) -> StepResult:
    """Update the model once.

    Args:
        model: in training mode.
        optimizer: over the model's trainable weights.
        input_ids: int64 [B, 1 + K, L].
        images: pixels [B, 3, S, S], or features of a locked tower [B, D].
        settings: loss weights and clipping norm.
        rate: learning rate of this step.

    Returns:
        What happened; weights and optimizer are untouched when loss or gradient is not finite.
    """
    kind = "pixel_values" if images.ndim == 4 else "image_embeds"
    output = model(input_ids=input_ids, **{kind: images})
    loss, slot_losses = multi_caption_loss(
        output.image_embeds,
        output.text_embeds,
        output.logit_scale,
        weight_raw=settings.weight_raw,
        weight_long=settings.weight_long,
    )
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
