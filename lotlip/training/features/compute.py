"""A locked tower's features of all images of a shard, once: decoded in worker processes, embedded here, written.

Images of a shard are taken in the order of their keys, in batches that do not depend on who computes, so one process
or many, with any number of workers, write the same bytes.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from lotlip.data.loading.image_reader import ImageReader
from lotlip.data.loading.loader import is_death, load_ahead
from lotlip.data.loading.pixels import PixelSource
from lotlip.data.loading.samples import Sample
from lotlip.errors import DataError, ExecutorError, ModelError
from lotlip.model.image_tower import image_features
from lotlip.training.features.sidecar import write_sidecar

_BATCH = 64  # images or, with several crops, as many images as have about so many crops
_EVERY_S = 5.0


@dataclass(frozen=True)
class Job:
    """A sidecar to compute: of which shard with how many images, where it goes, and which samples want it."""

    shard: str
    num_images: int
    path: Path
    samples: NDArray[np.int64]


@dataclass(frozen=True)
class Embed:
    """Features by a tower: of `num_crops` crops an image, of each patch if `patches`, under `autocast` to a type."""

    tower: Any
    num_crops: int
    patches: bool
    autocast: torch.dtype | None

    @torch.inference_mode()
    def __call__(self, pixels: Tensor) -> Tensor:
        """Pixels [n * r, 3, S, S] to float16 [n, r, H] or [n, r, P, H] on the CPU.

        Raises:
            ModelError: a feature is not finite in float16.
        """
        weight = next(self.tower.parameters())
        with self._precision(weight.device):
            features = image_features(
                self.tower, pixels.to(weight.device, weight.dtype, non_blocking=True), patches=self.patches
            )
        small = features.to(torch.float16).cpu()
        if not bool(small.isfinite().all()):
            raise ModelError(
                f"The image tower gives features that float16 cannot hold, up to {features.abs().max().item():g}: are "
                "its weights damaged? With train.cached_crops: 0 nothing is kept."
            )
        return small.reshape(-1, self.num_crops, *small.shape[1:])

    def _precision(self, device: torch.device) -> AbstractContextManager[Any]:
        return nullcontext() if self.autocast is None else torch.autocast(device.type, self.autocast)


def compute_sidecars(
    jobs: Sequence[Job],
    samples: Sequence[Sample],
    embed: Embed,
    reader: ImageReader,
    source: PixelSource,
    num_workers: int,
) -> None:
    """Compute and write the sidecars, one after the other; those that are written stay, whatever happens then.

    An image that cannot be read, and that no sample wants, is left out; a line of output counts these.

    Args:
        jobs: in this order.
        samples: all of the run.
        embed: makes the features.
        reader: knows the shards' keys.
        source: makes the pixels; visit c of an image is its crop c.
        num_workers: processes that do so; 0: this one.

    Raises:
        DataError: a shard is missing or damaged, or an image that is wanted is.
        ExecutorError: a worker died.
        ModelError: the tower gives features that are not finite.
    """
    size = max(1, _BATCH // embed.num_crops)
    tasks = ((job.shard, slice(at, at + size)) for job in jobs for at in range(0, job.num_images, size))
    on_gpu = next(embed.tower.parameters()).is_cuda
    parts = _raise_errors(load_ahead(_Crops(reader, source, embed.num_crops), tasks, num_workers, on_gpu), num_workers)
    progress = _Progress(sum(job.num_images for job in jobs))
    for job in jobs:
        keys: list[str] = []
        features: list[Tensor] = []
        errors: dict[str, DataError] = {}
        for part in islice(parts, -(-job.num_images // size)):
            keys += part.keys
            errors |= part.errors
            if part.keys:
                features.append(embed(part.pixels))
            progress.add(len(part.keys) + len(part.errors))
        _check(job, samples, keys, errors)
        write_sidecar(job.path, keys, torch.cat(features).numpy())
    progress.show()


class _Part(NamedTuple):
    """Of some images of a shard: keys of those that can be read, their crops' pixels, and why others cannot."""

    keys: list[str]
    pixels: Tensor
    errors: dict[str, DataError]


class _Crops(Dataset[_Part | DataError]):
    """Parts of shards: (shard, which of its keys)."""

    def __init__(self, reader: ImageReader, source: PixelSource, num_crops: int) -> None:
        self._reader, self._source, self._num_crops = reader, source, num_crops

    def __getitem__(self, of_shard: tuple[str, slice]) -> _Part | DataError:
        shard, part = of_shard
        crops: dict[str, Tensor] = {}
        errors: dict[str, DataError] = {}
        try:
            keys = self._reader.keys(shard, part)
        except DataError as error:  # raised in a worker, it would arrive as a page of traceback
            return error
        for key in keys:
            try:
                crops[key] = self._source.batch([(shard, key, crop) for crop in range(self._num_crops)])
            except DataError as error:
                errors[key] = error
        return _Part(list(crops), torch.cat(list(crops.values())) if crops else torch.empty(0), errors)


def _raise_errors(parts: Iterator[_Part | DataError], num_workers: int) -> Iterator[_Part]:
    try:
        for part in parts:
            if isinstance(part, DataError):
                raise part
            yield part
    except (RuntimeError, ConnectionError, EOFError) as error:
        if not (num_workers and is_death(error)):
            raise
        raise ExecutorError(
            f"A worker that decodes images died ({error}): give more memory or lower train.num_workers, and run again; "
            "finished shards are kept."
        ) from error


def _check(job: Job, samples: Sequence[Sample], keys: Sequence[str], errors: Mapping[str, DataError]) -> None:
    missing = sorted({samples[i].key for i in job.samples}.difference(keys))
    for key in missing:
        if key in errors:
            raise errors[key]
    if missing:
        raise DataError(
            f"{len(missing)} samples have no image in shard {job.shard}, {missing[0]} first: captions and images do "
            "not belong together."
        )
    if errors:
        print(
            f"image features of {job.shard}: {len(errors)} images cannot be read, and no sample wants them", flush=True
        )


class _Progress:
    """Prints every few seconds how many images are done, how fast, and how long the others will take."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._started_at = self._printed_at = time.monotonic()

    def add(self, count: int) -> None:
        self._done += count
        if time.monotonic() - self._printed_at >= _EVERY_S:
            self.show()

    def show(self) -> None:
        self._printed_at = time.monotonic()
        rate = self._done / max(1e-9, self._printed_at - self._started_at)
        left = timedelta(seconds=round((self._total - self._done) / max(1e-9, rate)))
        print(f"image features: {self._done} of {self._total} images, {rate:.0f} images/s, {left} left", flush=True)
