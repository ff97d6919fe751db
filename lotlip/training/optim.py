"""The optimizer and its schedule."""

import math

import torch
from torch import nn


def make_optimizer(model: nn.Module, weight_decay: float) -> torch.optim.AdamW:
    """AdamW over what is trainable; only matrices decay.

    Biases, norms, single tokens and the logit scale, all of one dimension or none, do not.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in parameters if p.squeeze().ndim >= 2]
    others = [p for p in parameters if p.squeeze().ndim < 2]
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.98), eps=1e-6)


def learning_rate(step: int, num_steps: int, peak: float, warmup_share: float) -> float:
    """The rate of step `step` (from 0): linear up to `peak` over the warm-up, then a cosine to 0."""
    warmup_steps = round(warmup_share * num_steps)
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
