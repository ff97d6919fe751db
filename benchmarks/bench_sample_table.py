"""Samples with 3 long texts each in a table on disk, against a list of objects: memory, and reading random batches.

Memory is what a process holds of its own, with all samples in it or after as many random reads as there are samples;
pages of the file belong to the system, once for all processes, and go when they are needed. `drawn`: reading a batch
and drawing its texts, which is what a step does. The limit is decoding: the list has it behind it. All of the file
lies in the system's cache.
"""

import multiprocessing
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from sys import path

path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from benchmarks.timing import compare, save
from lotlip.data.loading.order import EpochOrder
from lotlip.data.loading.sample_table import SampleTable, write_table
from lotlip.data.loading.samples import Sample, TextRecipe, draw_texts

NUM_SAMPLES, IN_MEMORY, SHARD, BATCH = 1_000_000, 300_000, 10_000, 1024
RECIPE = TextRecipe(num_long=3)
WORDS = [
    f"{a}{b}" for a in ("lamp", "dog", "tree", "red", "stone", "window", "of", "on") for b in ("", "s", "ly", "er")
]


def make_shards(num_samples: int) -> Iterator[list[Sample]]:
    """Raw captions of a sentence of 14 words, long texts of 6 of them, from a stock of 2000."""
    rng = random.Random(0)
    stock = [f"{' '.join(rng.choices(WORDS, k=14))}." for _ in range(2000)]
    for start in range(0, num_samples, SHARD):
        name = f"s-{start // SHARD:05d}"
        yield [
            Sample(name, f"{start + i:09d}", texts[0][:-1], tuple(" ".join(texts[k : k + 6]) for k in (1, 7, 13)))
            for i in range(SHARD)
            for texts in (rng.choices(stock, k=19),)
        ]


def own_bytes(make: Callable[[], object]) -> int:
    """Bytes that a new process holds of its own for what `make` gives."""

    def measure() -> None:
        before = anonymous_bytes()
        kept = make()
        queue.put(anonymous_bytes() - before)
        del kept

    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=measure)
    process.start()
    found: int = queue.get()
    process.join()
    return found


def anonymous_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("RssAnon:")).split()[1])


def read_all(folder: Path) -> SampleTable:
    table = SampleTable.open(folder)
    for part in np.array_split(EpochOrder(table.shards, 0).epoch(0).indices, len(table) // BATCH):
        table.take(part)
    return table


def draw(samples: Sequence[Sample]) -> int:
    return sum(len(draw_texts(sample, RECIPE, 0, 0)) for sample in samples)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        large, small = Path(folder) / "large", Path(folder) / "small"
        for where, num_samples in ((large, NUM_SAMPLES), (small, IN_MEMORY)):
            where.mkdir()
            write_table(where, make_shards(num_samples), Counter())

        def as_list() -> list[Sample]:
            return [sample for of_shard in make_shards(IN_MEMORY) for sample in of_shard]

        memory = {
            "table_own_bytes_per_sample": round(own_bytes(lambda: read_all(small)) / IN_MEMORY, 1),
            "list_own_bytes_per_sample": round(own_bytes(as_list) / IN_MEMORY),
            "file_bytes_per_sample": round((large / "samples.arrow").stat().st_size / NUM_SAMPLES),
        }
        started = time.perf_counter()
        table = SampleTable.open(large)
        opened_s = time.perf_counter() - started
        read_all(large)  # from now on the system has it
        started = time.perf_counter()
        EpochOrder(table.shards, 0).epoch(0)
        ordered_s = time.perf_counter() - started
        rng = np.random.default_rng(1)
        in_memory = as_list()

        def indices(count: int) -> np.ndarray:
            return rng.integers(0, count, BATCH)

        ways: dict[str, Callable[[], object]] = {
            "table": lambda: table.take(indices(NUM_SAMPLES)),
            "list": lambda: [in_memory[i] for i in indices(IN_MEMORY)],
        }
        drawn: dict[str, Callable[[], object]] = {
            "table_drawn": lambda: draw(table.take(indices(NUM_SAMPLES))),
            "list_drawn": lambda: draw([in_memory[i] for i in indices(IN_MEMORY)]),
        }
        times = {**compare(ways, 30), **compare(drawn, 30)}
        sizes = {"samples": NUM_SAMPLES, "list_samples": IN_MEMORY, "batch": BATCH}
        save(
            "sample_table",
            {**memory, **times, "opened_s": round(opened_s, 4), "ordered_s": round(ordered_s, 3), **sizes},
        )


if __name__ == "__main__":
    main()
