"""Progress of a long stage as short lines, every few seconds."""

import time
from collections import Counter

_EVERY_S = 5.0


class Progress:
    """Counts rows by status and prints the counts every few seconds."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._counts: Counter[str] = Counter()
        self._printed_at = time.monotonic()

    def add(self, status: str) -> None:
        """Count one row."""
        self._counts[status] += 1
        if time.monotonic() - self._printed_at >= _EVERY_S:
            self.show()

    def show(self) -> None:
        """Print the counts."""
        self._printed_at = time.monotonic()
        parts = ", ".join(f"{count} {status}" for status, count in sorted(self._counts.items()))
        print(f"{self._what}: {self._counts.total()} rows ({parts})", flush=True)
