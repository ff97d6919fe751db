"""Pretrain the sample's tiny image tower: a ViT that learns to name what stands in every cell of a drawn scene.

    python -m lotlip.sample.train_tower [--steps 2400] [--out lotlip/sample/weights/vit]

Two supervised tasks at once. Patch states of the last but one layer, averaged over a cell, name the cell's
object: these are the states that a LLaVA-class captioner reads. The class token's final state names every
cell and the background: this is the feature that the contrastive methods read.
"""

import argparse
import json
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from lotlip.records import write_json
from lotlip.sample import scenes
from lotlip.sample.scenes import Scene, make_scene, render

TRAIN_SEED = 7_000_000  # scenes of the tower's and captioners' training; the workflow uses other seeds
HELD_OUT_SEED = 7_000_001
MEAN = STD = 0.5

ATTRIBUTES = {
    "shape": ("nothing", *scenes.SHAPES),
    "colour": ("nothing", *scenes.COLOURS),
    "fill": ("nothing", *scenes.FILLS),
    "size": ("nothing", *scenes.SIZES),
}
WIDTHS = [len(values) for values in ATTRIBUTES.values()]
CELLS = scenes.GRID**2


def cell_targets(scene: Scene) -> np.ndarray[Any, Any]:
    """Class indices [CELLS, attributes] of a scene; 0 stands for an empty cell."""
    targets = np.zeros((CELLS, len(ATTRIBUTES)), dtype=np.int64)
    for thing in scene.objects:
        row = targets[thing.row * scenes.GRID + thing.column]
        for i, (name, values) in enumerate(ATTRIBUTES.items()):
            row[i] = values.index(getattr(thing, name))
    return targets


def pixels(batch: list[Scene]) -> Tensor:
    """Rendered scenes, float [B, 3, SIZE, SIZE], mean = std = 0.5."""
    images = np.stack([np.asarray(render(scene)) for scene in batch])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float().div_(255).sub_(MEAN).div_(STD)


class Supervised(nn.Module):
    """The tower with its two heads, which are thrown away after training."""

    def __init__(self, tower: nn.Module, width: int) -> None:
        super().__init__()
        self.tower = tower
        self.cell_head = nn.Linear(width, sum(WIDTHS))
        self.class_head = nn.Linear(width, CELLS * sum(WIDTHS))
        self.background_head = nn.Linear(width, len(scenes.BACKGROUNDS) + len(scenes.PATTERNS))

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits of cells read from patches and from the class token [B, CELLS, W], and of the background."""
        output = self.tower(pixels, output_hidden_states=True)
        patches = output.hidden_states[-2][:, 1:]
        side = math.isqrt(patches.shape[1])
        grid = patches.transpose(1, 2).unflatten(2, (side, side))
        cells = nn.functional.adaptive_avg_pool2d(grid, scenes.GRID).flatten(2).transpose(1, 2)
        token = output.last_hidden_state[:, 0]
        return self.cell_head(cells), self.class_head(token).unflatten(1, (CELLS, -1)), self.background_head(token)


def attribute_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross entropy over cells, summed over attributes; logits [B, CELLS, W], targets [B, CELLS, A]."""
    parts = torch.split(logits.flatten(0, 1), WIDTHS, dim=1)
    losses = [cross_entropy(part, targets[..., i].flatten()) for i, part in enumerate(parts)]
    return torch.stack(losses).sum()


def background_loss(logits: Tensor, batch: list[Scene]) -> Tensor:
    colours, patterns = torch.split(logits, [len(scenes.BACKGROUNDS), len(scenes.PATTERNS)], dim=1)
    colour = torch.tensor([list(scenes.BACKGROUNDS).index(scene.background) for scene in batch])
    pattern = torch.tensor([scenes.PATTERNS.index(scene.pattern) for scene in batch])
    return cross_entropy(colours, colour) + cross_entropy(patterns, pattern)


def accuracies(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Share of right answers per attribute, over the cells that hold an object."""
    occupied = targets[..., 0] > 0
    parts = torch.split(logits, WIDTHS, dim=-1)
    return {
        name: round((part.argmax(-1) == targets[..., i])[occupied].float().mean().item(), 4)
        for i, (name, part) in enumerate(zip(ATTRIBUTES, parts, strict=True))
    }


def build_tower(patch: int, width: int, layers: int) -> nn.Module:
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(
        image_size=scenes.SIZE,
        patch_size=patch,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=width // 32,
        intermediate_size=2 * width,
        hidden_act="relu",  # cheaper than GELU on a CPU
        layer_norm_eps=1e-6,
    )
    tower: nn.Module = ViTModel(config, add_pooling_layer=False)
    return tower


def train(steps: int, batch_size: int, patch: int, width: int, layers: int, rate: float) -> Supervised:
    """Train for a fixed number of steps: the same steps give the same weights, whatever the machine's speed."""
    torch.manual_seed(0)
    model = Supervised(build_tower(patch, width, layers), width)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.02, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.08)
    started = time.monotonic()
    for step in range(steps):
        batch = [make_scene(TRAIN_SEED, step * batch_size + i) for i in range(batch_size)]
        targets = torch.from_numpy(np.stack([cell_targets(scene) for scene in batch]))
        cells, token, background = model(pixels(batch))
        loss = attribute_loss(cells, targets) + attribute_loss(token, targets) + background_loss(background, batch)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0 or step == steps - 1:
            rate_per_s = (step + 1) * batch_size / (time.monotonic() - started)
            print(
                f"step {step}/{steps} loss {loss.item():.3f} {rate_per_s:.0f} images/s "
                f"patches {accuracies(cells, targets)} token {accuracies(token, targets)}",
                flush=True,
            )
    return model


@torch.no_grad()
def evaluate(model: Supervised, num_scenes: int = 1000) -> dict[str, dict[str, float]]:
    """Accuracies on held-out scenes, read from the patches and from the class token."""
    model.eval()
    batch = [make_scene(HELD_OUT_SEED, i) for i in range(num_scenes)]
    targets = torch.from_numpy(np.stack([cell_targets(scene) for scene in batch]))
    outputs = [model(pixels(batch[i : i + 100])) for i in range(0, num_scenes, 100)]
    cells, token = (torch.cat([output[i] for output in outputs]) for i in range(2))
    return {"patches": accuracies(cells, targets), "class_token": accuracies(token, targets)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2400)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--patch", type=int, default=16)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--out", type=Path, default=Path("lotlip/sample/weights/vit"))
    parser.add_argument("--card", type=Path, default=Path("lotlip/sample/cards/vit.json"))
    options = parser.parse_args()
    model = train(options.steps, options.batch_size, options.patch, options.width, options.layers, options.rate)
    result = evaluate(model)
    print(json.dumps(result, indent=2))
    model.tower.half().save_pretrained(options.out)  # type: ignore[operator]
    write_json(options.card, result)


if __name__ == "__main__":
    main()
