"""Images that a source holds more than once: with equal bytes, or with nearly equal perceptual hashes."""

from collections.abc import Sequence
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lotlip.data.manifest import Shard
from lotlip.data.tables import read_records

_MAX_GROUPS = 10
_MAX_KEYS = 20
_MAX_PAIRS = 1 << 20  # gathered before they are joined to groups

Hashes = NDArray[np.uint64]
Labels = NDArray[np.int64]


def count_duplicates(folder: Path, shards: Sequence[Shard], bits: int) -> dict[str, Any]:
    """Count the images of a source that are there already, over all its shards.

    Args:
        folder: where the shards lie.
        shards: finished shards.
        bits: perceptual hashes that differ in at most so many of 64 bits are near.

    Returns:
        `exact` and `near`: images less groups, i.e. how many go if one of each group stays (a group holds what is
        equal or near, directly or over others of the group; equal images are also near). `largest`: the largest
        groups of near images, with at most 20 of their keys.
    """
    keys, exact, hashes = _read(folder, shards)
    labels = near_groups(hashes, bits)
    return {
        "exact": len(keys) - len(np.unique(exact)),
        "near": len(keys) - len(np.unique(labels)),
        "near_bits": bits,
        "largest": _largest(keys, labels),
    }


def near_groups(hashes: Hashes, bits: int) -> Labels:
    """Number the groups of hashes that are joined by steps of at most `bits` different bits.

    Of `bits` + 2 bands of the 64 bits, two hashes that differ in `bits` places agree in two bands at least. So only
    hashes with two equal bands are compared, not all pairs.

    Args:
        hashes: uint64 [n].

    Returns:
        int64 [n]: equal numbers for the members of one group.
    """
    unique, inverse = np.unique(hashes, return_inverse=True)
    labels = np.arange(len(unique), dtype=np.int64)
    edges = np.linspace(0, 64, bits + 3).astype(int)
    bands = [((1 << int(end)) - 1) ^ ((1 << int(start)) - 1) for start, end in pairwise(edges)]
    for one, other in combinations(bands, 2):
        labels = _join_near(unique, labels, np.uint64(one | other), bits)
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


def _largest(keys: NDArray[np.bytes_], labels: Labels) -> list[dict[str, Any]]:
    groups, sizes = np.unique(labels, return_counts=True)
    by_size = np.argsort(-sizes, kind="stable")[:_MAX_GROUPS]
    largest = []
    for group, size in zip(groups[by_size], sizes[by_size], strict=True):
        if size > 1:
            members = keys[labels == group]
            largest.append({"images": int(size), "keys": [key.decode() for key in members[:_MAX_KEYS]]})
    return largest


def _read(folder: Path, shards: Sequence[Shard]) -> tuple[NDArray[np.bytes_], NDArray[np.bytes_], Hashes]:
    """Keys, sha256 and perceptual hashes of all images, in the order of the tables."""
    keys, exact, hashes = [], [], []
    for shard in shards:
        rows = read_records(folder / shard.files["table"].path, ("key", "status", "sha256", "phash"))
        rows = [row for row in rows if row["status"] == "success"]
        keys.append(np.array([row["key"].encode() for row in rows], dtype=np.bytes_))
        exact.append(np.array([row["sha256"].encode()[:32] for row in rows], dtype="S32"))
        hashes.append(np.array([int(row["phash"], 16) for row in rows], dtype=np.uint64))
    return np.concatenate(keys), np.concatenate(exact), np.concatenate(hashes)
