"""The optimizer, the length of a run, and its schedule."""

import math

import torch
from torch import nn

from lotlip.params import Train


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


def num_steps(settings: Train, batches_per_epoch: int) -> int:
    """Steps of a run, by its epochs, steps or samples; samples that fill no batch take none."""
    if settings.steps is not None:
        return settings.steps
    if settings.samples is not None:
        return max(1, settings.samples // settings.batch_size)
    assert settings.epochs is not None  # one of the three is given
    return settings.epochs * batches_per_epoch


def warmup_steps(settings: Train, steps: int) -> int:
    """Steps of the warm-up, by its share of all `steps`, its steps or its samples."""
    if settings.warmup_steps is not None:
        return settings.warmup_steps
    if settings.warmup_samples is not None:
        return settings.warmup_samples // settings.batch_size
    assert settings.warmup_share is not None  # as above
    return round(settings.warmup_share * steps)


def learning_rate(step: int, num_steps: int, peak: float, warmup_share: float) -> float:
    """The rate of step `step` (from 0): linear up to `peak` over the warm-up, then a cosine to 0."""
    warmup_steps = round(warmup_share * num_steps)
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, num_steps - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
