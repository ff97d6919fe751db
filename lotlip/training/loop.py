"""Training of one method, from samples to a published model folder, on one process or many.

Batches and draws follow from the seed and the place in the data, dropout from the seed, the step and the process. So a
run that was killed and resumed, in the middle of an epoch or after it, ends with the same weights as one that was not
(bit for bit on a CPU with as many processes and threads), and a run may go on with another number of processes.
"""

import hashlib
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

from lotlip.data.loading.loader import SampleBatch
from lotlip.data.loading.sample_table import SampleTable
from lotlip.data.manifest import Manifest
from lotlip.errors import ModelError
from lotlip.model.build import Parts, build_model
from lotlip.model.processor import LotlipProcessor
from lotlip.params import Method, Train
from lotlip.records import disk_errors, publish_folder
from lotlip.storage.leases import at_work
from lotlip.storage.objects import join
from lotlip.training.callbacks import Callback
from lotlip.training.checkpoint import Checkpoints, Progress
from lotlip.training.curve import CURVE_ROWS
from lotlip.training.identity import note_run, run_config, run_folder
from lotlip.training.inputs import Inputs
from lotlip.training.journal import Journal
from lotlip.training.optim import learning_rate, make_optimizer, num_steps, warmup_steps
from lotlip.training.parallel import Network, numerics
from lotlip.training.ranks import Ranks, is_launched, open_ranks
from lotlip.training.step import StepSums, train_step
from lotlip.training.stopping import StopSignals


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
        gpus = [ranks.device] if ranks.device.type == "cuda" else []  # no others, or each process would wake them all
        with alone, disk_errors(work / "train"), torch.random.fork_rng(gpus):
            torch.manual_seed(settings.seed)
            parts = build_model(settings, method)
            heard = callbacks if ranks.is_first else ()
            run = _Run(parts, samples, images, settings, method, out.name, work, ranks, heard, root)
            run.all_steps()
            run.publish(out)
        metrics = run.journal.end(run.progress, samples.counts)
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
        self.parts, self.settings, self.method, self.name, self.ranks = parts, settings, method, name, ranks
        config = run_config(parts, samples, images, settings, method)
        folder = run_folder(work, config)
        copies = None if root is None else join(root, "checkpoints", folder.name)
        self.checkpoints = Checkpoints(folder, config, settings.checkpoints.keep, ranks, copies)
        self.inputs = Inputs(parts, samples, images, settings, method, work, ranks)
        self.journal = Journal(parts.model, self.inputs, settings, method, ranks, callbacks)
        self.network = Network(parts.model, settings.compute, ranks)
        self.optimizer = make_optimizer(parts.model, settings.weight_decay, self.network.whole)
        self.num_steps = num_steps(settings, self.inputs.loader.batches_per_epoch)
        self.warmup_steps = warmup_steps(settings, self.num_steps)
        self.progress = Progress()

    def all_steps(self) -> None:
        """Train to the end, from the newest checkpoint if there is one."""
        self._start()
        self.parts.model.train()
        if self.method.image_tower == "locked":
            self.parts.model.image_tower.eval()
        row_every = max(1, self.num_steps // CURVE_ROWS)
        last_batch = self.inputs.loader.batches_per_epoch - 1
        batches = iter(self.inputs)
        with StopSignals(insist=not is_launched()) as signals:
            while self.progress.step < self.num_steps:
                waiting_since = time.monotonic()
                drawn = next(batches)
                rate = self._step(drawn, time.monotonic() - waiting_since)
                ends_epoch = drawn.number == last_batch or self.progress.step == self.num_steps
                if ends_epoch or self.progress.step % row_every == 0:
                    self.journal.row(self.progress, drawn.epoch, rate)
                if ends_epoch:
                    self._end_epoch()
                stops, is_due = self.ranks.sum([signals.received is not None, self._is_save_due()])
                if ends_epoch or is_due or stops:
                    self._save()
                if stops:
                    self._warn(f"stopped by a signal; the same command goes on after step {self.checkpoints.newest()}")
                    signals.obey()

    def publish(self, out: Path) -> None:
        """Write the model folder; of the checkpoints the newest stays.

        Raises:
            ModelError: not one step was taken.
        """
        if not self.progress.losses:
            raise ModelError(
                f"Loss or gradient of all {self.num_steps} steps were not finite, so none was taken: lower "
                "train.learning_rate, and look for broken images or weights."
            )
        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights: dict[str, Any] = get_model_state_dict(self.parts.model, options=options)
        if self.ranks.is_first:
            weights = {name: tensor.float().contiguous() for name, tensor in weights.items()}
            with publish_folder(out) as staging:
                self.parts.model.save_pretrained(staging, state_dict=weights)
                LotlipProcessor(self.parts.tokenizer, self.parts.image_settings).save_pretrained(staging)
            self.checkpoints.complete()

    def _start(self) -> None:
        if self.ranks.is_first and (other := note_run(self.checkpoints.folder, self.name, self.checkpoints.config)):
            self._warn(other)
        saved = self.checkpoints.load(self.parts.model, self.optimizer)
        if saved is not None:
            self.progress = saved
            assert saved.data is not None  # every checkpoint says where its loader stood
            self.inputs.loader.load_state_dict(saved.data)
        if self.ranks.size > 1:
            self._note(f"{self.ranks.size} processes on {self.ranks.device.type}, {self.settings.compute.sharding}")
        if self.progress.step == self.num_steps:
            self._note("all steps are done already; the model is written again")
        self.journal.start(self.progress.step, self.num_steps)
        self._saved_at, self._must_save = time.monotonic(), False
        if saved is None:
            self._save()  # a full disk shows now, and guards have something to go back to

    def _step(self, drawn: SampleBatch, waited_s: float) -> float:
        """One step and what the guards make of it; returns its learning rate."""
        settings, progress = self.settings, self.progress
        rate = learning_rate(progress.step, self.num_steps, settings.learning_rate, self.warmup_steps)
        batch = self.inputs.batch(drawn)
        result = train_step(self.network, self.optimizer, batch, settings, self.method, rate, self.ranks, self._reseed)
        self.journal.meter.add(len(batch.ids), int(batch.lengths.sum()), self.inputs.flops(batch), waited_s)
        progress.step += 1
        progress.of_epoch.add(result)
        progress.of_row.add(result)
        if alarm := progress.watch.see(result, settings.guards):
            self._warn(alarm)
        if result.skipped:
            self._warn(f"not finite (loss {result.loss:.3g}, gradient {result.grad_norm:.3g}): the step is skipped")
        if progress.watch.must_roll_back(settings.guards):
            self._roll_back()
        return rate

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

    def _end_epoch(self) -> None:
        sums, self.progress.of_epoch = self.progress.of_epoch, StepSums()
        if sums.finite:
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
        self.journal.count(self.progress)
        self.progress.data = self.inputs.loader.state_dict()
        self.checkpoints.save(self.parts.model, self.optimizer, self.progress)
        self._saved_at, self._must_save = time.monotonic(), False

    def _note(self, text: str) -> None:
        if self.ranks.is_first:
            print(f"train {self.name}: {text}", flush=True)

    def _warn(self, text: str) -> None:
        self.journal.warn(self.progress.step, text)
