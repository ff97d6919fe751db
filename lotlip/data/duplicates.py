"""Images that a source holds more than once: with equal bytes, or with nearly equal perceptual hashes."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lotlip.data.manifest import Shard
from lotlip.data.near_duplicates import Hashes, Labels, near_groups
from lotlip.data.tables import read_records

_MAX_GROUPS = 10
_MAX_KEYS = 20


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
