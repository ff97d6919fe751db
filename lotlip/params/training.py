"""Sections of training and evaluation."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from lotlip.params.section import Device, Name, PositiveFloat, PositiveInt, PositiveShare, Section, Share


class ScenesEvalset(Section):
    """Held-out rendered scenes with reference descriptions, five short captions, or classes."""

    kind: Literal["scenes"]
    path: Path
    texts: Literal["reference", "short", "classes"]
    num_images: PositiveInt
    seed: int


class HoldoutEvalset(Section):
    """The held-out share of a source, with its raw captions; `path` is the source's data/images/<source>."""

    kind: Literal["holdout"]
    path: Path

    @property
    def source(self) -> str:
        return self.path.name


class PublishedEvalset(Section):
    """A published set, or one's own in a simple layout (`lotlip check-set` lists them); its images stay where they are.

    `path` is its folder or annotation file, watched by DVC. `images` is what image names are relative to where that is
    elsewhere, such as all of SA-1B; DVC does not watch it, and the set holds the SHA-256 of every image used.
    """

    kind: Literal["published"]
    dataset: Literal[
        "sharegpt4v_1k",
        "sharegpt4v_10k",
        "dci",
        "iiw",
        "urban1k",
        "docci",
        "coco",
        "flickr30k",
        "imagenet",
        "jsonl",
        "csv",
    ]
    path: Path
    images: Path | None = None
    allow_missing: bool = False
    normalize_long: bool | None = None


Evalset = Annotated[ScenesEvalset | HoldoutEvalset | PublishedEvalset, Field(discriminator="kind")]


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("expected [least, greatest]")
    return pair


Decode = Literal["full", "scaled"]
Ascending = AfterValidator(_ascending)


class Augment(Section):
    """Random changes of training images: a crop, a flip, and operations of RandAugment, in this order."""

    scale: Annotated[tuple[PositiveShare, PositiveShare], Ascending] = (0.9, 1.0)
    ratio: Annotated[tuple[PositiveFloat, PositiveFloat], Ascending] = (3 / 4, 4 / 3)
    flip: Share = 0.0
    num_ops: Annotated[int, Field(ge=0)] = 0
    magnitude: Annotated[int, Field(ge=0, le=30)] = 9


Precision = Literal["float32", "bfloat16", "float64"]


class Compute(Section):
    """Where and how training computes; but for precision and TF32, results differ by rounding alone."""

    processes: PositiveInt
    sharding: Literal["ddp", "fsdp"]
    micro_batch_size: PositiveInt | None
    gradient_checkpointing: bool
    compile: bool
    precision: Precision
    tf32: bool
    sdpa: Literal["auto", "flash", "efficient", "cudnn", "math"]
    deterministic: bool


class Checkpoints(Section):
    """When a checkpoint is written besides at the end of each epoch, and how many stay."""

    every_steps: PositiveInt | None
    every_minutes: PositiveFloat | None
    keep: PositiveInt


class Guards(Section):
    """What training does about numbers that are not finite, and about a loss that jumps."""

    max_skipped_steps: PositiveInt
    max_rollbacks: Annotated[int, Field(ge=0)]
    spike_deviations: PositiveFloat


class Train(Section):
    """Settings that all methods share, unless a method's own `train` says otherwise."""

    epochs: PositiveInt | None
    steps: PositiveInt | None
    samples: PositiveInt | None
    batch_size: Annotated[int, Field(ge=2)]
    learning_rate: PositiveFloat
    weight_decay: Annotated[float, Field(ge=0.0)]
    warmup_share: Share | None
    warmup_steps: Annotated[int, Field(ge=0)] | None
    warmup_samples: Annotated[int, Field(ge=0)] | None
    grad_clip: PositiveFloat
    image_tower: str
    image_tower_revision: str | None
    tokenizer: str
    tokenizer_revision: str | None
    text_tower: str | None
    text_tower_revision: str | None
    text_layers: PositiveInt
    text_width: PositiveInt
    text_heads: PositiveInt
    text_dropout: Share
    embed_dim: PositiveInt
    token_limit: Annotated[int, Field(ge=8)]
    keep_positions: Annotated[int, Field(ge=0)]
    run_length: PositiveInt
    weight_raw: Annotated[float, Field(ge=0.0)]
    weight_long: Annotated[float, Field(ge=0.0)]
    decode: Decode
    augment: Augment | None
    cached_crops: Annotated[int, Field(ge=0)]
    order: Literal["global", "shards"]
    window_shards: Annotated[int, Field(gt=0, le=256)]  # so many files a worker keeps open
    source_weights: dict[Name, PositiveFloat]
    num_workers: Annotated[int, Field(ge=0)]
    device: Device
    seed: Annotated[int, Field(ge=0)]
    compute: Compute
    checkpoints: Checkpoints
    guards: Guards

    @model_validator(mode="after")
    def _check(self) -> "Train":
        _exactly_one({name: getattr(self, name) for name in ("epochs", "steps", "samples")})
        _exactly_one({name: getattr(self, name) for name in ("warmup_share", "warmup_steps", "warmup_samples")})
        if self.batch_size % self.compute.processes:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be shared by compute.processes {self.compute.processes}: make it "
                "a multiple"
            )
        return self


def _exactly_one(settings: dict[str, float | None]) -> None:
    given = {name: value for name, value in settings.items() if value is not None}
    if len(given) != 1:
        found = ", ".join(f"{name}: {value}" for name, value in given.items()) or "none of them"
        raise ValueError(f"give one of {', '.join(settings)} and null for the others; there is {found}")


class Method(Section):
    """What makes a method that method: its towers, its texts, its objective; the defaults are those of LiT."""

    image_tower: Literal["locked", "unlocked", "fresh"] = "locked"
    image_projection: bool = False
    text_tower: Literal["bert", "causal"] = "bert"
    corner_tokens: Annotated[int, Field(ge=0)] = 0
    corner_mask: bool = True
    short_text: Literal["raw", "raw_or_rewrite", "first_sentence"] = "raw"
    num_long: Annotated[int, Field(ge=0)] = 0
    long_text: Literal["runs", "whole"] = "runs"
    captioners: Annotated[list[Name], Field(min_length=1)] | None = None
    objective: Literal["softmax", "sigmoid", "late_interaction"] = "softmax"
    sigmoid_bias: float = -10.0
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    short_components: PositiveInt | None = None
    train: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> "Method":
        if self.corner_tokens and self.text_tower != "bert":
            raise ValueError("corner_tokens need text_tower: bert")
        if self.objective != "softmax" and (self.label_smoothing or self.short_components):
            raise ValueError(f"label_smoothing and short_components belong to objective: softmax, not {self.objective}")
        if self.objective == "late_interaction" and (self.num_long or self.corner_tokens):
            raise ValueError("objective: late_interaction takes one text an image and no corner_tokens")
        return self


class Checkpoint(Section):
    """A model that others trained, to be evaluated beside the methods: a folder, or a hub id and its commit."""

    model: str
    revision: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None


class Evaluate(Section):
    batch_size: PositiveInt
    device: Device
