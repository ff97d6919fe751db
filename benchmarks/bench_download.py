"""Downloading a URL table from a loopback server with faults: ours against img2dataset, each as its command.

img2dataset does not install beside us: it lives in an environment of its own, in the folder IMG2DATASET_ENV, and is
installed there if it is missing. Both keep the images as they come, hash them, and have the same number of requests
in flight, deadline and retries. Then each side's shards are read by others: img2dataset's by our import, ours by
webdataset. The limit: both cores' time, shared with the server; `cpu_s` is what a side needs of it.
"""

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.download_server import FAULTS, NUM_GOOD_OF
from benchmarks.timing import compare, save
from lotlip.data.download import download_source
from lotlip.data.manifest import read_manifest
from lotlip.data.shards import as_webdataset
from lotlip.params import ShardsSource, load_params
from lotlip.records import read_json

TOP = Path(__file__).parents[1]
PEER = Path(os.environ.get("IMG2DATASET_ENV", Path(tempfile.gettempdir()) / "img2dataset"))
NUM_ROWS = 4000
CONCURRENCY = 32
TIMEOUT_S = 2
ROUNDS = 3


def install_peer() -> None:
    if not (PEER / "bin" / "img2dataset").is_file():
        subprocess.run([sys.executable, "-m", "venv", PEER], check=True)
        subprocess.run([PEER / "bin" / "pip", "install", "--quiet", "img2dataset==1.47.0"], check=True)


@contextmanager
def server() -> Iterator[str]:
    command = [sys.executable, "benchmarks/download_server.py"]
    process = subprocess.Popen(command, cwd=TOP, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
    finally:
        process.kill()


def faults() -> list[str]:
    """What each row meets, the same in every run."""
    rng = random.Random(0)
    return rng.choices(["ok", *FAULTS], [1 - sum(FAULTS.values()), *FAULTS.values()], k=NUM_ROWS)


def write_table(path: Path, url: str, run: str) -> None:
    urls = [f"{url}/{run}/{fault}/{number}" for number, fault in enumerate(faults())]
    captions = [f"picture {number}" for number in range(NUM_ROWS)]
    pq.write_table(pa.table({"url": urls, "caption": captions}), path)


def run_command(*command: str | Path, folder: Path, path: str = "") -> None:
    environment = {**os.environ, "PYTHONPATH": path, "NO_ALBUMENTATIONS_UPDATE": "1", "WANDB_MODE": "disabled"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{command[0]} failed: {done.stderr[-2000:]}")


def run_ours(table: Path, out: Path, folder: Path) -> None:
    command = (sys.executable, "-m", "lotlip.cli", "download", table, out, "--concurrency", str(CONCURRENCY))
    run_command(*command, "--allow-private-hosts", folder=folder, path=str(TOP))


def run_peer(table: Path, out: Path, folder: Path) -> None:
    num_processes = os.cpu_count() or 1
    options = {
        "url_list": table,
        "input_format": "parquet",
        "url_col": "url",
        "caption_col": "caption",
        "output_folder": out,
        "output_format": "webdataset",
        "resize_mode": "no",
        "compute_hash": "sha256",
        "number_sample_per_shard": 500,
        "processes_count": num_processes,
        "thread_count": CONCURRENCY // num_processes,
        "timeout": TIMEOUT_S,
        "retries": 1,
        "enable_wandb": False,
    }
    run_command(PEER / "bin" / "img2dataset", *(f"--{name}={value}" for name, value in options.items()), folder=folder)


def prepare(folder: Path) -> None:
    """Our settings for the same work."""
    shutil.copy(TOP / "params.yaml", folder)
    chosen = {"timeout_s": f"{TIMEOUT_S}.0", "num_retries": 1, "max_per_host": CONCURRENCY, "shard_size": 500}
    changes = (part for name, value in chosen.items() for part in ("--set", f"download.{name}={value}"))
    run_command(sys.executable, "-m", "lotlip.cli", "configure", *changes, folder=folder, path=str(TOP))


def check(ours: Path, peer: Path, folder: Path) -> dict[str, Any]:
    """Number of good images of each, read by the other side."""
    settings = load_params(folder / "params.yaml").download
    source = ShardsSource(kind="shards", path=peer)
    imported = download_source(source, "peer", settings, folder / "imported", folder / "work")
    stats = [read_json(path) for path in sorted(peer.glob("*_stats.json"))]
    told = sum(record["successes"] for record in stats)
    read = sum(1 for _ in as_webdataset(read_manifest(ours, "images")))
    expected = sum(fault in NUM_GOOD_OF for fault in faults())
    assert imported["requested"] == NUM_ROWS
    assert imported["success"] == told
    assert read == read_manifest(ours, "images").num_samples == expected
    return {"images": read, "img2dataset_images": told}


def main() -> None:
    install_peer()
    with tempfile.TemporaryDirectory() as name, server() as url:
        folder = Path(name)
        prepare(folder)
        runs = count()
        ways = {"lotlip": run_ours, "img2dataset": run_peer}
        last: dict[str, Path] = {}
        cpu_s = dict.fromkeys(ways, 0.0)

        def work(way: str) -> None:
            run = f"{way}{next(runs)}"
            shutil.rmtree(last.get(way, folder / "none"), ignore_errors=True)
            last[way] = folder / run
            write_table(folder / f"{run}.parquet", url, run)
            before = sum(os.times()[2:4])  # of the processes that have ended
            ways[way](folder / f"{run}.parquet", last[way], folder)
            cpu_s[way] = round(sum(os.times()[2:4]) - before, 1)

        times = compare({way: lambda way=way: work(way) for way in ways}, ROUNDS)
        images = check(last["lotlip"], last["img2dataset"], folder)
        rates = {f"{way}_images_per_s": round(images["images"] / times[f"{way}_s"]) for way in ways}
        used = {f"{way}_cpu_s": seconds for way, seconds in cpu_s.items()}
        save("download", {**times, **rates, **used, **images, "rows": NUM_ROWS, "concurrency": CONCURRENCY})


if __name__ == "__main__":
    main()
