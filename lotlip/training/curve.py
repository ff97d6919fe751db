"""The numbers that describe a training run: rows of its curve, and losses under their names."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from lotlip.params import Train
from lotlip.records import write_text

CURVE_ROWS = 100  # about as many rows has a training curve, and at least one an epoch


def write_curve(path: Path, curve: Sequence[dict[str, float]]) -> None:
    """Write the rows of a training curve as CSV, atomically."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(curve[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(curve)
    write_text(path, buffer.getvalue())


def slot_names(num_long: int, corner_tokens: int) -> list[str]:
    """Names of a method's text slots, in METHOD's order: `raw`, `long0_cls`, `long0_corner0`, ..."""
    long = [
        f"long{k}_{name}" for k in range(num_long) for name in ("cls", *(f"corner{c}" for c in range(corner_tokens)))
    ]
    return ["raw", *long]


def summarize(slot_losses: Sequence[float], settings: Train) -> dict[str, float]:
    """The loss L, and its two parts as plain means over slots; without long texts there is no loss_long."""
    raw, long = slot_losses[0], slot_losses[1:]
    total = (settings.weight_raw * raw + settings.weight_long * sum(long)) / len(slot_losses)
    parts = {"loss": rounded(total), "loss_raw": rounded(raw)}
    return {**parts, "loss_long": rounded(sum(long) / len(long))} if long else parts


def rounded(value: float) -> float:
    """To 6 digits, so that reports do not show the noise of the last bits."""
    return float(f"{value:.6g}")
