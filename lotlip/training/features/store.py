"""Features of a run's samples, batch by batch from the files of their shards."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lotlip.data.loading.samples import Sample
from lotlip.errors import DataError
from lotlip.training.features.sidecar import Sidecar, open_sidecar

_MAX_MAPPED = 32_000  # files; Linux allows a process 65,530 maps


class ByShard:
    """Samples by shard: the `shards`' names in the order of their first sample, and each sample's place among them."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        numbers: dict[str, int] = {}
        count = len(samples)
        self.shard_of = np.fromiter((numbers.setdefault(s.shard, len(numbers)) for s in samples), np.int32, count)
        self.shards = list(numbers)
        self._order = np.argsort(self.shard_of, kind="stable")
        self._ends = np.cumsum(np.bincount(self.shard_of, minlength=len(numbers)))

    def members(self, number: int) -> NDArray[np.int64]:
        """Indices of the samples of shard `number`."""
        return self._order[self._ends[number - 1] if number else 0 : self._ends[number]]


class FeatureStore:
    """Features of samples; memory holds where each one's are, and of the files what the system likes to keep.

    Args:
        samples: all of them.
        by_shard: the same by shard.
        paths: the shards' files, in its order.
        num_crops: r, of each image.

    Raises:
        DataError: a file is missing or damaged, or lacks a sample.
    """

    def __init__(self, samples: Sequence[Sample], by_shard: ByShard, paths: Sequence[Path], num_crops: int) -> None:
        self._shard_of, self._num_crops = by_shard.shard_of, num_crops
        self._opened = lru_cache(_MAX_MAPPED)(lambda number: _open(paths[number]))
        self._places = np.empty(len(samples), np.int32)
        lacking = []
        for number in range(len(paths)):
            members = by_shard.members(number)
            places, found = self._opened(number).find([samples[i].key for i in members])
            self._places[members] = places
            lacking += members[~found].tolist()
        if lacking:
            first = samples[lacking[0]]
            raise DataError(
                f"{len(lacking)} samples have no image in the shards given, {first.key} of {first.shard} first: "
                "captions and images do not belong together, or the image cannot be read: run `dvc repro validate`."
            )

    def batch(self, indices: NDArray[np.int64], visits: NDArray[np.int64]) -> Tensor:
        """Features of samples at visits; visit v shows crop v % r.

        Returns:
            float32 [B, H], or [B, P, H] of patches, on the CPU; not of unit length.

        Raises:
            DataError: what a file holds is not what was written.
        """
        shards, places, crops = self._shard_of[indices], self._places[indices], visits % self._num_crops
        order = np.argsort(shards, kind="stable")
        starts = np.flatnonzero(np.diff(shards[order])) + 1
        batch: NDArray[np.float16] | None = None
        for part in np.split(order, starts):
            rows = self._opened(int(shards[part[0]])).rows(places[part], crops[part])
            if batch is None:
                batch = np.empty((len(indices), *rows.shape[1:]), np.float16)
            batch[part] = rows
        assert batch is not None, "an empty batch"
        return torch.from_numpy(batch).float()


def _open(path: Path) -> Sidecar:
    try:
        return open_sidecar(path)
    except DataError as error:
        raise DataError(
            f"Image features: {error}. Run the training again: what is missing is computed first."
        ) from None
