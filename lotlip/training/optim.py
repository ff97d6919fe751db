"""The optimizer, the length of a run, and its schedule."""

import math
from collections.abc import Collection

import torch
from torch import nn

from lotlip.params import Train


def make_optimizer(model: nn.Module, weight_decay: float, whole: Collection[nn.Parameter] = ()) -> torch.optim.AdamW:
    """AdamW over what is trainable; only matrices decay.

    Biases, norms, single tokens and the logit scale, all of one dimension or none, do not. What is left `whole` where
    others are shared out among processes has groups of its own.
    """
    kept = set(whole)
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        if parameter.requires_grad:
            is_matrix = sum(size > 1 for size in parameter.shape) >= 2
            groups.setdefault((parameter in kept, is_matrix), []).append(parameter)
    optimizer = torch.optim.AdamW(
        [
            {"params": parameters, "weight_decay": weight_decay if is_matrix else 0.0}
            for (_, is_matrix), parameters in groups.items()
        ],
        lr=0.0,
        betas=(0.9, 0.98),
        eps=1e-6,
    )
    _make_state(optimizer)
    return optimizer


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


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """The rate of step `step` (from 0) of `steps`: linear up to `peak` over `warmup` steps, then a cosine to 0."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def _make_state(optimizer: torch.optim.Optimizer) -> None:
    """Make the state that a first step would make: a checkpoint before it then holds it, and counts no step."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # at rate 0, which changes no weight
    for state in optimizer.state.values():
        state["step"].zero_()
    optimizer.zero_grad()
