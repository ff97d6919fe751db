"""Memory of a GPU in training, estimated by part.

Weights, gradients and the optimizer's state are exact; activations follow what layers of transformers keep for the
backward pass (tests compare it with what autograd saves); the rest is small.
"""

from dataclasses import asdict, dataclass
from typing import Any

from transformers.modeling_layers import GradientCheckpointingLayer

from lotlip.losses.late_interaction import BLOCK_BYTES
from lotlip.losses.tiles import TILE_BYTES
from lotlip.model.flops import num_patches
from lotlip.model.modeling import LotlipModel
from lotlip.model.outline import Outline
from lotlip.params import Compute, Method, Train

RESERVE = 2e9  # CUDA's context, kernels' workspaces and the allocator's gaps
_FLOAT = 4
# Bytes that a layer keeps of a row: so many times the width, and so many times the width of the feed-forward part.
_KEPT = {"bfloat16": (28, 4), "float32": (36, 8), "float64": (72, 16)}
_TWO_PRODUCTS = ("quick_gelu", "silu")  # activations that keep half as much again of the feed-forward part


@dataclass(frozen=True)
class TrainMemory:
    """Bytes of one GPU, by part."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    embeddings: float
    logits: float
    reserve: float = RESERVE

    @property
    def total(self) -> float:
        return float(sum(asdict(self).values()))


def train_memory(
    outline: Outline, settings: Train, method: Method, short: float, long: float, *, cached: bool
) -> TrainMemory:
    """Memory that training takes on one GPU.

    Args:
        outline: of the model.
        settings: of the method.
        method: the method.
        short, long: mean rows computed of a short and of a long text.
        cached: whether features of the image tower are there already.
    """
    compute, config, model = settings.compute, outline.config, outline.model
    trained, locked = outline.num_trained, outline.num_locked
    share = settings.batch_size // compute.processes
    micro = min(share, compute.micro_batch_size or share)
    parts = compute.processes if compute.sharding == "fsdp" else 1
    whole = trained if parts == 1 else _gathered(outline)  # at a time
    wide = _wide(compute)
    weights = wide * (trained / parts + locked) + (wide * whole if parts > 1 else 0)
    if compute.precision == "bfloat16":
        weights += 2 * (whole + (0 if cached else locked))  # copies of autocast
    a_pair = _tower(config.text_config, compute, short + method.num_long * long)
    if not cached:
        a_pair += _images(config.vision_config, compute, trained=method.image_tower != "locked")
    return TrainMemory(
        weights=weights,
        gradients=wide * trained / parts,
        optimizer=2 * wide * trained / parts,
        activations=micro * a_pair,
        embeddings=_embeddings(model, settings, method, short),
        logits=_logits(model, settings, share),
    )


def kept_bytes(config: Any, precision: str) -> float:
    """Bytes that one layer of a tower keeps of one row for the backward pass."""
    inner = getattr(config, "intermediate_size", None) or int(config.hidden_size * config.mlp_ratio)
    of_width, of_inner = _KEPT[precision]
    more = 1.5 if config.hidden_act in _TWO_PRODUCTS else 1.0
    return float(of_width * config.hidden_size + more * of_inner * inner)


def _images(config: Any, compute: Compute, *, trained: bool) -> float:
    """Of one image: its pixels, and what all layers keep, or for a locked tower one of them."""
    rows = num_patches(config) + 1
    pixels = _FLOAT * config.num_channels * config.image_size**2
    return float(pixels + (_tower(config, compute, rows) if trained else rows * kept_bytes(config, compute.precision)))


def _tower(config: Any, compute: Compute, rows: float) -> float:
    """Of so many rows: what all layers keep, or with checkpointing their inputs and one layer."""
    layer, layers = kept_bytes(config, compute.precision), int(config.num_hidden_layers)
    if compute.gradient_checkpointing:
        return rows * (layers * _wide(compute) * int(config.hidden_size) + 2 * layer)
    return rows * (layers + 1) * layer  # and one more, of gradients on their way


def _embeddings(model: LotlipModel, settings: Train, method: Method, short: float) -> float:
    """Of all pairs, with their gradients."""
    config = model.config
    if config.token_features:
        features = num_patches(config.vision_config) + short
    else:
        features = 2 + method.num_long * (1 + config.num_corner_tokens)
    return float(2 * _FLOAT * settings.batch_size * features * config.embed_dim)


def _logits(model: LotlipModel, settings: Train, share: int) -> float:
    of_slot = float(_FLOAT * share * settings.batch_size)
    if model.config.token_features:
        return 3 * BLOCK_BYTES + 4 * of_slot  # similarities, what is masked, their gradient; scores both ways
    return 3 * min(of_slot, float(TILE_BYTES["cuda"]))


def _gathered(outline: Outline) -> int:
    """Trained weights whole at a time under fsdp: two layers, one of which runs, and all that is in no layer."""
    layers = [module for module in outline.model.modules() if isinstance(module, GradientCheckpointingLayer)]
    sizes = [sum(int(p.numel()) for p in layer.parameters() if p.requires_grad) for layer in layers]
    return outline.num_trained - sum(sizes) + 2 * max(sizes, default=0)


def _wide(compute: Compute) -> int:
    return 2 * _FLOAT if compute.precision == "float64" else _FLOAT
