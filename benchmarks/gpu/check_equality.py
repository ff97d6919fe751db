"""Whether a GPU computes what the CPU does: towers, losses, the loader's copies, and the same numbers twice.

    python benchmarks/gpu/check_equality.py               # at ViT-B/16 and BERT-base width
    python benchmarks/gpu/check_equality.py --device cpu --tiny --out /tmp/equality   # tries the script out

Without a GPU it ends with status 2; with status 1 if a check fails. Differences are |found - expected| / |expected|,
over all numbers of a kind. Towers in float32 on the CPU are what the others are compared with:

- `float32`: on the device, without TF32; attention by length, as on the CPU;
- `bfloat16`, `float16`: in autocast, which takes torch's variable-length kernel on a GPU;
- `varlen`: that kernel against attention by length in the same 16 bits.

Then the tiled losses and late interaction in float32, pixels copied ahead by the loader, and three training steps in
deterministic mode, twice from the same seed: equal bit by bit.
"""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).parents[2]))
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic products of matrices need it

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.gpu.setting import arguments, device_of, make_config, train_settings
from benchmarks.texts import CORNERS, VOCABULARY, make_ids
from benchmarks.timing import machine
from lotlip.data.loading.loader import SampleBatch, _copied_ahead
from lotlip.losses.contrastive import contrastive_loss
from lotlip.losses.late_interaction import late_interaction_loss
from lotlip.losses.sigmoid import sigmoid_loss
from lotlip.model import packing
from lotlip.model.config import LotlipConfig
from lotlip.model.modeling import LotlipModel
from lotlip.params import Method
from lotlip.records import write_json
from lotlip.training.optim import make_optimizer
from lotlip.training.parallel import Network, numerics
from lotlip.training.ranks import Ranks
from lotlip.training.step import Batch, train_step

Numbers = dict[str, Tensor]
# Highest relative differences of features and gradients, by precision.
TOLERANCES = {"float32": (1e-4, 1e-3), "bfloat16": (3e-2, 1e-1), "float16": (5e-3, 3e-2)}
TOWERS: dict[str, dict[str, Any]] = {
    "bert": {},
    "bert, 4 corners": {"corners": 4},
    "bert, no mask": {"corner_mask": False},
    "bert, no corners": {"corners": 0},
    "bert, tokens": {"corners": 0, "token_features": True},
    "causal": {"kind": "causal", "corners": 0},
}


