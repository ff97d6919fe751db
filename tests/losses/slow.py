"""Losses written out over full matrices with autograd: what the tiled ones must equal."""

import torch
from torch import Tensor
from torch.nn import functional


def unit(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(sum(shape) + len(shape))
    return functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1)


def contrastive(image: Tensor, text: Tensor, scale: Tensor, weights: list[float], smoothing: float = 0.0) -> Tensor:
    total = torch.zeros((), dtype=image.dtype)
    target = torch.arange(len(image))
    for n, weight in enumerate(weights):
        logits = scale * image @ text[:, n].T
        both = [functional.cross_entropy(z, target, label_smoothing=smoothing) for z in (logits, logits.T)]
        total = total + weight * (both[0] + both[1]) / 2
    return total


def sigmoid(image: Tensor, text: Tensor, scale: Tensor, bias: Tensor, weights: list[float]) -> Tensor:
    total = torch.zeros((), dtype=image.dtype)
    signs = 2 * torch.eye(len(image), dtype=image.dtype) - 1
    for n, weight in enumerate(weights):
        logits = scale * image @ text[:, n].T + bias
        total = total - weight * functional.logsigmoid(signs * logits).sum() / len(image)
    return total


def late_interaction(image: Tensor, text: Tensor, keep: Tensor, scale: Tensor) -> Tensor:
    rows = []
    for patches in image:
        row = []
        for tokens, kept in zip(text, keep, strict=True):
            similarities = patches @ tokens[kept].T
            row.append(torch.stack([similarities.amax(1).mean(), similarities.amax(0).mean()]))
        rows.append(torch.stack(row))
    scores = scale * torch.stack(rows)
    target = torch.arange(len(image))
    return (functional.cross_entropy(scores[..., 0], target) + functional.cross_entropy(scores[..., 1].T, target)) / 2


def with_gradients(loss, *inputs: Tensor) -> list[Tensor]:
    """The loss and its gradients with respect to all inputs."""
    fresh = [x.detach().clone().requires_grad_() for x in inputs]
    value = loss(*fresh)
    return [value.detach(), *torch.autograd.grad(value, fresh)]


def assert_equal(found: list[Tensor], expected: list[Tensor]) -> None:
    tolerance = 1e-10 if found[0].dtype == torch.float64 else 1e-5
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)
