"""How fast training runs: measured between rows of the curve, told live, and never part of a result."""

import resource
import time

import torch

from lotlip.training.ranks import Ranks


class Meter:
    """Adds up what this process does between two readings.

    Args:
        peak_flops: what its device can do a second; None: unknown, and no utilisation is told.
    """

    def __init__(self, peak_flops: float | None) -> None:
        self._peak_flops = peak_flops
        self.restart()

    def restart(self) -> None:
        """Measure from now on."""
        self._pairs, self._tokens, self._flops, self._waited_s = 0, 0, 0.0, 0.0
        self._started_at = time.monotonic()

    def add(self, pairs: int, tokens: int, flops: float, waited_s: float) -> None:
        """A step: its pairs, its tokens, its useful FLOPs (none done twice, no padding), and the wait for its data."""
        self._pairs += pairs
        self._tokens += tokens
        self._flops += flops
        self._waited_s += waited_s

    def read(self, ranks: Ranks) -> dict[str, float]:
        """Speed since the last reading; all processes call it together.

        Returns:
            pairs_per_s and tokens_per_s of all processes; data_wait_share, of the time; memory_gb, the most that this
            process has held, on its GPU or else in all; flop_utilisation, of the peak.
        """
        elapsed_s = time.monotonic() - self._started_at
        pairs, tokens, flops, waited_s = ranks.sum([self._pairs, self._tokens, self._flops, self._waited_s])
        found = {
            "pairs_per_s": pairs / elapsed_s,
            "tokens_per_s": tokens / elapsed_s,
            "data_wait_share": waited_s / ranks.size / elapsed_s,
            "memory_gb": _memory_bytes(ranks.device) / 1e9,
        }
        if self._peak_flops is not None:
            found["flop_utilisation"] = flops / elapsed_s / (self._peak_flops * ranks.size)
        self.restart()
        return {name: float(f"{value:.4g}") for name, value in found.items()}


def _memory_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
