"""Losses over all image-text pairs of a batch, computed in tiles: exact, with gradients, in little memory.

Shapes: R processes with b images each, B = R b images of all, N text slots an image, D shared width.

A process computes the logits of its own images with the texts of all, b x B for one slot at a time, in tiles of rows.
Gradients of the embeddings are found together with the loss, so no logits outlive their slot. Texts are gathered from
all processes; gradients for texts of others go back to them and are summed. The loss of a process is the mean over its
own pairs: the global loss is the mean over processes, and averaging the parameters' gradients over processes, as
DistributedDataParallel does, gives the global gradient.
"""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from lotlip.errors import ShapeError

# Logits at once. A slot that fits into one tile needs no second computation of them; beyond it small tiles stay in a
# CPU's cache (2,048 x 4 texts: 4 MiB as fast as 32), and large ones fill a GPU.
TILE_BYTES = {"cpu": 4 * 2**20, "cuda": 256 * 2**20}

Group = dist.ProcessGroup | None


class SlotLoss(Protocol):
    """A loss of one slot's logits."""

    def __call__(self, tiles: "Tiles", weight: float) -> Tensor:
        """The loss (scalar); adds the gradient of `weight` times it to the tiles, if `weight` is not 0."""


class Tiles:
    """The logits of one slot, `scale * image @ text + bias`, by rows, and the gradients of what they are made of.

    `own` [b] is the column of each row's own text. Iterating gives rows and their logits [rows, B]; with
    `last=True` the caller may overwrite them.
    """

    def __init__(
        self, image_bD: Tensor, text_BD: Tensor, own: Tensor, scale: Tensor, bias: Tensor, group: Group, tile_bytes: int
    ) -> None:
        self.image, self.text, self.own, self.scale, self.bias = image_bD, text_BD, own, scale, bias
        self.num_rows, self.num_columns = len(image_bD), len(text_BD)
        self._group = group
        self._tile_rows = max(1, tile_bytes // (self.num_columns * image_bD.element_size()))
        self._kept: Tensor | None = None
        self._image_grad, self._text_grad = torch.zeros_like(image_bD), torch.zeros_like(text_BD)
        self._bias_grad = torch.zeros_like(bias)

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, self.num_rows, self._tile_rows):
            rows = slice(start, min(start + self._tile_rows, self.num_rows))
            if self._kept is None:
                logits = torch.mm(self.image[rows], self.text.T).mul_(self.scale).add_(self.bias)
                if self._tile_rows >= self.num_rows:
                    self._kept = logits
                yield rows, logits
            else:
                yield rows, self._kept

    def add_gradient(self, rows: slice, logits_grad: Tensor) -> None:
        """Account for the gradient [rows, B] of a tile's logits."""
        self._image_grad[rows].addmm_(logits_grad, self.text)
        self._text_grad.addmm_(logits_grad.T, self.image[rows])
        self._bias_grad += logits_grad.sum()

    def gradients(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of this process's images [b, D], of all texts [B, D], of scale and bias."""
        scale_grad = (self._image_grad * self.image).sum()
        return self._image_grad * self.scale, self._text_grad * self.scale, scale_grad, self._bias_grad

    def sum_over_processes(self, values: Tensor) -> Tensor:
        """Elementwise sum of a tensor over all processes."""
        return _reduced(values, dist.ReduceOp.SUM, self._group)

    def max_over_processes(self, values: Tensor) -> Tensor:
        """Elementwise maximum of a tensor over all processes."""
        return _reduced(values, dist.ReduceOp.MAX, self._group)


def tiled_loss(
    image_bD: Tensor,
    text_bND: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    weights: Sequence[float],
    slot_loss: SlotLoss,
    *,
    group: Group = None,
    tile_bytes: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Weighted sum over slots of a loss of their logits.

    Args:
        image_bD: image embeddings, float [b, D].
        text_bND: text embeddings, float [b, N, D].
        scale: scalar inverse temperature.
        bias: scalar added to the logits; None: 0.
        weights: of the N slots; one of weight 0 is measured but gives no gradient.
        slot_loss: the loss of a slot.
        group: processes that share the batch; None: this one alone.
        tile_bytes: most bytes of logits at once, but at least one row; None: `TILE_BYTES` of the device.

    Returns:
        The weighted sum (scalar) and the loss of each slot [N], detached; float32, float64 for float64 inputs.

    Raises:
        ShapeError: the embeddings do not fit each other, or the processes' batches differ in size.
    """
    check_shapes(image_bD, text_bND)
    if group is not None:
        _check_equal_batches(image_bD, group)
    if tile_bytes is None:
        tile_bytes = TILE_BYTES.get(image_bD.device.type, TILE_BYTES["cuda"])
    no_bias = torch.zeros_like(scale)
    result: tuple[Tensor, Tensor] = _TiledLoss.apply(  # type: ignore[no-untyped-call]
        image_bD, text_bND, scale, no_bias if bias is None else bias, tuple(weights), slot_loss, group, tile_bytes
    )
    return result


def check_shapes(image_BD: Tensor, text_BND: Tensor) -> None:
    """Refuse embeddings that are not [B, D] and [B, N, D], or are empty."""
    if text_BND.ndim != 3 or text_BND.shape[::2] != image_BD.shape or 0 in text_BND.shape:
        raise ShapeError(
            f"text {tuple(text_BND.shape)} does not fit image {tuple(image_BD.shape)}: expected [B, N, D] "
            "and [B, D], none of them empty; give a single text as N=1."
        )


class _TiledLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        *tensors, weights, slot_loss, group, tile_bytes = inputs
        wide = torch.float64 if tensors[0].dtype == torch.float64 else torch.float32
        # Scores in 16 bits tie and lose gradient, so autocast ends here.
        with torch.autocast(tensors[0].device.type, enabled=False):
            image, text, scale, bias = (x.to(wide) for x in tensors)
            loss, losses, grads = _run(image, text, scale, bias, weights, slot_loss, group, tile_bytes, ctx)
        ctx.save_for_backward(*(grad.to(x.dtype) for grad, x in zip(grads, tensors, strict=True)))
        ctx.mark_non_differentiable(losses)
        return loss, losses

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, loss_grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return (*(grad * loss_grad.to(grad.dtype) for grad in ctx.saved_tensors), None, None, None, None)


def _run(
    image: Tensor,
    text: Tensor,
    scale: Tensor,
    bias: Tensor,
    weights: tuple[float, ...],
    slot_loss: SlotLoss,
    group: Group,
    tile_bytes: int,
    ctx: Any,
) -> tuple[Tensor, Tensor, tuple[Tensor, ...]]:
    rank = 0 if group is None else dist.get_rank(group)
    own = torch.arange(len(image), device=image.device) + rank * len(image)
    wants_grad = any(ctx.needs_input_grad[:4])
    losses, image_grad, text_grad = [], torch.zeros_like(image), torch.zeros_like(text)
    scale_grad, bias_grad = torch.zeros_like(scale), torch.zeros_like(bias)
    for n, weight in enumerate(weights):
        all_text = _gathered(text[:, n].contiguous(), group)
        tiles = Tiles(image, all_text, own, scale, bias, group, tile_bytes)
        losses.append(slot_loss(tiles, weight if wants_grad else 0.0))
        grads = tiles.gradients()
        image_grad += grads[0]
        text_grad[:, n] = _scattered(grads[1], group)
        scale_grad, bias_grad = scale_grad + grads[2], bias_grad + grads[3]
    losses_N = torch.stack(losses)
    weighted = (losses_N * torch.tensor(weights, dtype=image.dtype, device=image.device)).sum()
    return weighted, losses_N, (image_grad, text_grad, scale_grad, bias_grad)


def _gathered(text_bD: Tensor, group: Group) -> Tensor:
    if group is None:
        return text_bD
    parts = [torch.empty_like(text_bD) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, text_bD, group)
    return torch.cat(parts)


def _scattered(grad_BD: Tensor, group: Group) -> Tensor:
    """The sum over processes of gradients for this process's texts."""
    if group is None:
        return grad_BD
    own = grad_BD.new_empty(len(grad_BD) // dist.get_world_size(group), grad_BD.shape[1])
    dist.reduce_scatter_single(own, grad_BD, group=group)
    return own


def _reduced(values: Tensor, operation: dist.ReduceOp.RedOpType, group: Group) -> Tensor:
    if group is not None:
        values = values.clone()
        dist.all_reduce(values, operation, group)
    return values


def _check_equal_batches(image_bD: Tensor, group: dist.ProcessGroup) -> None:
    size = torch.tensor([len(image_bD)], device=image_bD.device)
    sizes = [torch.empty_like(size) for _ in range(dist.get_world_size(group))]
    dist.all_gather(sizes, size, group)
    found = [int(each) for each in sizes]
    if len(set(found)) > 1:
        raise ShapeError(f"The processes hold {found} images: expected as many in each; drop the last, smaller batch.")
