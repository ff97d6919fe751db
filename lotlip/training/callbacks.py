"""What training tells the outside: a protocol, an event log and progress on the console.

Training never imports tracking; a stage attaches whatever follows this protocol.
"""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from lotlip.records import write_text

PRINT_EVERY_S = 5.0


class Callback(Protocol):
    """Hears of training. `step` counts optimizer steps from 1; metrics are plain numbers."""

    def on_start(self, step: int, num_steps: int) -> None:
        """Training starts, or resumes, after `step` of `num_steps` steps."""

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        """A row of the training curve is complete; with it comes how fast training runs."""

    def on_warning(self, step: int, text: str) -> None:
        """Something is amiss that training survives: a skipped step, a loss that jumped, a return to a checkpoint."""

    def on_end(self, metrics: Mapping[str, float]) -> None:
        """Training is complete; these are its final metrics."""


class EventLog:
    """Appends a JSON line for each row of the curve, for whoever follows training live.

    A line is `{"step": int, "time_s": seconds since 1970, "metrics": {...}}`, and of a warning it has no metrics and
    a `"warning"`. On resuming, lines after the resumed step are dropped, so no step appears twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_start(self, step: int, num_steps: int) -> None:
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        kept = [line for line in lines if _step(line) <= step]
        write_text(self.path, "".join(f"{line}\n" for line in kept))

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._append({"step": step, "time_s": round(time.time(), 3), "metrics": dict(metrics)})

    def on_warning(self, step: int, text: str) -> None:
        self._append({"step": step, "time_s": round(time.time(), 3), "metrics": {}, "warning": text})

    def on_end(self, metrics: Mapping[str, float]) -> None:
        pass

    def _append(self, event: Mapping[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(event) + "\n")
            file.flush()
            os.fsync(file.fileno())


class ConsoleProgress:
    """The step, the loss and the time left: a bar in a terminal, elsewhere a line every few seconds."""

    def __init__(self, what: str, every_s: float = PRINT_EVERY_S) -> None:
        self.what = what
        self._every_s = every_s
        self._first_step, self._num_steps = 0, 0
        self._started_at = self._printed_at = time.monotonic()
        self._bar: tqdm[Any] | None = None

    def on_start(self, step: int, num_steps: int) -> None:
        self._first_step, self._num_steps = step, num_steps
        self._started_at = self._printed_at = time.monotonic()
        resumed = f", resuming after step {step}" if step else ""
        print(f"{self.what}: {num_steps} steps{resumed}", flush=True)
        if sys.stdout.isatty():
            self._bar = tqdm(desc=self.what, total=num_steps, initial=step, unit="step", file=sys.stdout)

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        if self._bar is not None:
            shown = {"loss": f"{metrics['loss']:.3f}", "pairs/s": f"{metrics['pairs_per_s']:.0f}"}
            self._bar.set_postfix(shown, refresh=False)
            self._bar.update(step - self._bar.n)
            return
        now = time.monotonic()
        if now - self._printed_at < self._every_s and step < self._num_steps:
            return
        self._printed_at = now
        left_s = (now - self._started_at) / (step - self._first_step) * (self._num_steps - step)
        print(
            f"{self.what}: step {step}/{self._num_steps}, epoch {metrics['epoch']:g}, loss {metrics['loss']:.3f}, "
            f"{metrics['pairs_per_s']:.0f} pairs/s, waits for data {metrics['data_wait_share']:.0%} of the time, "
            f"{left_s:.0f} s left",
            flush=True,
        )

    def on_warning(self, step: int, text: str) -> None:
        self._print(f"{self.what}: warning at step {step}: {text}")

    def on_end(self, metrics: Mapping[str, float]) -> None:
        if self._bar is not None:
            self._bar.close()
        self._print(f"{self.what}: done, loss {metrics['loss']:.3f}")

    def _print(self, line: str) -> None:
        if self._bar is not None and not self._bar.disable:
            self._bar.write(line, file=sys.stdout)
        else:
            print(line, flush=True)


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # half a line, from a killed process
