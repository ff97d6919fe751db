"""What a run tells: rows of its curve, how fast it is, warnings, and in the end its metrics."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from lotlip.model.gpus import peak_flops
from lotlip.params import Method, Train
from lotlip.training.callbacks import Callback
from lotlip.training.checkpoint import Progress
from lotlip.training.curve import rounded, slot_names, summarize
from lotlip.training.inputs import Inputs
from lotlip.training.meter import Meter
from lotlip.training.ranks import Ranks
from lotlip.training.step import StepSums
from lotlip.training.texts import COUNTED


class Journal:
    """All processes keep it together; the first one alone has callbacks, and tells them.

    Args:
        model: whose logit scale is told.
        inputs: whose texts are counted.
        settings, method: of the run.
        ranks: the processes that train.
        callbacks: who wants to hear of it.
    """

    def __init__(
        self, model: Any, inputs: Inputs, settings: Train, method: Method, ranks: Ranks, callbacks: Sequence[Callback]
    ) -> None:
        self._model, self._inputs, self._settings = model, inputs, settings
        self._slots = slot_names(method.num_long, method.corner_tokens)
        self._ranks, self._callbacks = ranks, callbacks
        self.meter = Meter(_peak_flops(settings, ranks))

    def start(self, step: int, num_steps: int) -> None:
        """Training starts, or goes on, after `step`."""
        self.meter.restart()
        for callback in self._callbacks:
            callback.on_start(step, num_steps)

    def warn(self, step: int, text: str) -> None:
        """Tell of something that training survives."""
        for callback in self._callbacks:
            callback.on_warning(step, text)

    def count(self, progress: Progress) -> None:
        """Add what the processes have counted since the last time to the counts of all."""
        texts = self._inputs.counts
        new = dict(zip(COUNTED, self._ranks.sum([texts[name] for name in COUNTED]), strict=True))
        texts.clear()
        for counts in (progress.counts, progress.row_counts):
            counts.update({name: counts.get(name, 0) + int(new[name]) for name in COUNTED})

    def row(self, progress: Progress, epoch: int, rate: float) -> None:
        """Complete a row of the curve, if any of its steps was taken, and tell it, with the speed of its steps."""
        self.count(progress)
        counts, progress.row_counts = progress.row_counts, {}
        sums, progress.of_row = progress.of_row, StepSums()
        speed = self.meter.read(self._ranks)
        if not sums.finite:
            return
        row = {
            "step": progress.step,
            "epoch": epoch + 1,
            **self._losses(sums.mean_losses()),
            "logit_scale": self._logit_scale(),
            "learning_rate": rounded(rate),
            "grad_norm": rounded(sums.grad_norm / sums.finite),
            "truncated_text_share": rounded(counts["truncated_texts"] / counts["texts"]),
            "skipped_steps": progress.watch.skipped,
        }
        progress.curve.append(row)
        for callback in self._callbacks:
            callback.on_log(progress.step, {**row, **speed})

    def end(self, progress: Progress, data: Mapping[str, int]) -> dict[str, float]:
        """Final losses (means over the last epoch) and counts of all that was seen, lost or skipped; told, too.

        Args:
            progress: of the run that is complete.
            data: counts of its samples.
        """
        counts, watch, loader = Counter(progress.counts), progress.watch, self._inputs.loader
        trained = sum(p.numel() for p in self._model.parameters() if p.requires_grad)
        metrics = {
            **self._losses(progress.losses),
            "logit_scale": self._logit_scale(),
            "num_samples": data["samples"],
            "without_long": data["without_long"],
            "without_rewrite": data["without_rewrite"],
            "epochs": rounded(progress.step / loader.batches_per_epoch),
            "steps": progress.step,
            "skipped_steps": watch.skipped,
            "rollbacks": watch.rollbacks,
            "rolled_back_steps": watch.lost_steps,
            "loss_spikes": watch.spikes,
            "pairs_seen": progress.step * self._settings.batch_size,
            "dropped_pairs": loader.dropped_per_epoch * (progress.step // loader.batches_per_epoch),
            "texts_seen": counts["texts"],
            "truncated_text_share": rounded(counts["truncated_texts"] / max(1, counts["texts"])),
            "truncated_token_share": rounded(counts["lost_tokens"] / max(1, counts["tokens"])),
            "trained_parameters": trained,
        }
        for callback in self._callbacks:
            callback.on_end(metrics)
        return metrics

    def _losses(self, of_slots: Sequence[float]) -> dict[str, float]:
        named = {f"loss_{name}": rounded(loss) for name, loss in zip(self._slots, of_slots, strict=True)}
        return {**summarize(of_slots, self._settings), **named}

    def _logit_scale(self) -> float:
        return rounded(self._model.logit_scale.exp().item())


def _peak_flops(settings: Train, ranks: Ranks) -> float | None:
    if ranks.device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(ranks.device)
    return peak_flops(name, settings.compute.precision, tf32=settings.compute.tf32)