def main() -> None:
    asked = arguments(__doc__).parse_args()
    device = device_of(asked.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    rows = []
    for name, difference, tolerance in checks(device, asked.tiny):
        ok = difference <= tolerance
        rows.append({"check": name, "difference": difference, "tolerance": tolerance, "ok": ok})
        print(f"{'ok  ' if ok else 'FAIL'} {name}: {difference:.2e} (at most {tolerance:.0e})", flush=True)
    asked.out.mkdir(parents=True, exist_ok=True)
    failed = [row["check"] for row in rows if not row["ok"]]
    write_json(asked.out / "gpu_equality.json", {"checks": rows, "failed": failed, **machine()})
    if failed:
        sys.exit(f"error: {len(failed)} of {len(rows)} checks failed: {', '.join(failed)}")


def checks(device: torch.device, tiny: bool) -> Iterator[tuple[str, float, float]]:
    """Name, difference and tolerance of each check."""
    for name, changes in TOWERS.items():
        for what, difference, tolerance in tower_checks(make_config(tiny=tiny, **changes), device, 4 if tiny else 32):
            yield f"{name}: {what}", difference, tolerance
    yield from loss_checks(device)
    if device.type == "cuda":
        yield "pixels copied ahead", copies_that_differ(device), 0.0
    yield "deterministic, twice", repeated_training(device, tiny), 0.0


def tower_checks(config: LotlipConfig, device: torch.device, num_images: int) -> Iterator[tuple[str, float, float]]:
    """Features and gradients of both towers, in each precision."""
    torch.manual_seed(0)
    model = LotlipModel(config).train()
    with torch.no_grad():  # features that are not all alike
        for parameter in model.text_tower.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    ids, pixels = texts(config, num_images), pixels_of(config, num_images)
    expected = run(model, ids, pixels, torch.device("cpu"), torch.float32)
    on_gpu = device.type == "cuda"
    for name in ("float32", "bfloat16", "float16") if on_gpu else ("float32", "bfloat16"):
        dtype = getattr(torch, name)
        with patch.object(packing.varlen, "varlen_attn", wraps=packing.varlen.varlen_attn) as kernel:
            found = run(model, ids, pixels, device, dtype)
        yield from compared(name, found, expected, name)
        if on_gpu and name != "float32":
            yield f"{name}, layers without the kernel", float(kernel.call_count == 0), 0.0
            with patch.object(packing, "has_varlen_kernel", lambda query: False):
                by_length = run(model, ids, pixels, device, dtype)
            texts_alone = {part: x for part, x in by_length.items() if part.startswith("text")}
            yield from compared(f"varlen, {name}", found, texts_alone, name)


def compared(what: str, found: Numbers, expected: Numbers, precision: str) -> Iterator[tuple[str, float, float]]:
    """A check of each kind of numbers expected."""
    for part, difference in differences(found, expected).items():
        yield f"{what}, {part}", difference, TOLERANCES[precision]["gradients" in part]


def run(model: LotlipModel, ids: Tensor, pixels: Tensor, device: torch.device, dtype: torch.dtype) -> Numbers:
    """Features and gradients of a smooth function of them, by tower, on the CPU in float32."""
    model.to(device).zero_grad()
    with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        output = model(ids.to(device), pixel_values=pixels.to(device))
    text, image = output.text_embeds.float(), output.image_embeds.float()
    weights = torch.linspace(-1, 1, text.shape[-1], device=device)
    scaled = 1000 * ((text * weights).sin().sum() + (image * weights).sin().sum())  # float16 loses small gradients
    scaled.backward()
    numbers = {"text features": text, "image features": image}
    for name, tower in (("text", model.text_tower), ("image", model.image_tower)):
        gradients = [p.grad.flatten() for p in tower.parameters() if p.grad is not None]
        numbers[f"{name} gradients"] = torch.cat(gradients) / 1000
    return {name: x.detach().float().cpu() for name, x in numbers.items()}


def texts(config: LotlipConfig, num_images: int) -> Tensor:
    """Ids [B, 3, L] of a raw text and two runs an image, with the model's corners; for token features of one text."""
    kinds = ("raw",) if config.token_features else ("raw", "run", "run")
    ids = torch.stack([make_ids(kind, num_images, seed) for seed, kind in enumerate(kinds)], dim=1)
    corners = VOCABULARY + torch.arange(config.num_corner_tokens).expand(*ids.shape[:2], -1)
    longest = config.token_limit - config.num_corner_tokens - 1
    text = ids[..., 1 + CORNERS :][..., :longest]
    return torch.cat([ids[..., :1], corners, text], dim=2)


def pixels_of(config: LotlipConfig, num_images: int) -> Tensor:
    side = config.vision_config.image_size
    return torch.randn(num_images, 3, side, side, generator=torch.Generator().manual_seed(0))


def differences(found: Numbers, expected: Numbers) -> dict[str, float]:
    """Relative differences by name."""
    return {name: ((found[name] - wanted).norm() / wanted.norm()).item() for name, wanted in expected.items()}


def loss_checks(device: torch.device) -> Iterator[tuple[str, float, float]]:
    """Losses and gradients of embeddings in float32, on the device in many tiles, on the CPU in one."""
    losses: dict[str, Callable[..., Tensor]] = {
        "softmax": lambda x, tile: contrastive_loss(
            x["image"], x["text"], x["scale"], [1.0, 0.5, 2.0], label_smoothing=0.1, tile_bytes=tile
        )[0],
        "sigmoid": lambda x, tile: sigmoid_loss(
            x["image"], x["text"], x["scale"], x["bias"], [1.0, 0.5, 2.0], tile_bytes=tile
        )[0],
        "late interaction": lambda x, tile: late_interaction_loss(
            x["patches"], x["tokens"], x["keep"], x["scale"], block_bytes=tile or 2**26
        ),
    }
    for name, loss in losses.items():
        found, expected = (loss_and_gradients(loss, where, tile) for where, tile in ((device, 2**13), ("cpu", None)))
        yield f"{name} loss, tiled", max(differences(found, expected).values()), 1e-4


def loss_and_gradients(loss: Callable[..., Tensor], device: Any, tile: int | None) -> Numbers:
    generator = torch.Generator().manual_seed(0)

    def unit(*shape: int) -> Tensor:
        return functional.normalize(torch.randn(*shape, generator=generator), dim=-1)

    leaves = {"image": unit(96, 32), "text": unit(96, 3, 32), "patches": unit(96, 9, 32), "tokens": unit(96, 12, 32)}
    leaves |= {"scale": torch.tensor(9.0), "bias": torch.tensor(-3.0)}
    leaves = {name: x.to(device).requires_grad_() for name, x in leaves.items()}
    lengths = torch.randint(1, 13, (96,), generator=generator)
    lengths[0] = 12
    value = loss({**leaves, "keep": (torch.arange(12) < lengths[:, None]).to(device)}, tile)
    value.backward()
    gradients = {name: x.grad.cpu() for name, x in leaves.items() if x.grad is not None}
    return {"loss": value.detach().cpu(), **gradients}


def copies_that_differ(device: torch.device) -> float:
    """How many of 50 batches arrive otherwise than they were, while the GPU is kept busy."""

    def batches() -> Iterator[SampleBatch]:
        for i in range(50):
            pixels = torch.full((64, 3, 64, 64), float(i)).pin_memory()
            yield SampleBatch(0, i, np.arange(64), np.zeros(64, dtype=np.int64), (pixels, pixels))

    busy, wrong = torch.randn(2048, 2048, device=device), 0
    for batch in _copied_ahead(batches(), device):
        seen = batch.content[0].amin(), batch.content[1].amax()
        busy = functional.normalize(busy @ busy, dim=-1)
        wrong += any(x.item() != batch.number for x in seen)
    return float(wrong)


def repeated_training(device: torch.device, tiny: bool) -> float:
    """The largest difference between weights of two runs of three steps in deterministic mode."""
    first, second = (trained(device, tiny) for _ in range(2))
    return max((first[name].double() - second[name].double()).abs().max().item() for name in first)


def trained(device: torch.device, tiny: bool) -> Numbers:
    torch.manual_seed(0)
    config, settings = make_config(tiny=tiny), train_settings(device, deterministic=True)
    model, ranks = LotlipModel(config).train(), Ranks(0, 1, device)
    network = Network(model, settings.compute, ranks)
    optimizer = make_optimizer(model, settings.weight_decay, network.whole)
    method = Method(image_tower="unlocked", num_long=2, corner_tokens=CORNERS)
    ids = texts(config, 8).to(device)
    mask = (ids != 0).long()
    batch = Batch(ids, mask, pixels_of(config, 8).to(device), mask.sum(dim=-1).cpu().numpy(), precomputed=False)
    with numerics(settings.compute, device):
        for _ in range(3):
            train_step(network, optimizer, batch, settings, method, 1e-3, ranks, lambda _: None)
    return {name: x.cpu() for name, x in model.state_dict().items()}


if __name__ == "__main__":
    main()
