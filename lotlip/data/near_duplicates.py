"""Near-equal perceptual hashes, found without comparing all pairs."""

from itertools import combinations, pairwise

import numpy as np
from numpy.typing import NDArray

HASH_BITS = 64
_MAX_PAIRS = 1 << 20  # gathered before they are joined to groups
_AT_ONCE = 1 << 16  # queries looked up together: bounds the memory for candidates

Hashes = NDArray[np.uint64]
Labels = NDArray[np.int64]


def parse_hashes(hashes: list[str]) -> NDArray[np.uint64]:
    """Hashes of 16 hex digits as numbers; uint64 [N]."""
    return np.array([int(text, 16) for text in hashes], dtype=np.uint64)


def masks(max_distance: int) -> list[np.uint64]:
    """Masks under one of which two hashes are equal that differ in at most `max_distance` bits.

    Cut into `max_distance + 2` bands, such hashes agree in two whole bands at least: a mask is a pair of bands.
    """
    edges = [HASH_BITS * i // (max_distance + 2) for i in range(max_distance + 3)]
    bands = [(1 << end) - (1 << start) for start, end in pairwise(edges)]
    return [np.uint64(one | other) for one, other in combinations(bands, 2)]


def near_pairs(
    queries: NDArray[np.uint64], references: NDArray[np.uint64], max_distance: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """All pairs of a query and a reference that differ in at most `max_distance` of 64 bits, each pair once.

    Exact: only hashes that are equal under one of the `masks` are compared. At N queries and M references these are
    about N * M * (d + 1) * (d + 2) / 2 / 2 ** (128 / (d + 2)) comparisons for evenly spread hashes, at d = 3 the
    5,000,000th part of all pairs.

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


def near_groups(hashes: Hashes, bits: int) -> Labels:
    """Number the groups of hashes that are joined by steps of at most `bits` different bits.

    Only hashes that are equal under one of the `masks` are compared, not all pairs.

    Args:
        hashes: uint64 [n].

    Returns:
        int64 [n]: equal numbers for the members of one group.
    """
    unique, inverse = np.unique(hashes, return_inverse=True)
    labels = np.arange(len(unique), dtype=np.int64)
    for mask in masks(bits):
        labels = _join_near(unique, labels, mask, bits)
    return labels[inverse]


def _join_near(hashes: Hashes, labels: Labels, mask: np.uint64, bits: int) -> Labels:
    """Join the groups of near hashes that are equal under the mask."""
    masked = hashes & mask
    order = np.argsort(masked, kind="stable")
    masked = masked[order]
    at, shift, pairs, num_pairs = np.arange(len(hashes)), 0, [], 0
    while len(at):  # each hash with the next of its run, the one after the next, and so on
        shift += 1
        at = at[at + shift < len(hashes)]
        at = at[masked[at] == masked[at + shift]]
        left, right = order[at], order[at + shift]
        is_near = (np.bitwise_count(hashes[left] ^ hashes[right]) <= bits) & (labels[left] != labels[right])
        pairs.append((left[is_near], right[is_near]))
        num_pairs += int(is_near.sum())
        if num_pairs >= _MAX_PAIRS:
            labels, pairs, num_pairs = _join(labels, pairs), [], 0
    return _join(labels, pairs) if num_pairs else labels


def _join(labels: Labels, pairs: list[tuple[Labels, Labels]]) -> Labels:
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    left, right = (labels[np.concatenate(side)] for side in zip(*pairs, strict=True))
    graph = coo_array((np.ones(len(left), dtype=bool), (left, right)), shape=(len(labels), len(labels)))
    _, joined = connected_components(graph, directed=False)
    return np.asarray(joined, dtype=np.int64)[labels]


def _pairs(
    queries: NDArray[np.uint64], references: NDArray[np.uint64], max_distance: int, offset: int
) -> NDArray[np.int64]:
    """Rows (query, reference, distance) in order; `offset` is added to the queries' indices."""
    kept = []
    under = masks(max_distance)
    for number, mask in enumerate(under):
        i, j = _equal_pairs(queries & mask, references & mask)
        different = queries[i] ^ references[j]
        is_new = np.bitwise_count(different) <= max_distance
        for earlier in under[:number]:  # a pair that is equal under an earlier mask was found there
            is_new &= different & earlier != 0
        distance = np.bitwise_count(different[is_new]).astype(np.int64)
        kept.append(np.stack([i[is_new] + offset, j[is_new], distance], axis=1))
    pairs = np.concatenate(kept)
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]


def _equal_pairs(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of all pairs of equal values."""
    order = np.argsort(right, kind="stable")
    ordered = right[order]
    first, last = np.searchsorted(ordered, left, "left"), np.searchsorted(ordered, left, "right")
    counts = last - first
    i = np.repeat(np.arange(len(left)), counts)
    within = np.arange(len(i)) - np.repeat(np.cumsum(counts) - counts, counts)
    return i, order[np.repeat(first, counts) + within]
