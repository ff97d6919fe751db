"""The optimizer and its schedule."""

import math

import torch
from torch import nn


def make_optimizer(model: nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over what is trainable; only matrices decay.

    Biases, norms, single tokens and the logit scale, all of one dimension or none, do not.
    """
    decayed: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            is_matrix = sum(side > 1 for side in parameter.shape) >= 2  # of the whole, where it is sharded
            (decayed if is_matrix else others).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), eps=1e-6)


def learning_rate(step: int, num_steps: int, peak: float, warmup_share: float) -> float:
    """The rate of step `step` (from 0): linear up to `peak` over the warm-up, then a cosine to 0."""
    warmup_steps = round(warmup_share * num_steps)
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
