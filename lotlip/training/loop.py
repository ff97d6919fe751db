"""Training of one method, from samples to a published model folder, on one process or many.

Batches and draws follow from the seed and the place in the data, dropout from the seed, the step and the process. So a
run that was killed and resumed, in the middle of an epoch or after it, ends with the same weights as one that was not
(bit for bit on a CPU with as many processes and threads), and a run may go on with another number of processes.
"""

import hashlib
import math
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from lotlip.data.loading.image_reader import ImageReader
from lotlip.data.loading.loader import Loader, SampleBatch
from lotlip.data.loading.order import EpochOrder
from lotlip.data.loading.pixels import PixelSource
from lotlip.data.loading.sample_table import SampleTable
from lotlip.data.loading.samples import TextRecipe
from lotlip.data.manifest import Manifest
from lotlip.errors import ModelError
from lotlip.model.build import Parts, build_model
from lotlip.model.flops import ImageWork, step_flops
from lotlip.model.gpus import peak_flops
from lotlip.model.processor import LotlipProcessor
from lotlip.params import Method, Train
from lotlip.records import publish_folder, write_text
from lotlip.storage.leases import at_work
from lotlip.storage.objects import join
from lotlip.training.callbacks import Callback
from lotlip.training.checkpoint import Checkpoints, Progress
from lotlip.training.curve import CURVE_ROWS, rounded, slot_names, summarize
from lotlip.training.features.cache import FeatureCache
from lotlip.training.features.store import FeatureStore
from lotlip.training.identity import note_run, run_config, run_folder
from lotlip.training.meter import Meter
from lotlip.training.optim import learning_rate, make_optimizer, num_steps, warmup_steps
from lotlip.training.parallel import DTYPES, Network, numerics
from lotlip.training.pixels import pixel_source
from lotlip.training.ranks import Ranks, is_launched, open_ranks
from lotlip.training.step import Batch, StepSums, train_step
from lotlip.training.stopping import StopSignals
from lotlip.training.texts import TextSource


@dataclass(frozen=True)
class Result:
    """Final metrics (flat numbers) and the training curve, both free of timings."""

    metrics: dict[str, float]
    curve: list[dict[str, float]]


def train(
    samples: SampleTable,
    images: Sequence[Manifest],
    settings: Train,
    method: Method,
    out: Path,
    work: Path,
    callbacks: Sequence[Callback] = (),
    root: str | None = None,
) -> Result:
    """Train a method and publish the model folder `out`, resuming what `work` holds of the same run.

    Called by every process that torchrun has started, with the same arguments; the first one alone writes and speaks.

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
        ExecutorError: workers that decode images died again and again, or there are fewer processes than asked for.
        ModelError: a checkpoint does not fit, or too many steps had to be skipped.
        ParamsError: a device or a kernel is not there.
        KeyboardInterrupt, SystemExit: SIGINT or SIGTERM came; a checkpoint of the last step is written.
    """
    compute = settings.compute
    with open_ranks(settings.device, compute.processes) as ranks, numerics(compute, ranks.device):
        alone = at_work(work / "locks" / out.name, root) if ranks.is_first else nullcontext()
        with alone, torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            parts = build_model(settings, method)
            heard = callbacks if ranks.is_first else ()
            run = _Run(parts, samples, images, settings, method, out.name, work, ranks, heard, root)
            run.all_steps()
            run.publish(out)
        metrics = run.metrics()
        for callback in run.callbacks:
            callback.on_end(metrics)
    return Result(metrics, run.progress.curve)


