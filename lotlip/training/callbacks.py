"""What training tells the outside: a protocol, an event log and lines on the console.

Training never imports tracking; a stage attaches whatever follows this protocol.
"""

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from lotlip.records import write_text

PRINT_EVERY_S = 5.0


class Callback(Protocol):
    """Hears of training. `step` counts optimizer steps from 1; metrics are plain numbers."""

    def on_start(self, step: int, num_steps: int) -> None:
        """Training starts, or resumes, after `step` of `num_steps` steps."""

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        """A row of the training curve is complete."""

    def on_end(self, metrics: Mapping[str, float]) -> None:
        """Training is complete; these are its final metrics."""


class EventLog:
    """Appends a JSON line for each row of the curve, for whoever follows training live.

    A line is `{"step": int, "time_s": seconds since 1970, "metrics": {...}}`. On resuming, lines after the
    resumed step are dropped, so no step appears twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_start(self, step: int, num_steps: int) -> None:
        lines = self.path.read_text().splitlines() if self.path.is_file() else []
        kept = [line for line in lines if _step(line) <= step]
        write_text(self.path, "".join(f"{line}\n" for line in kept))

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        line = json.dumps({"step": step, "time_s": round(time.time(), 3), "metrics": dict(metrics)})
        with self.path.open("a") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())

    def on_end(self, metrics: Mapping[str, float]) -> None:
        pass


class ConsoleProgress:
    """Prints the step, the loss and the time left every few seconds."""

    def __init__(self, what: str, every_s: float = PRINT_EVERY_S) -> None:
        self.what = what
        self._every_s = every_s
        self._first_step, self._num_steps = 0, 0
        self._started_at = self._printed_at = time.monotonic()

    def on_start(self, step: int, num_steps: int) -> None:
        self._first_step, self._num_steps = step, num_steps
        self._started_at = self._printed_at = time.monotonic()
        resumed = f", resuming after step {step}" if step else ""
        print(f"{self.what}: {num_steps} steps{resumed}", flush=True)

    def on_log(self, step: int, metrics: Mapping[str, float]) -> None:
        now = time.monotonic()
        if now - self._printed_at < self._every_s and step < self._num_steps:
            return
        self._printed_at = now
        left_s = (now - self._started_at) / (step - self._first_step) * (self._num_steps - step)
        print(
            f"{self.what}: step {step}/{self._num_steps}, epoch {metrics['epoch']:g}, "
            f"loss {metrics['loss']:.3f}, {left_s:.0f} s left",
            flush=True,
        )

    def on_end(self, metrics: Mapping[str, float]) -> None:
        print(f"{self.what}: done, loss {metrics['loss']:.3f}", flush=True)


def _step(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # half a line, from a killed process
