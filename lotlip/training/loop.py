"""Training of one method, from samples to a published model folder.

Every batch, draw and dropout mask follows from (seed, epoch), so a run that was killed and resumed at an
epoch ends with the same weights as one that was not (on the same device, with the same number of threads).
"""

import csv
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lotlip.data.manifest import Manifest
from lotlip.data.samples import Sample, TextRecipe, epoch_order
from lotlip.errors import DataError, ModelError
from lotlip.model.build import Parts, build_model
from lotlip.model.devices import open_device
from lotlip.model.processor import LotlipProcessor
from lotlip.params import Method, Train
from lotlip.records import content_key, locked, publish_folder, write_text
from lotlip.training.callbacks import Callback
from lotlip.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from lotlip.training.features import PixelSource, cached_features, weights_hash
from lotlip.training.optim import learning_rate, make_optimizer
from lotlip.training.step import Batch, StepResult, train_step
from lotlip.training.texts import TextSource

CURVE_ROWS = 100  # about as many rows has a training curve, and at least one an epoch
TRAIN_VERSION = 2  # raise it when the same settings and samples would give other weights


@dataclass(frozen=True)
class Result:
    """Final metrics (flat numbers) and the training curve, both free of timings."""

    metrics: dict[str, float]
    curve: list[dict[str, float]]


def train(
    samples: Sequence[Sample],
    images: Sequence[Manifest],
    settings: Train,
    method: Method,
    out: Path,
    work: Path,
    callbacks: Sequence[Callback] = (),
) -> Result:
    """Train a method and publish the model folder `out`, resuming what `work` holds of the same run.

    Args:
        samples: image-text samples, at least one batch of them.
        images: manifests whose shards hold the samples' images.
        settings: what all methods share, with what this one sets otherwise (`Params.train_settings`).
        method: what makes this one.
        out: becomes a folder for `LotlipModel.from_pretrained` and `LotlipProcessor.from_pretrained`.
        work: keeps image features and checkpoints under names that depend on all their inputs.
        callbacks: hear of every row of the curve.

    Raises:
        DataError: fewer samples than one batch, an image is missing or damaged, or another run trains `out`.
        ModelError: a checkpoint does not fit, or every step of an epoch had to be skipped.
    """
    if len(samples) < settings.batch_size:
        raise DataError(
            f"There are {len(samples)} samples and train.batch_size is {settings.batch_size}: an epoch "
            "has no complete batch. Lower train.batch_size, or give more data."
        )
    device = open_device(settings.device)
    with locked(work / "locks" / out.name), torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        parts = build_model(settings, method)
        run = _Run(parts, samples, images, settings, method, work, device, callbacks)
        run.all_epochs()
    _publish(parts, out)
    metrics = run.metrics()
    for callback in callbacks:
        callback.on_end(metrics)
    return Result(metrics, run.progress.curve)


