"""One optimizer step: forward, loss, backward, clipping, update. A step that is not finite is skipped.

A process may embed its share of the batch in parts. The loss is that of the whole batch all the same, and so are its
gradients (GradCache): all parts are embedded without gradients, the loss gives the gradients of the embeddings, and
each part is embedded again to carry its own on to the weights. It costs a second forward pass.

Source of the latter: Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, arXiv:2101.06983.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import functional

from lotlip.model.modeling import LotlipOutput
from lotlip.params import Method, Train
from lotlip.training.objective import compute_loss
from lotlip.training.parallel import Network
from lotlip.training.ranks import Ranks

LossOf = Callable[[LotlipOutput], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class StepResult:
    """Of all processes: loss L, the loss of each text slot, the gradient's norm before clipping; `skipped` if one of
    these is not finite."""

    loss: float
    slot_losses: tuple[float, ...]
    grad_norm: float
    skipped: bool


@dataclass
class StepSums:
    """Sums over the steps that were `finite`: the loss of each text slot, and the gradient's norm."""

    finite: int = 0
    slot_losses: list[float] = field(default_factory=list)
    grad_norm: float = 0.0

    def add(self, result: StepResult) -> None:
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

    `lengths` of the texts are int64 [B, 1 + K]. `precomputed`: images are features, [B, H] or, for token features,
    [B, P, H].
    """

    ids: Tensor
    mask: Tensor
    images: Tensor
    lengths: NDArray[np.int64]
    precomputed: bool

    def split(self, size: int | None) -> list["Batch"]:
        """Parts of `size` images, the last one maybe smaller; None: one part."""
        if size is None or size >= len(self.ids):
            return [self]
        starts = range(0, len(self.ids), size)
        return [self._rows(slice(start, start + size)) for start in starts]

    def _rows(self, rows: slice) -> "Batch":
        return Batch(self.ids[rows], self.mask[rows], self.images[rows], self.lengths[rows], self.precomputed)


def train_step(
    network: Network,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    settings: Train,
    method: Method,
    rate: float,
    ranks: Ranks,
    reseed: Callable[[int], None],
) -> StepResult:
    """Update the model once.

    Args:
        network: the model in training mode, as it runs on all processes.
        optimizer: over its trainable weights.
        batch: this process's share, on its device.
        settings: loss weights, clipping norm, and how many images are embedded at a time.
        method: the objective.
        rate: learning rate of this step.
        ranks: the processes that share the batch.
        reseed: sets the random numbers of dropout for a part of the batch, by its number.

    Returns:
        What happened, the same on all processes; weights and optimizer are untouched when loss or gradient is not
        finite.
    """
    optimizer.zero_grad(set_to_none=True)

    def loss_of(output: LotlipOutput) -> tuple[Tensor, Tensor]:
        return compute_loss(output, method, settings, ranks.group)

    parts = batch.split(settings.compute.micro_batch_size)
    backward = _backward if len(parts) == 1 else _backward_in_parts
    loss, slot_losses = backward(network, parts, loss_of, reseed)
    network.average_whole_gradients(ranks)
    grad_norm = clip_gradients(optimizer, settings.grad_clip)
    losses = ranks.mean_(torch.cat([loss.detach()[None], slot_losses]).double())
    finite = bool(torch.isfinite(losses).all() & torch.isfinite(grad_norm))
    if finite:
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        network.model.clamp_logit_scale()
    mean_loss, *slots = losses.tolist()
    return StepResult(mean_loss, tuple(slots), grad_norm.item(), not finite)


def _backward(
    network: Network, parts: Sequence[Batch], loss_of: LossOf, reseed: Callable[[int], None]
) -> tuple[Tensor, Tensor]:
    loss, slot_losses = loss_of(_embed(network, parts, 0, reseed))
    torch.autograd.backward(loss)
    return loss, slot_losses


def _backward_in_parts(
    network: Network, parts: Sequence[Batch], loss_of: LossOf, reseed: Callable[[int], None]
) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        embedded = _joined([_embed(network, parts, i, reseed) for i in range(len(parts))])
    leaves = {name: x.detach().requires_grad_() for name, x in embedded.items() if x.is_floating_point()}
    loss, slot_losses = loss_of(LotlipOutput(**{**embedded, **leaves}))
    torch.autograd.backward(loss)
    start = 0
    for i, part in enumerate(parts):
        is_last = i == len(parts) - 1
        with nullcontext() if is_last else network.no_sync():
            output = _embed(network, parts, i, reseed)
            rows = slice(start, start := start + len(part.ids))
            pairs = [
                (output.image_embeds, leaves["image_embeds"].grad, rows),
                (output.text_embeds, leaves["text_embeds"].grad, rows),
                # Scale and bias are the whole batch's: their gradient passes once.
                *(
                    (output[name], leaves[name].grad, is_last)
                    for name in ("logit_scale", "logit_bias")
                    if name in leaves
                ),
            ]
            _carry_on(pairs)
    return loss, slot_losses


def _carry_on(pairs: Sequence[tuple[Tensor, Tensor | None, Any]]) -> None:
    """Go on backwards from a part's outputs, each with the gradient that the loss gave it."""
    tensors, grads = [], []
    for tensor, grad, place in pairs:
        if tensor.requires_grad and grad is not None:
            own = grad[place] if isinstance(place, slice) else grad * place
            if own.ndim == 3:  # texts of this part may be shorter than the longest of all
                own = own[:, : tensor.shape[1]]
            tensors.append(tensor)
            grads.append(own.to(tensor.dtype))
    torch.autograd.backward(tensors, grads)