class _Run:
    """One training run: its parts, where it stands, and its steps."""

    def __init__(
        self,
        parts: Parts,
        samples: SampleTable,
        images: Sequence[Manifest],
        settings: Train,
        method: Method,
        name: str,
        work: Path,
        ranks: Ranks,
        callbacks: Sequence[Callback],
        root: str | None,
    ) -> None:
        self.parts, self.samples, self.settings, self.method = parts, samples, settings, method
        self.name, self.ranks, self.callbacks = name, ranks, callbacks
        config = run_config(parts, samples, images, settings, method)
        folder = run_folder(work, config)
        copy = None if root is None else join(root, "checkpoints", f"{folder.name}.pt")
        self.checkpoints = Checkpoints(folder, config, settings.checkpoints.keep, ranks, copy)
        recipe = TextRecipe(method.short_text, method.num_long, method.long_text, settings.run_length)
        self.texts = TextSource(parts.tokenizer, recipe, settings.seed)
        self.is_locked = method.image_tower == "locked"
        self.features = self._cached_features(images, work) if self.is_locked and settings.cached_crops else None
        pixels = None
        if self.features is None:
            reader = ImageReader(images, work / "shards", read_ahead=settings.order == "shards")
            pixels = pixel_source(reader, parts.image_settings, settings, locked=self.is_locked)
        self.loader = _open_loader(samples, settings, pixels, ranks)
        self.network = Network(parts.model, settings.compute, ranks)
        self.optimizer = make_optimizer(parts.model, settings.weight_decay, self.network.whole)
        self.num_steps = num_steps(settings, self.loader.batches_per_epoch)
        self.warmup_steps = warmup_steps(settings, self.num_steps)
        self.progress = Progress()
        self.meter = Meter(_peak_flops(settings, ranks))

    def all_steps(self) -> None:
        """Train to the end, from the newest checkpoint if there is one."""
        self._start()
        self.parts.model.train()
        if self.is_locked:
            self.parts.model.image_tower.eval()
        row_every = max(1, self.num_steps // CURVE_ROWS)
        batches = iter(self.loader)
        with StopSignals(insist=not is_launched()) as signals:
            while self.progress.step < self.num_steps:
                waiting_since = time.monotonic()
                batch = next(batches)
                rate = self._step(batch, time.monotonic() - waiting_since)
                is_last = self.progress.step == self.num_steps
                ends_epoch = batch.number == self.loader.batches_per_epoch - 1 or is_last
                if ends_epoch or self.progress.step % row_every == 0:
                    self._row(batch.epoch, rate)
                if ends_epoch:
                    self._end_epoch(batch.epoch)
                stops, is_due = self.ranks.sum([signals.received is not None, self._is_save_due()])
                if ends_epoch or is_due or stops:
                    self._save()
                if stops:
                    self._warn(
                        f"stopped by a signal; the same command goes on after step {self.checkpoints.steps()[-1]}"
                    )
                    signals.obey()

    def publish(self, out: Path) -> None:
        """Write the model folder; of the checkpoints the newest stays."""
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights: dict[str, Any] = get_model_state_dict(self.parts.model, options=options)
        if self.ranks.is_first:
            weights = {name: tensor.float().contiguous() for name, tensor in weights.items()}
            with publish_folder(out) as staging:
                self.parts.model.save_pretrained(staging, state_dict=weights)
                LotlipProcessor(self.parts.tokenizer, self.parts.image_settings).save_pretrained(staging)
            self.checkpoints.remove_old(keep=1)
            write_text(self.checkpoints.folder / "complete", "")

    def metrics(self) -> dict[str, float]:
        """Final losses (means over the last epoch) and counts of all that was seen, lost or skipped."""
        counts, losses, watch = Counter(self.progress.counts), self.progress.losses, self.progress.watch
        names = slot_names(self.method.num_long, self.method.corner_tokens)
        batches = self.loader.batches_per_epoch
        return {
            **summarize(losses, self.settings),
            **{f"loss_{name}": rounded(loss) for name, loss in zip(names, losses, strict=True)},
            "logit_scale": rounded(self.parts.model.logit_scale.exp().item()),
            "num_samples": len(self.samples),
            "without_long": self.samples.counts["without_long"],
            "without_rewrite": self.samples.counts["without_rewrite"],
            "epochs": rounded(self.num_steps / batches),
            "steps": self.num_steps,
            "skipped_steps": watch.skipped,
            "rollbacks": watch.rollbacks,
            "rolled_back_steps": watch.lost_steps,
            "loss_spikes": watch.spikes,
            "pairs_seen": self.num_steps * self.settings.batch_size,
            "dropped_pairs": self.loader.dropped_per_epoch * (self.num_steps // batches),
            "texts_seen": counts["texts"],
            "truncated_text_share": rounded(counts["truncated_texts"] / max(1, counts["texts"])),
            "truncated_token_share": rounded(counts["lost_tokens"] / max(1, counts["tokens"])),
            "trained_parameters": sum(p.numel() for p in self.parts.model.parameters() if p.requires_grad),
        }

    def _cached_features(self, images: Sequence[Manifest], work: Path) -> FeatureStore:
        """Features of the locked tower, of which each process computes a part of those that are missing."""
        compute = self.settings.compute
        tower = self.parts.model.image_tower.to(self.ranks.device).eval()
        cache = FeatureCache(
            tower,
            self.parts.image_settings,
            images,
            self.samples,
            self.settings,
            work,
            patches=self.method.objective == "late_interaction",
            autocast=torch.bfloat16 if compute.precision == "bfloat16" else None,
        )
        cache.compute_missing(self.ranks.rank, self.ranks.size)
        self.ranks.wait()
        return cache.open()

    def _start(self) -> None:
        if self.ranks.is_first and (other := note_run(self.checkpoints.folder, self.name, self.checkpoints.config)):
            self._warn(other)
        saved = self.checkpoints.load(self.parts.model, self.optimizer)
        if saved is not None:
            self.progress = saved
            assert saved.data is not None  # every checkpoint says where its loader stood
            self.loader.load_state_dict(saved.data)
        for callback in self.callbacks:
            callback.on_start(self.progress.step, self.num_steps)
        self._saved_at, self._must_save = time.monotonic(), False
        if saved is None:
            self._save()  # a full disk shows now, and guards have something to go back to

    def _step(self, batch: SampleBatch, waited_s: float) -> float:
        """One step and what the guards make of it; returns its learning rate."""
        step, settings, device = self.progress.step, self.settings, self.ranks.device
        rate = learning_rate(step, self.num_steps, settings.learning_rate, self.warmup_steps)
        ids, mask = self.texts.batch(self.samples.take(batch.indices), batch.visits.tolist())
        lengths = mask.sum(dim=-1)
        images = batch.pixels if self.features is None else self.features.batch(batch.indices, batch.visits)
        assert images is not None
        images = images.to(device, DTYPES[settings.compute.precision])
        inputs = Batch(ids.to(device), mask.to(device), images, precomputed=self.features is not None)
        result = train_step(self.network, self.optimizer, inputs, settings, self.method, rate, self.ranks, self._reseed)
        self.meter.add(len(ids), int(lengths.sum()), self._flops(lengths), waited_s)
        self.progress.step += 1
        self.progress.of_epoch.add(result)
        self.progress.of_row.add(result)
        if alarm := self.progress.watch.see(result, settings.guards):
            self._warn(alarm)
        if result.skipped:
            self._warn(f"loss {result.loss} and gradient {result.grad_norm} are not both finite: the step is skipped")
        if self.progress.watch.must_roll_back(settings.guards):
            self._roll_back()
        return rate

    def _flops(self, lengths: torch.Tensor) -> float:
        """Useful FLOPs of this process's share of a step with texts of these lengths [b, 1 + K]."""
        of_images: ImageWork = "cached" if self.features is not None else "locked" if self.is_locked else "trained"
        short, long = lengths[:, 0].numpy(), lengths[:, 1:].flatten().numpy()
        config, size = self.parts.model.config, self.settings.batch_size
        return step_flops(config, short, long, image=of_images, batch_size=size).total

    def _reseed(self, part: int) -> None:
        """What dropout draws for a part of this process's share of this step."""
        name = f"dropout/{self.settings.seed}/{self.progress.step}/{self.ranks.rank}/{part}"
        torch.manual_seed(int.from_bytes(hashlib.sha256(name.encode()).digest()[:7], "big"))

    def _roll_back(self) -> None:
        """Take the weights of the last checkpoint; the data since then are not seen again."""
        saved = self.checkpoints.load(self.parts.model, self.optimizer)
        assert saved is not None  # there is one from the start
        skipped, step = self.progress.watch.skipped_in_row, self.progress.step
        self.progress.watch.rolled_back(step, saved.step, self.settings.guards)
        self._warn(f"{skipped} steps in a row were skipped: back to the weights of step {saved.step}, past these data")
        self._must_save = True  # when the step's row is written

    def _end_epoch(self, epoch: int) -> None:
        sums, self.progress.of_epoch = self.progress.of_epoch, StepSums()
        if not sums.finite:
            raise ModelError(
                f"Loss or gradient of all {sums.steps} steps of epoch {epoch + 1} were not finite, so none "
                "was taken: lower train.learning_rate, and look for broken images or weights."
            )
        self.progress.losses = sums.mean_losses()

    def _is_save_due(self) -> bool:
        """Whether steps or, by the clock of the first process, minutes ask for a checkpoint."""
        wanted = self.settings.checkpoints
        if self._must_save or (wanted.every_steps and self.progress.step % wanted.every_steps == 0):
            return True
        elapsed_s = time.monotonic() - self._saved_at
        return self.ranks.is_first and wanted.every_minutes is not None and elapsed_s >= 60 * wanted.every_minutes

    def _save(self) -> None:
        if self.progress.watch.skipped_in_row:  # so that every checkpoint is one to go back to
            return
        self._count()
        self.progress.data = self.loader.state_dict()
        self.checkpoints.save(self.parts.model, self.optimizer, self.progress)
        self._saved_at, self._must_save = time.monotonic(), False

    def _count(self) -> None:
        """Add what this process has counted since the last time to the counts of all."""
        names = ("texts", "tokens", "truncated_texts", "lost_tokens")
        new = dict(zip(names, self.ranks.sum([self.texts.counts[name] for name in names]), strict=True))
        self.texts.counts.clear()
        for counts in (self.progress.counts, self.progress.row_counts):
            counts.update({name: counts.get(name, 0) + int(new[name]) for name in names})

    def _row(self, epoch: int, rate: float) -> None:
        self._count()
        counts, self.progress.row_counts = self.progress.row_counts, {}
        sums, self.progress.of_row = self.progress.of_row, StepSums()
        speed = self.meter.read(self.ranks)
        if not sums.finite:
            return
        losses = sums.mean_losses()
        names = slot_names(self.method.num_long, self.method.corner_tokens)
        row = {
            "step": self.progress.step,
            "epoch": epoch + 1,
            **summarize(losses, self.settings),
            **{f"loss_{name}": rounded(loss) for name, loss in zip(names, losses, strict=True)},
            "logit_scale": rounded(self.parts.model.logit_scale.exp().item()),
            "learning_rate": rounded(rate),
            "grad_norm": rounded(sums.grad_norm / sums.finite),
            "truncated_text_share": rounded(counts["truncated_texts"] / counts["texts"]),
            "skipped_steps": self.progress.watch.skipped,
        }
        self.progress.curve.append(row)
        for callback in self.callbacks:
            callback.on_log(self.progress.step, {**row, **speed})

    def _warn(self, text: str) -> None:
        for callback in self.callbacks:
            callback.on_warning(self.progress.step, text)


def _peak_flops(settings: Train, ranks: Ranks) -> float | None:
    if ranks.device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(ranks.device)
    return peak_flops(name, settings.compute.precision, tf32=settings.compute.tf32)


def _open_loader(samples: SampleTable, settings: Train, pixels: PixelSource | None, ranks: Ranks) -> Loader:
    order = EpochOrder(samples.shards, settings.seed, settings.order, settings.window_shards, settings.source_weights)
    per_epoch = max(1, len(samples) // settings.batch_size)
    num_epochs = math.ceil(num_steps(settings, per_epoch) / per_epoch)
    return Loader(
        samples, order, batch_size=settings.batch_size, num_epochs=num_epochs, pixels=pixels,
        num_workers=settings.num_workers, device=ranks.device, rank=ranks.rank, world_size=ranks.size,
    )  # fmt: skip
