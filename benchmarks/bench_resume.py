"""First batch after a resume in the middle of an epoch: ours against reading again what was consumed.

All with two worker processes and the same transform, each opened anew as after a crash. `webdataset`: a deterministic
shuffle, and the DataLoader's batches are skipped. `webdataset_undecoded`: the best that can be done there by hand,
skipping in the workers before anything is decoded. `stateful_webdataset`: torchdata's StatefulDataLoader over the
same pipeline. `stateful_map`: the same loader over a list of samples, with our reader beneath it: what it costs to
find the place in a random sampler.

The limit: starting two processes and decoding one batch. Re-reading grows with the epoch, ours does not.
"""

import itertools
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from sys import path
from typing import Any

path.insert(0, str(Path(__file__).parents[1]))

import torch
import webdataset
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchdata.stateful_dataloader import StatefulDataLoader

from benchmarks.jpeg_shards import Transform, make_shards, nothing, pixels
from benchmarks.timing import save
from lotlip.data.loading.image_reader import ImageReader
from lotlip.data.loading.loader import Loader
from lotlip.data.loading.order import EpochOrder
from lotlip.data.loading.pixels import PixelSource, SamplePixels
from lotlip.data.loading.sample_table import SampleTable
from lotlip.data.manifest import read_manifest

NUM_SHARDS, SIZE, BATCH, WORKERS = 20, 500, 50, 2
ROUNDS = 3
MIDDLE = NUM_SHARDS * SIZE // BATCH // 2

Batches = Iterator[tuple[list[str], Tensor]]  # keys and pixels


class Pictures(Dataset[tuple[str, Tensor]]):
    """A map-style data set, as a user of torchdata would write it."""

    def __init__(self, samples: SampleTable, reader: ImageReader, transform: Transform) -> None:
        self.samples, self.reader, self.transform = samples, reader, transform

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[str, Tensor]:
        sample = self.samples[index]
        return sample.key, self.transform(self.reader.read(sample.shard, sample.key))


class Ways:
    """Each opens a loader; with a state, or a number of batches to skip, as one that resumes."""

    def __init__(self, folder: Path, samples: SampleTable) -> None:
        self.folder, self.samples = folder, samples

    def reader(self) -> ImageReader:
        return ImageReader([read_manifest(self.folder / "images", "images")], self.folder / "spans")

    def ours(self, transform: Transform, state: Any = None) -> tuple[Any, Batches]:
        order = EpochOrder(self.samples.shards, 0)
        source = SamplePixels(self.samples, PixelSource(self.reader(), transform, 0))
        loader = Loader(self.samples, order, batch_size=BATCH, num_epochs=1, source=source, num_workers=WORKERS)
        if state:
            loader.load_state_dict(state)
        return loader, (([sample.key for sample in self.samples.take(b.indices)], b.content) for b in loader)

    def pipeline(self, transform: Transform, skipped: int = 0) -> Any:
        tars = [str(tar) for tar in sorted((self.folder / "images").glob("*.tar"))]
        dataset = webdataset.WebDataset(tars, shardshuffle=False).compose(webdataset.detshuffle(1000, seed=0))
        dataset = dataset.compose(lambda source: itertools.islice(source, skipped, None))
        return dataset.map(lambda s: (s["__key__"], transform(s["jpg"]))).batched(BATCH)

    def webdataset(self, transform: Transform, skip: int = 0) -> tuple[Any, Batches]:
        loader = DataLoader(self.pipeline(transform), batch_size=None, num_workers=WORKERS)
        return loader, itertools.islice(loader, skip, None)

    def webdataset_undecoded(self, transform: Transform, skip: int = 0) -> tuple[Any, Batches]:
        loader = DataLoader(self.pipeline(transform, skip // WORKERS * BATCH), batch_size=None, num_workers=WORKERS)
        return loader, iter(loader)

    def stateful_webdataset(self, transform: Transform, state: Any = None) -> tuple[Any, Batches]:
        return stateful(StatefulDataLoader(self.pipeline(transform), batch_size=None, num_workers=WORKERS), state)

    def stateful_map(self, transform: Transform, state: Any = None) -> tuple[Any, Batches]:
        torch.manual_seed(0)
        pictures = Pictures(self.samples, self.reader(), transform)
        return stateful(StatefulDataLoader(pictures, BATCH, shuffle=True, num_workers=WORKERS, drop_last=True), state)


def stateful(loader: Any, state: Any) -> tuple[Any, Batches]:
    if state:
        loader.load_state_dict(state)
    return loader, iter(loader)


NAMES = ("ours", "webdataset", "webdataset_undecoded", "stateful_webdataset", "stateful_map")


def resume_point(way: Callable[..., tuple[Any, Batches]]) -> tuple[Any, list[str]]:
    """State (or number of batches) at mid-epoch, and the keys consumed until then."""
    loader, batches = way(nothing)
    consumed = [key for _ in range(MIDDLE) for key in next(batches)[0]]
    return (loader.state_dict() if hasattr(loader, "state_dict") else MIDDLE), consumed


def count_losses(way: Callable[..., tuple[Any, Batches]], state: Any, consumed: list[str]) -> dict[str, int]:
    """Samples that an epoch with one resume gives twice, and those that it does not give."""
    keys = [*consumed, *(key for batch, _ in way(nothing, state)[1] for key in batch)]
    return {"duplicates": len(keys) - len(set(keys)), "missing": NUM_SHARDS * SIZE - len(set(keys))}


def first_batch(way: Callable[..., tuple[Any, Batches]], state: Any) -> float:
    """Seconds from nothing to the first batch; stopping the workers afterwards does not count."""
    started = time.perf_counter()
    _, batches = way(pixels, state)
    next(batches)
    return time.perf_counter() - started


def main() -> None:
    random.seed(0)
    with tempfile.TemporaryDirectory() as folder:
        samples, _ = make_shards(Path(folder) / "images", NUM_SHARDS, SIZE)
        ways = Ways(Path(folder), samples)
        points = {name: resume_point(getattr(ways, name)) for name in NAMES}
        losses = {name: count_losses(getattr(ways, name), *points[name]) for name in NAMES}

        seconds = [{name: first_batch(getattr(ways, name), points[name][0]) for name in NAMES} for _ in range(ROUNDS)]
        times = {f"{name}_s": round(statistics.median(row[name] for row in seconds), 3) for name in NAMES}
        times |= {
            f"{name}_ratio": round(statistics.median(r[name] / r["ours"] for r in seconds), 1) for name in NAMES[1:]
        }
        counted = {f"{name}_{what}": n for name in NAMES for what, n in losses[name].items()}
        save("resume", {**times, **counted, "samples": len(samples), "skipped_batches": MIDDLE, "batch_size": BATCH})


if __name__ == "__main__":
    main()