def write_curve(path: Path, curve: Sequence[dict[str, float]]) -> None:
    """Write the rows of a training curve as CSV, atomically."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(curve[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(curve)
    write_text(path, buffer.getvalue())


class _Run:
    """One training run: its parts, where it stands, and its epochs."""

    def __init__(
        self,
        parts: Parts,
        samples: Sequence[Sample],
        images: Sequence[Manifest],
        settings: Train,
        method: Method,
        work: Path,
        device: torch.device,
        callbacks: Sequence[Callback],
    ) -> None:
        self.samples, self.settings, self.method = samples, settings, method
        self.device, self.callbacks = device, callbacks
        self.checkpoint = work / "train" / _run_key(parts, samples, settings, method) / "checkpoint.pt"
        self.model = parts.model.to(device)
        recipe = TextRecipe(method.short_text, method.num_long, method.long_text, settings.run_length)
        self.texts = TextSource(parts.tokenizer, recipe, settings.seed)
        self.features: torch.Tensor | None = None
        if method.image_tower == "locked":
            tower = self.model.image_tower.eval()
            patches = method.objective == "late_interaction"
            folder = work / "features"
            self.features = cached_features(tower, parts.image_settings, images, samples, folder, patches=patches)
        self.pixels = PixelSource(images, parts.image_settings)
        self.optimizer = make_optimizer(self.model, settings.weight_decay)
        self.steps_per_epoch = len(samples) // settings.batch_size
        self.num_steps = self.steps_per_epoch * settings.epochs
        self.progress = Progress()

    def all_epochs(self) -> None:
        self.progress = load_checkpoint(self.checkpoint, self.model, self.optimizer)
        self.texts.counts.update(self.progress.counts)
        for callback in self.callbacks:
            callback.on_start(self.progress.step, self.num_steps)
        while self.progress.epoch < self.settings.epochs:
            self._epoch(self.progress.epoch)
            self.progress.epoch += 1
            self.progress.counts = dict(self.texts.counts)
            save_checkpoint(self.checkpoint, self.model, self.optimizer, self.progress)

    def metrics(self) -> dict[str, float]:
        """Final losses (means over the last epoch) and counts of all that was seen, lost or skipped."""
        counts, losses = Counter(self.progress.counts), self.progress.losses
        names = slot_names(self.method.num_long, self.method.corner_tokens)
        batch_size = self.settings.batch_size
        return {
            **_summary(losses, self.settings),
            **{f"loss_{name}": _rounded(loss) for name, loss in zip(names, losses, strict=True)},
            "logit_scale": _rounded(self.model.logit_scale.exp().item()),
            "num_samples": len(self.samples),
            "without_long": sum(not sample.long for sample in self.samples),
            "without_rewrite": sum(not sample.rewrites for sample in self.samples),
            "epochs": self.settings.epochs,
            "steps": self.num_steps,
            "skipped_steps": counts["skipped_steps"],
            "pairs_seen": self.num_steps * batch_size,
            "dropped_pairs": (len(self.samples) - self.steps_per_epoch * batch_size) * self.settings.epochs,
            "texts_seen": counts["texts"],
            "truncated_text_share": _rounded(counts["truncated_texts"] / max(1, counts["texts"])),
            "truncated_token_share": _rounded(counts["lost_tokens"] / max(1, counts["tokens"])),
            "trained_parameters": sum(p.numel() for p in self.model.parameters() if p.requires_grad),
        }

    def _epoch(self, epoch: int) -> None:
        torch.manual_seed((self.settings.seed * 1_000_003 + epoch + 1) % 2**63)  # dropout of this epoch
        self.model.train()
        if self.features is not None:
            self.model.image_tower.eval()
        order = epoch_order(len(self.samples), self.settings.seed, epoch)
        every = max(1, self.num_steps // CURVE_ROWS)
        done: list[StepResult] = []
        since_row: list[StepResult] = []
        for i in range(self.steps_per_epoch):
            chosen = order[i * self.settings.batch_size : (i + 1) * self.settings.batch_size]
            rate = learning_rate(
                self.progress.step, self.num_steps, self.settings.learning_rate, self.settings.warmup_share
            )
            result = self._step(chosen, epoch, rate)
            self.progress.step += 1
            done.append(result)
            since_row.append(result)
            if self.progress.step % every == 0 or i == self.steps_per_epoch - 1:
                self._log(since_row, epoch, rate)
                since_row = []
        finite = [result for result in done if not result.skipped]
        if not finite:
            raise ModelError(
                f"Loss or gradient of all {len(done)} steps of epoch {epoch + 1} were not finite, so none "
                "was taken: lower train.learning_rate, and look for broken images or weights."
            )
        self.progress.losses = np.mean([result.slot_losses for result in finite], axis=0).tolist()

    def _step(self, chosen: Any, epoch: int, rate: float) -> StepResult:
        batch = [self.samples[i] for i in chosen]
        ids, mask = (x.to(self.device) for x in self.texts.batch(batch, epoch))
        features = self.features
        images = self.pixels.batch(batch) if features is None else features[torch.from_numpy(chosen)]
        inputs = Batch(ids, mask, images.to(self.device), precomputed=features is not None)
        result = train_step(self.model, self.optimizer, inputs, self.settings, self.method, rate)
        self.texts.counts["skipped_steps"] += result.skipped
        return result

    def _log(self, results: list[StepResult], epoch: int, rate: float) -> None:
        finite = [result for result in results if not result.skipped]
        if not finite:
            return
        row = {
            "step": self.progress.step,
            "epoch": epoch + 1,
            **_summary(np.mean([result.slot_losses for result in finite], axis=0).tolist(), self.settings),
            "logit_scale": _rounded(self.model.logit_scale.exp().item()),
            "learning_rate": _rounded(rate),
            "grad_norm": _rounded(float(np.mean([result.grad_norm for result in finite]))),
        }
        self.progress.curve.append(row)
        for callback in self.callbacks:
            callback.on_log(self.progress.step, row)


def slot_names(num_long: int, corner_tokens: int) -> list[str]:
    """Names of a method's text slots, in METHOD's order: `raw`, `long0_cls`, `long0_corner0`, ..."""
    long = [
        f"long{k}_{name}" for k in range(num_long) for name in ("cls", *(f"corner{c}" for c in range(corner_tokens)))
    ]
    return ["raw", *long]


def _summary(slot_losses: Sequence[float], settings: Train) -> dict[str, float]:
    """The loss L, and its two parts as plain means over slots; without long texts there is no loss_long."""
    raw, long = slot_losses[0], slot_losses[1:]
    total = (settings.weight_raw * raw + settings.weight_long * sum(long)) / len(slot_losses)
    parts = {"loss": _rounded(total), "loss_raw": _rounded(raw)}
    return {**parts, "loss_long": _rounded(sum(long) / len(long))} if long else parts


def _run_key(parts: Parts, samples: Sequence[Sample], settings: Train, method: Method) -> str:
    """Hash of all that determines the trained weights, on a given device and number of threads."""
    return content_key(
        {
            "version": TRAIN_VERSION,
            "initial_weights": weights_hash(parts.model),
            "settings": settings.model_dump(),
            "method": method.model_dump(),
            "transform": asdict(parts.image_settings),
            "vocabulary": parts.tokenizer.fingerprint(),
            "samples": content_key([[s.shard, s.key, s.raw, list(s.long), list(s.rewrites)] for s in samples]),
        }
    )


def _publish(parts: Parts, out: Path) -> None:
    with publish_folder(out) as staging:
        parts.model.to("cpu").eval().save_pretrained(staging)
        LotlipProcessor(parts.tokenizer, parts.image_settings).save_pretrained(staging)


def _rounded(value: float) -> float:
    return float(f"{value:.6g}")
