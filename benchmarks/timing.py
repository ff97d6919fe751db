"""Paired timings of two ways to the same result in one process, and their JSON."""

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lotlip.records import write_json

RESULTS = Path(__file__).with_name("results")


def compare(ours: Callable[[], Any], peer: Callable[[], Any], rounds: int) -> dict[str, float]:
    """Median seconds of both, run in turn after one unmeasured round, and how many times ours is faster."""
    times: dict[str, list[float]] = {"ours": [], "peer": []}
    for round_number in range(rounds + 1):
        for name, work in (("ours", ours), ("peer", peer)):
            started = time.perf_counter()
            work()
            if round_number:
                times[name].append(time.perf_counter() - started)
    ours_s, peer_s = statistics.median(times["ours"]), statistics.median(times["peer"])
    return {"ours_s": round(ours_s, 4), "peer_s": round(peer_s, 4), "ratio": round(peer_s / ours_s, 2)}


def save(name: str, result: dict[str, Any]) -> None:
    """Print the result and keep it in benchmarks/results/<name>.json."""
    print(name, *(f"{key}={value}" for key, value in result.items()))
    write_json(RESULTS / f"{name}.json", result)
