"""Near-equal perceptual hashes, found without comparing all pairs."""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

HASH_BITS = 64
_AT_ONCE = 1 << 16  # queries looked up together: bounds the memory for candidates


def parse_hashes(hashes: list[str]) -> NDArray[np.uint64]:
    """Hashes of 16 hex digits as numbers; uint64 [N]."""
    return np.array([int(text, 16) for text in hashes], dtype=np.uint64)


def near_pairs(
    queries: NDArray[np.uint64], references: NDArray[np.uint64], max_distance: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """All pairs of a query and a reference that differ in at most `max_distance` of 64 bits, each pair once.

    Exact: cut into `max_distance + 1` bands of bits, two such hashes agree in at least one whole band, so only those
    that agree in a band are compared. Fast while bands are wide: at N queries and M references about
    N * M * (d + 1) / 2 ** (64 / (d + 1)) comparisons for evenly spread hashes, at d = 3 the 16,000th part of all pairs.

    Args:
        queries: uint64 [N].
        references: uint64 [M].
        max_distance: Hamming distance, at least 0; beyond about 8, bands are so narrow that nearly all pairs are met.

    Returns:
        Indices of queries, indices of references and their distances, int64 [P] each, ordered by query and reference.

    Source: pigeonhole search in Hamming space, Norouzi et al., arXiv:1307.2982, with radius 0 in each band.
    """
    found = [
        _pairs(queries[start : start + _AT_ONCE], references, max_distance, start)
        for start in range(0, len(queries), _AT_ONCE)
    ]
    pairs = np.concatenate(found) if found else np.empty((0, 3), np.int64)
    return pairs[:, 0], pairs[:, 1], pairs[:, 2]


def _pairs(
    queries: NDArray[np.uint64], references: NDArray[np.uint64], max_distance: int, offset: int
) -> NDArray[np.int64]:
    """Rows (query, reference, distance) in order; `offset` is added to the queries' indices."""
    kept = []
    bands = _bands(max_distance + 1)
    for number, (shift, mask) in enumerate(bands):
        i, j = _equal_pairs((queries >> shift) & mask, (references >> shift) & mask)
        different = queries[i] ^ references[j]
        is_new = np.bitwise_count(different) <= max_distance
        for earlier, bits in bands[:number]:  # a pair that agrees in an earlier band was found there
            is_new &= (different >> earlier) & bits != 0
        distance = np.bitwise_count(different[is_new]).astype(np.int64)
        kept.append(np.stack([i[is_new] + offset, j[is_new], distance], axis=1))
    pairs = np.concatenate(kept)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _bands(number: int) -> list[tuple[np.uint64, np.uint64]]:
    """Shift and mask of `number` bands that together cover all bits."""
    edges = [HASH_BITS * i // number for i in range(number + 1)]
    return [(np.uint64(low), np.uint64((1 << (high - low)) - 1)) for low, high in pairwise(edges)]


def _equal_pairs(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of all pairs of equal values."""
    order = np.argsort(right, kind="stable")
    ordered = right[order]
    first, last = np.searchsorted(ordered, left, "left"), np.searchsorted(ordered, left, "right")
    counts = last - first
    i = np.repeat(np.arange(len(left)), counts)
    within = np.arange(len(i)) - np.repeat(np.cumsum(counts) - counts, counts)
    return i, order[np.repeat(first, counts) + within]
