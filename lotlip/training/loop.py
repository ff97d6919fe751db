"""Training of one method, from samples to a published model folder.

Batches and draws follow from the seed and the position in the data, and a checkpoint keeps what dropout has drawn, so
a run that was killed and resumed, in the middle of an epoch or after it, ends with the same weights as one that was
not (on the same device, with the same number of threads).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from lotlip.data.loading.image_reader import ImageReader
from lotlip.data.loading.loader import Loader, SampleBatch
from lotlip.data.loading.order import EpochOrder
from lotlip.data.loading.pixels import PixelSource
from lotlip.data.loading.samples import Sample, TextRecipe
from lotlip.data.manifest import Manifest
from lotlip.errors import ModelError
from lotlip.model.build import Parts, build_model
from lotlip.model.devices import open_device
from lotlip.model.processor import LotlipProcessor
from lotlip.params import Method, Train
from lotlip.records import content_key, publish_folder
from lotlip.storage.leases import at_work
from lotlip.storage.objects import join
from lotlip.training.callbacks import Callback
from lotlip.training.checkpoint import Progress, load_checkpoint, save_checkpoint
from lotlip.training.curve import CURVE_ROWS, rounded, slot_names, summarize
from lotlip.training.features.cache import FeatureCache, weights_hash
from lotlip.training.features.store import FeatureStore
from lotlip.training.optim import learning_rate, make_optimizer
from lotlip.training.pixels import pixel_source
from lotlip.training.step import Batch, StepSums, train_step
from lotlip.training.texts import TextSource

TRAIN_VERSION = 2  # raise it when the same settings and samples would give other weights
NO_RESULT_CHANGES = {"num_workers", "checkpoints"}  # with these settings


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
    root: str | None = None,
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
        root: place in S3 where copies of checkpoints go; a machine without a checkpoint goes on from there.

    Raises:
        DataError: fewer samples than one batch, an image is missing or damaged, another run trains `out`, or the disk
            is full.
        ExecutorError: workers that decode images died again and again.
        ModelError: a checkpoint does not fit, or every step of an epoch had to be skipped.
    """
    device = open_device(settings.device)
    with at_work(work / "locks" / out.name, root), torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        parts = build_model(settings, method)
        run = _Run(parts, samples, images, settings, method, work, device, callbacks, root)
        run.all_steps()
    _publish(parts, out)
    metrics = run.metrics()
    for callback in callbacks:
        callback.on_end(metrics)
    return Result(metrics, run.progress.curve)


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
        root: str | None,
    ) -> None:
        self.samples, self.settings, self.method = samples, settings, method
        self.device, self.callbacks = device, callbacks
        key = _run_key(parts, samples, images, settings, method)
        self.checkpoint = work / "train" / key / "checkpoint.pt"
        self.copy = None if root is None else join(root, "checkpoints", f"{key}.pt")
        self.model = parts.model.to(device)
        recipe = TextRecipe(method.short_text, method.num_long, method.long_text, settings.run_length)
        self.texts = TextSource(parts.tokenizer, recipe, settings.seed)
        self.locked = method.image_tower == "locked"
        self.features: FeatureStore | None = None
        pixels = None
        if self.locked and settings.cached_crops:
            patches = method.objective == "late_interaction"
            tower = self.model.image_tower.eval()
            cache = FeatureCache(tower, parts.image_settings, images, samples, settings, work, patches=patches)
            cache.compute_missing()
            self.features = cache.open()
        else:
            reader = ImageReader(images, work / "shards", read_ahead=settings.order == "shards")
            pixels = pixel_source(reader, parts.image_settings, settings, locked=self.locked)
        self.loader = _open_loader(samples, settings, pixels, device)
        self.optimizer = make_optimizer(self.model, settings.weight_decay)
        self.num_steps = self.loader.batches_per_epoch * settings.epochs
        self.progress = Progress()

    def all_steps(self) -> None:
        self.progress = load_checkpoint(self.checkpoint, self.model, self.optimizer, self.copy)
        self.texts.counts.update(self.progress.counts)
        if self.progress.data:
            self.loader.load_state_dict(self.progress.data)
        for callback in self.callbacks:
            callback.on_start(self.progress.step, self.num_steps)
        self.model.train()
        if self.locked:
            self.model.image_tower.eval()
        every = max(1, self.num_steps // CURVE_ROWS)
        save_every = self.settings.checkpoints.every_steps
        for batch in self.loader:
            if batch.number == 0:  # the dropout of an epoch follows from its number
                torch.manual_seed((self.settings.seed * 1_000_003 + batch.epoch + 1) % 2**63)
            rate = learning_rate(
                self.progress.step, self.num_steps, self.settings.learning_rate, self.settings.warmup_share
            )
            self._step(batch, rate)
            ends_epoch = batch.number == self.loader.batches_per_epoch - 1
            if ends_epoch or self.progress.step % every == 0:
                self._log(batch.epoch, rate)
            if ends_epoch:
                self._end_epoch(batch.epoch)
            if ends_epoch or (save_every and self.progress.step % save_every == 0):
                self._save()

    def metrics(self) -> dict[str, float]:
        """Final losses (means over the last epoch) and counts of all that was seen, lost or skipped."""
        counts, losses = Counter(self.progress.counts), self.progress.losses
        names = slot_names(self.method.num_long, self.method.corner_tokens)
        return {
            **summarize(losses, self.settings),
            **{f"loss_{name}": rounded(loss) for name, loss in zip(names, losses, strict=True)},
            "logit_scale": rounded(self.model.logit_scale.exp().item()),
            "num_samples": len(self.samples),
            "without_long": sum(not sample.long for sample in self.samples),
            "without_rewrite": sum(not sample.rewrites for sample in self.samples),
            "epochs": self.settings.epochs,
            "steps": self.num_steps,
            "skipped_steps": counts["skipped_steps"],
            "pairs_seen": self.num_steps * self.settings.batch_size,
            "dropped_pairs": self.loader.dropped_per_epoch * self.settings.epochs,
            "texts_seen": counts["texts"],
            "truncated_text_share": rounded(counts["truncated_texts"] / max(1, counts["texts"])),
            "truncated_token_share": rounded(counts["lost_tokens"] / max(1, counts["tokens"])),
            "trained_parameters": sum(p.numel() for p in self.model.parameters() if p.requires_grad),
        }

    def _step(self, batch: SampleBatch, rate: float) -> None:
        samples = [self.samples[i] for i in batch.indices]
        ids, mask = (x.to(self.device) for x in self.texts.batch(samples, batch.visits.tolist()))
        images = batch.pixels if self.features is None else self.features.batch(batch.indices, batch.visits)
        assert images is not None
        inputs = Batch(ids, mask, images.to(self.device), precomputed=self.features is not None)
        result = train_step(self.model, self.optimizer, inputs, self.settings, self.method, rate)
        self.progress.step += 1
        self.progress.of_epoch.add(result)
        self.progress.of_row.add(result)
        self.texts.counts["skipped_steps"] += result.skipped

    def _end_epoch(self, epoch: int) -> None:
        sums, self.progress.of_epoch = self.progress.of_epoch, StepSums()
        if not sums.finite:
            raise ModelError(
                f"Loss or gradient of all {sums.steps} steps of epoch {epoch + 1} were not finite, so none "
                "was taken: lower train.learning_rate, and look for broken images or weights."
            )
        self.progress.losses = sums.mean_losses()

    def _save(self) -> None:
        self.progress.counts = dict(self.texts.counts)
        self.progress.data = self.loader.state_dict()
        save_checkpoint(self.checkpoint, self.model, self.optimizer, self.progress, self.copy)

    def _log(self, epoch: int, rate: float) -> None:
        sums, self.progress.of_row = self.progress.of_row, StepSums()
        if not sums.finite:
            return
        row = {
            "step": self.progress.step,
            "epoch": epoch + 1,
            **summarize(sums.mean_losses(), self.settings),
            "logit_scale": rounded(self.model.logit_scale.exp().item()),
            "learning_rate": rounded(rate),
            "grad_norm": rounded(sums.grad_norm / sums.finite),
        }
        self.progress.curve.append(row)
        for callback in self.callbacks:
            callback.on_log(self.progress.step, row)


def _open_loader(
    samples: Sequence[Sample], settings: Train, pixels: PixelSource | None, device: torch.device
) -> Loader:
    shards = [sample.shard for sample in samples]
    order = EpochOrder(shards, settings.seed, settings.order, settings.window_shards, settings.source_weights)
    return Loader(
        samples, order, batch_size=settings.batch_size, num_epochs=settings.epochs, pixels=pixels,
        num_workers=settings.num_workers, device=device,
    )  # fmt: skip


def _run_key(
    parts: Parts, samples: Sequence[Sample], images: Sequence[Manifest], settings: Train, method: Method
) -> str:
    """Hash of all that determines the trained weights, on a given device and number of threads."""
    tars = {shard.name: shard.files["tar"].sha256 for manifest in images for shard in manifest.shards}
    return content_key(
        {
            "version": TRAIN_VERSION,
            "initial_weights": weights_hash(parts.model),
            "settings": settings.model_dump(exclude=NO_RESULT_CHANGES),
            "method": method.model_dump(),
            "transform": asdict(parts.image_settings),
            "vocabulary": parts.tokenizer.fingerprint(),
            "tars": {name: tars.get(name) for name in sorted({sample.shard for sample in samples})},
            "samples": content_key([[s.shard, s.key, s.raw, list(s.long), list(s.rewrites)] for s in samples]),
        }
    )


def _publish(parts: Parts, out: Path) -> None:
    with publish_folder(out) as staging:
        parts.model.to("cpu").eval().save_pretrained(staging)
        LotlipProcessor(parts.tokenizer, parts.image_settings).save_pretrained(staging)
