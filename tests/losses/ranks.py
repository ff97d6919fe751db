"""One process of a distributed loss: `ranks.py RANK WORLD INIT_FILE OUT`. Each holds its share of one global batch.

It saves its loss, and the gradients of its images, texts and parameters, for both precisions.
"""

import sys

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional

from lotlip.errors import ShapeError
from lotlip.losses.contrastive import contrastive_loss
from lotlip.losses.late_interaction import late_interaction_loss
from lotlip.losses.sigmoid import sigmoid_loss

B, N, D, P, L = 12, 3, 6, 4, 5
WEIGHTS = [0.5, 2.0, 1.0]


def batch(dtype: torch.dtype) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def unit(*shape: int) -> Tensor:
        return functional.normalize(torch.randn(*shape, generator=generator, dtype=torch.float64), dim=-1).to(dtype)

    lengths = torch.randint(1, L + 1, (B,), generator=generator)
    lengths[0], lengths[B // 2 :] = L, lengths[B // 2 :].clamp(max=L - 1)  # the second half's texts are shorter
    return {
        "image": unit(B, D),
        "text": unit(B, N, D),
        "patches": unit(B, P, D),
        "tokens": unit(B, L, D),
        "keep": torch.arange(L) < lengths[:, None],
    }


def losses(data: dict[str, Tensor], scale: Tensor, bias: Tensor, group: dist.ProcessGroup | None) -> dict[str, Tensor]:
    image, text = data["image"], data["text"]
    tile = {"group": group, "tile_bytes": 200}
    longest = int(data["keep"].any(dim=0).nonzero().max()) + 1
    tokens, keep = data["tokens"][:, :longest], data["keep"][:, :longest]
    return {
        "softmax": contrastive_loss(image, text, scale, WEIGHTS, label_smoothing=0.1, **tile)[0],
        "sigmoid": sigmoid_loss(image, text, scale, bias, WEIGHTS, **tile)[0],
        "late": late_interaction_loss(data["patches"], tokens, keep, scale, group=group, block_bytes=500),
    }


def run(dtype: torch.dtype, rank: int, world: int, group: dist.ProcessGroup | None) -> dict[str, Tensor]:
    share = slice(rank * B // world, (rank + 1) * B // world)
    data = {name: tensor[share].clone() for name, tensor in batch(dtype).items()}
    leaves = {name: x.requires_grad_() for name, x in data.items() if name != "keep"}
    leaves |= {"scale": torch.tensor(9.0, dtype=dtype, requires_grad=True)}
    leaves |= {"bias": torch.tensor(-3.0, dtype=dtype, requires_grad=True)}
    found = {}
    for name, loss in losses(data, leaves["scale"], leaves["bias"], group).items():
        found[f"{name}/loss"] = loss.detach()
        grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
        found |= {f"{name}/{leaf}": g for leaf, g in zip(leaves, grads, strict=True) if g is not None}
    return found


if __name__ == "__main__":
    rank, world = int(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=world)
    group = dist.group.WORLD
    torch.save({str(dtype): run(dtype, rank, world, group) for dtype in (torch.float32, torch.float64)}, sys.argv[4])
    with pytest.raises(ShapeError, match=r"\[2, 3\] images"):
        contrastive_loss(torch.zeros(2 + rank, D), torch.zeros(2 + rank, 1, D), torch.tensor(1.0), group=group)
    dist.destroy_process_group()
