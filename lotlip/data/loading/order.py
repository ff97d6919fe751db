"""The order of an epoch: a pure function of (seed, epoch, samples), so that a position in it is all a resume needs.

Two orders. `global` is one permutation of all samples: the best mix, with reads all over the data (a local SSD).
`shards` needs few shards at a time, each from its beginning to its end: shards come in a random order, and a sample
comes at a random time while its shard is within a moving window of N (remote storage, spinning disks). The window
moves in a circle, so the mix is as good at the ends of an epoch as in the middle; for that the N - 1 shards at the
seam are read at both ends.

Without weights an epoch is each sample once. With weights a source's share of the epoch's samples is its weight over
the sum of the weights, exact up to rounding: it goes through its own samples in one endless series of permutations,
across the epochs, so that over any time it has drawn each of them equally often (plus or minus one).
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lotlip.data.loading.samples import source_of
from lotlip.errors import DataError

OrderKind = Literal["global", "shards"]


@dataclass(frozen=True)
class Draws:
    """Samples in the order of their use, int64 [N]: their `indices`, and how many `visits` each had before this one.

    Texts and augmentations are drawn by sample and visit, so that a sample drawn twice in an epoch differs.
    """

    indices: NDArray[np.int64]
    visits: NDArray[np.int64]

    def __getitem__(self, part: "slice | NDArray[np.int64]") -> "Draws":
        return Draws(self.indices[part], self.visits[part])


class EpochOrder:
    """Which samples an epoch has, and in which order.

    Args:
        shards: by name, how many samples each has; shard by shard, in this order, the samples are numbered from 0.
        seed: at least 0.
        kind: `global` or `shards`.
        window_shards: of `shards`: so many are open at a time; from their number on, the mix is that of `global`.
        source_weights: of every source that the samples come from, above 0; None or empty: each sample once.

    Raises:
        DataError: the weights are of other sources than the samples.
    """

    def __init__(
        self,
        shards: Mapping[str, int],
        seed: int,
        kind: OrderKind = "global",
        window_shards: int = 8,
        source_weights: Mapping[str, float] | None = None,
    ) -> None:
        self.num_samples = sum(shards.values())
        self._seed, self._kind, self._window = seed, kind, window_shards
        self._shard_of = np.repeat(np.arange(len(shards), dtype=np.int32), list(shards.values()))
        self._members = _by_source(list(shards), self._shard_of) if source_weights else {}
        self.quotas = _quotas(self._members, source_weights, self.num_samples) if source_weights else {}

    def epoch(self, epoch: int) -> Draws:
        """The samples of epoch `epoch` (from 0), as many as there are samples in all."""
        draws = self._draw(epoch)
        rng = np.random.default_rng([self._seed, epoch])
        if self._kind == "global":
            return draws[rng.permutation(self.num_samples)]
        return draws[_windowed(self._shard_of[draws.indices], self._window, rng)]

    def _draw(self, epoch: int) -> Draws:
        if not self.quotas:
            return Draws(np.arange(self.num_samples), np.full(self.num_samples, epoch))
        parts = [self._series(name, epoch * quota, (epoch + 1) * quota) for name, quota in self.quotas.items()]
        return Draws(np.concatenate([p.indices for p in parts]), np.concatenate([p.visits for p in parts]))

    def _series(self, source: str, start: int, stop: int) -> Draws:
        """Places `start` to `stop` - 1 of a source's endless series of permutations."""
        size = len(self._members[source])
        indices, visits = [], []
        for visit in range(start // size, -(-stop // size)):
            part = slice(max(0, start - visit * size), stop - visit * size)
            indices.append(self._permuted(source, visit)[part])
            visits.append(np.full(len(indices[-1]), visit))
        return Draws(np.concatenate([*indices, _NONE]), np.concatenate([*visits, _NONE]))

    def _permuted(self, source: str, visit: int) -> NDArray[np.int64]:
        members = self._members[source]
        name = int.from_bytes(hashlib.sha256(source.encode()).digest()[:8], "big")
        rng = np.random.default_rng([self._seed, visit, name])
        if self._kind == "global":
            return rng.permutation(members)
        # Shard by shard: a source that gives few samples to an epoch then takes them from few shards.
        shards = self._shard_of[members]
        rank = rng.permutation(int(shards.max()) + 1)[shards]
        return members[np.lexsort((rng.random(len(members)), rank))]


_NONE = np.zeros(0, np.int64)


def _windowed(shard_of: NDArray[np.int32], window: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Order samples by a time: their shard's place among all P, and up to `window` later, on a circle of length P.

    At time t just the shards with a place in (t - window, t] are open.
    """
    _, code = np.unique(shard_of, return_inverse=True)
    num_shards = int(code.max()) + 1
    place = rng.permutation(num_shards)[code]
    time = (place + min(window, num_shards) * rng.random(len(code))) % num_shards
    return np.argsort(time, kind="stable")


def _by_source(names: Sequence[str], shard_of: NDArray[np.int32]) -> dict[str, NDArray[np.int64]]:
    sources = sorted({source_of(name) for name in names})
    source_of_shard = np.array([sources.index(source_of(name)) for name in names])
    of_sample = source_of_shard[shard_of]
    return {source: np.flatnonzero(of_sample == code) for code, source in enumerate(sources)}


def _quotas(members: Mapping[str, NDArray[np.int64]], weights: Mapping[str, float], total: int) -> dict[str, int]:
    """Samples of each source in an epoch, by largest remainders; they sum to `total`."""
    if members.keys() != weights.keys():
        raise DataError(
            f"train.source_weights names {', '.join(sorted(weights))}, and there are samples of "
            f"{', '.join(members)}: give a weight to each of these, and to no other."
        )
    exact = {name: total * weights[name] / sum(weights.values()) for name in members}
    quotas = {name: int(share) for name, share in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (quotas[name] - exact[name], name))
    for name in by_remainder[: total - sum(quotas.values())]:
        quotas[name] += 1
    return quotas
