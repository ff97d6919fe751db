"""One process of a sharded model: `shard_ranks.py RANK WORLD INIT_FILE OUT`. Each holds its share of one batch.

It saves the features of its share, and gathered: averaged gradients, their norm, and weights after a step of the
optimizer.
"""

import sys
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from lotlip.model.modeling import LotlipModel
from lotlip.training.optim import make_optimizer
from lotlip.training.sharding import shard
from tests.model.tiny_parts import make_ids, tiny_config

CASES = ("locked", "locked, pixels", "unlocked", "checkpointed", "in parts")
NUM_IMAGES = 8
TEXTS = make_ids([4, 9, 1, 3, 12, 7, 2, 5], 2)


def make_model(case: str) -> LotlipModel:
    torch.manual_seed(0)
    config = tiny_config()
    config.embed_dim, config.image_projection, config.logit_bias_init = 24, True, -10.0
    model = LotlipModel(config).double().train()
    if case.startswith("locked"):
        model.image_tower.requires_grad_(False)
    if case == "checkpointed":
        model.activation_checkpointing_enable()
    return model


def batch(case: str, share: slice) -> dict[str, Tensor]:
    """Images with one raw and two long texts each."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(NUM_IMAGES, 3, 16, 16, generator=generator, dtype=torch.float64)
    given = torch.randn(NUM_IMAGES, 32, generator=generator, dtype=torch.float64)
    ids = torch.stack([TEXTS, TEXTS.flip(0), TEXTS.roll(1, 0)], dim=1)
    images = {"image_embeds": given[share]} if case == "locked" else {"pixel_values": pixels[share]}
    return {"input_ids": ids[share], **images}


def loss_of(output) -> Tensor:
    """A mean over images, so that the mean over equal shares is that of all; other images' texts take no part."""
    scores = output.logit_scale * (output.text_embeds * output.image_embeds[:, None]).sum(dim=-1) + output.logit_bias
    return scores.sigmoid().mean()


def run(case: str, rank: int, world: int) -> dict[str, Tensor]:
    """Features of this process's share, mean gradients and updated weights of all, and numbers of weights held."""
    model = make_model(case)
    whole = shard(model, init_device_mesh("cpu", (world,))) if world > 1 else []
    optimizer = make_optimizer(model, 0.1, whole)
    for group in optimizer.param_groups:
        group["lr"], group["foreach"] = 1e-2, True  # as on GPUs
    share = slice(rank * NUM_IMAGES // world, (rank + 1) * NUM_IMAGES // world)
    inputs = batch(case, share)
    output = model(**inputs)
    if case == "in parts" and world > 1:  # gradients add up in place and are averaged with the last part's
        for is_last, part in _halves(inputs):
            model.set_requires_gradient_sync(is_last)
            (loss_of(model(**part)) / 2).backward()
    else:
        loss_of(output).backward()
    found = {"features/text": output.text_embeds.detach(), "features/image": output.image_embeds.detach()}
    found["features/raw text"] = model.get_text_features(inputs["input_ids"][:, 0]).detach()
    for parameter in whole:
        if parameter.grad is not None:
            dist.all_reduce(parameter.grad)
            parameter.grad /= world
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            found[f"gradient/{name}"] = _full(parameter.grad)
    found["norm"] = _full(nn.utils.clip_grad_norm_(model.parameters(), 0.01, foreach=True))
    optimizer.step()
    found |= {f"weight/{name}": _full(parameter.detach()) for name, parameter in model.named_parameters()}
    found["held"] = torch.tensor([sum(_numel(p) for p in model.parameters()), sum(p.numel() for p in whole)])
    return found


def _halves(inputs: dict[str, Tensor]) -> Iterator[tuple[bool, dict[str, Tensor]]]:
    num = len(inputs["input_ids"]) // 2
    for i in range(2):
        yield i == 1, {name: x[i * num : (i + 1) * num] for name, x in inputs.items()}


def _full(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor.clone()


def _numel(parameter: nn.Parameter) -> int:
    return parameter.to_local().numel() if isinstance(parameter, DTensor) else parameter.numel()


if __name__ == "__main__":
    rank, world = int(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=world)
    torch.save({case: run(case, rank, world) for case in CASES}, sys.argv[4])
    dist.destroy_process_group()
