"""Near-equal perceptual hashes of 200,000 images and a set of 5,000 (COCO's size): bands against all pairs.

The limit: one read of the hashes and one sort of each band of the smaller side.
"""

from pathlib import Path
from sys import path

path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from benchmarks.timing import compare, save
from lotlip.data.near_duplicates import near_pairs

QUERIES, REFERENCES, COPIES, DISTANCE = 200_000, 5_000, 1_000, 4


def all_pairs(queries: np.ndarray, references: np.ndarray) -> np.ndarray:
    """Every distance, a block of queries at a time."""
    found = []
    for start in range(0, len(queries), 2_000):
        distances = np.bitwise_count(queries[start : start + 2_000, None] ^ references[None])
        i, j = (distances <= DISTANCE).nonzero()
        found.append(np.stack([i + start, j], axis=1))
    return np.concatenate(found)


def main() -> None:
    rng = np.random.default_rng(0)
    references = rng.integers(0, 2**64, REFERENCES, dtype=np.uint64)
    queries = rng.integers(0, 2**64, QUERIES, dtype=np.uint64)
    flips = np.bitwise_or.reduce(np.uint64(1) << rng.integers(0, 64, (COPIES, DISTANCE), dtype=np.uint64), axis=1)
    queries[:COPIES] = references[:COPIES] ^ flips
    i, j, _ = near_pairs(queries, references, DISTANCE)
    different = len({*zip(i, j, strict=True)} ^ {*map(tuple, all_pairs(queries, references))})
    ways = {
        "bands": lambda: near_pairs(queries, references, DISTANCE),
        "all_pairs": lambda: all_pairs(queries, references),
    }
    save("near_duplicates", {**compare(ways, 3), "pairs": len(i), "pairs_that_differ": different})


if __name__ == "__main__":
    main()
