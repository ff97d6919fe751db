"""Paired timings of several ways to the same result in one process, their memory, and their JSON."""

import ctypes
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from lotlip.records import write_json

RESULTS = Path(__file__).with_name("results")
# Dense bf16 peaks in FLOP/s, by a part of the device's name (vendors' data sheets, without sparsity).
PEAKS = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12, "A10": 125e12, "4090": 165e12}


def compare(ways: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Median seconds of each way, run in turn after one unmeasured round, as `<name>_s`.

    The first way is ours: `<name>_ratio` is the median over rounds of how many times longer each other took, so that
    a machine whose speed drifts changes both sides of a ratio.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for round_number in range(rounds + 1):
        for name, work in ways.items():
            wait_for_gpu()
            started = time.perf_counter()
            work()
            wait_for_gpu()
            if round_number:
                times[name].append(time.perf_counter() - started)
    ours, *peers = ways
    seconds = {f"{name}_s": round(statistics.median(values), 4) for name, values in times.items()}
    ratios = {name: [peer / own for peer, own in zip(times[name], times[ours], strict=True)] for name in peers}
    return {**seconds, **{f"{name}_ratio": round(statistics.median(ratios[name]), 2) for name in peers}}


def peak_memory(work: Callable[[], Any], warm_up: Callable[[], Any] | None = None) -> int:
    """Bytes that `work` needs beyond what is there after `warm_up`: on the GPU if there is one, else resident.

    Without a `warm_up`, `work` itself runs twice.
    """
    (warm_up or work)()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what is free goes back, so that using it again shows
    Path("/proc/self/clear_refs").write_text("5")  # resets the high-water mark (Linux)
    before = _status("VmRSS")
    work()
    return _status("VmHWM") - before


def utilisation(flops: float, seconds: float) -> float | None:
    """Share of the GPU's dense bf16 peak that `flops` useful FLOPs in `seconds` are; None without a known GPU."""
    if not torch.cuda.is_available():
        return None
    name = torch.cuda.get_device_name()
    peak = next((peak for part, peak in PEAKS.items() if part in name), None)
    return None if peak is None else round(flops / seconds / peak, 3)


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def wait_for_gpu() -> None:
    """Wait until all that was started on the GPU is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return {"device": name, "cores": os.cpu_count(), "threads": torch.get_num_threads()}


def save(name: str, result: dict[str, Any]) -> None:
    """Print the result and keep it, with the machine, in benchmarks/results/<name>.json."""
    print(name, *(f"{key}={value}" for key, value in result.items()))
    write_json(RESULTS / f"{name}.json", {**result, **machine()})


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise OSError(f"/proc/self/status has no {field}")
