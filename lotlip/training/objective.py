"""A method's objective: which loss compares which embeddings, with which weights.

Shapes: B images, N text slots an image, D shared width (see `lotlip.model.modeling`).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from lotlip.losses.contrastive import contrastive_loss
from lotlip.losses.late_interaction import late_interaction_loss
from lotlip.losses.multi_caption import slot_weights
from lotlip.losses.principal_components import principal_part
from lotlip.losses.sigmoid import sigmoid_loss
from lotlip.losses.tiles import Group
from lotlip.model.modeling import LotlipOutput
from lotlip.params import Method, Train

Objective = Callable[[LotlipOutput, Method, Train, Group], tuple[Tensor, Tensor]]


def compute_loss(output: LotlipOutput, method: Method, settings: Train, group: Group = None) -> tuple[Tensor, Tensor]:
    """The loss of a batch by a method's objective.

    Args:
        output: of the model on the batch of this process.
        method: names the objective.
        settings: weights of short and long texts.
        group: processes that share the batch; None: this one alone.

    Returns:
        The loss, weighted mean over slots (scalar), and the unweighted loss of each slot [N], detached.
    """
    return _OBJECTIVES[method.objective](output, method, settings, group)


def _softmax(output: LotlipOutput, method: Method, settings: Train, group: Group) -> tuple[Tensor, Tensor]:
    image, text, scale = output.image_embeds, output.text_embeds, output.logit_scale
    weights, smoothing = _weights(output, settings), method.label_smoothing
    if method.short_components is None:
        return contrastive_loss(image, text, scale, weights, label_smoothing=smoothing, group=group)
    # Long-CLIP: short texts meet the principal part of the images, long ones the whole.
    principal = principal_part(image, method.short_components, group)
    parts = [contrastive_loss(principal, text[:, :1], scale, weights[:1], label_smoothing=smoothing, group=group)]
    if len(weights) > 1:
        parts.append(contrastive_loss(image, text[:, 1:], scale, weights[1:], label_smoothing=smoothing, group=group))
    return torch.stack([loss for loss, _ in parts]).sum(), torch.cat([slots for _, slots in parts])


def _sigmoid(output: LotlipOutput, method: Method, settings: Train, group: Group) -> tuple[Tensor, Tensor]:
    weights = _weights(output, settings)
    assert output.logit_bias is not None  # a model built for this objective has one
    return sigmoid_loss(
        output.image_embeds, output.text_embeds, output.logit_scale, output.logit_bias, weights, group=group
    )


def _late_interaction(output: LotlipOutput, method: Method, settings: Train, group: Group) -> tuple[Tensor, Tensor]:
    assert output.text_keep is not None  # as above
    loss = late_interaction_loss(
        output.image_embeds, output.text_embeds, output.text_keep, output.logit_scale, group=group
    )
    (weight,) = slot_weights(1, settings.weight_raw, settings.weight_long)
    return weight * loss, loss.detach()[None]


def _weights(output: LotlipOutput, settings: Train) -> list[float]:
    return slot_weights(output.text_embeds.shape[1], settings.weight_raw, settings.weight_long)


_OBJECTIVES: dict[str, Objective] = {
    "softmax": _softmax,
    "sigmoid": _sigmoid,
    "late_interaction": _late_interaction,
}