def _embed(network: Network, parts: Sequence[Batch], i: int, reseed: Callable[[int], None]) -> LotlipOutput:
    reseed(i)
    part = parts[i]
    kind = "image_embeds" if part.precomputed else "pixel_values"
    return network(input_ids=part.ids, attention_mask=part.mask, **{kind: part.images})


def _joined(outputs: Sequence[LotlipOutput]) -> dict[str, Tensor]:
    """The outputs of all parts as those of one batch; token features are padded to the longest text."""
    longest = max(output.text_embeds.shape[1] for output in outputs)
    first = outputs[0]
    joined = {
        "image_embeds": torch.cat([output.image_embeds for output in outputs]),
        "text_embeds": torch.cat([_padded(output.text_embeds, longest) for output in outputs]),
        "logit_scale": first.logit_scale,
    }
    if first.text_keep is not None:
        keeps = [output.text_keep for output in outputs if output.text_keep is not None]
        joined["text_keep"] = torch.cat([_padded(keep[..., None], longest)[..., 0] for keep in keeps])
    if first.logit_bias is not None:
        joined["logit_bias"] = first.logit_bias
    return joined


def _padded(tokens_BLD: Tensor, length: int) -> Tensor:
    return functional.pad(tokens_BLD, (0, 0, 0, length - tokens_BLD.shape[1]))


def clip_gradients(optimizer: torch.optim.Optimizer, max_norm: float) -> Tensor:
    """Scale all gradients down to a norm of `max_norm` together; returns the norm that they had.

    A group's gradients are all whole or all shared out among the processes (see `make_optimizer`).
    """
    groups = [[p for p in group["params"] if p.grad is not None] for group in optimizer.param_groups]
    norms = [torch.nn.utils.get_total_norm([p.grad for p in group if p.grad is not None]) for group in groups if group]
    total: Tensor = torch.linalg.vector_norm(torch.stack([_whole(norm) for norm in norms]))
    for group in groups:
        torch.nn.utils.clip_grads_with_norm_(group, max_norm, total)
    return total


def _whole(value: Tensor) -> Tensor:
    if isinstance(value, DTensor):
        whole: Tensor = value.full_tensor()
        return whole
    return value
