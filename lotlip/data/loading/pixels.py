"""Pixels of samples: encoded images from their shards, through a transform with random numbers of its own."""

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lotlip.data.loading.image_reader import ImageReader
from lotlip.data.loading.order import Draws
from lotlip.data.loading.sample_table import SampleTable
from lotlip.data.loading.samples import Sample
from lotlip.errors import DataError

Transform = Callable[[bytes, random.Random], Tensor]  # encoded image and its random numbers -> pixels [3, S, S]
Wanted = tuple[str, str, int]  # shard, key, visit


class PixelSource:
    """Pixels of images straight from their shards.

    Args:
        reader: of the encoded images.
        transform: makes pixels of an encoded image; its random numbers follow from (seed, visit, shard, key).
        seed: of these numbers.
    """

    def __init__(self, reader: ImageReader, transform: Transform, seed: int) -> None:
        self._reader, self._transform, self._seed = reader, transform, seed

    def batch(self, wanted: Sequence[Wanted]) -> Tensor:
        """Pixels of the images, float32 [B, 3, S, S].

        Raises:
            DataError: a shard or an image is missing or damaged; validation would have put it into quarantine.
        """
        return torch.stack([self._pixels(*of_image) for of_image in wanted])

    def _pixels(self, shard: str, key: str, visit: int) -> Tensor:
        data = self._reader.read(shard, key)
        try:
            return self._transform(data, random.Random(f"image/{self._seed}/{visit}/{shard}/{key}"))
        except DataError as error:
            path = self._reader.path(shard)
            raise DataError(f"Image {key} of {path}: {error}. Run `dvc repro validate` first.") from error


class SamplePixels(Dataset[Tensor | DataError]):
    """Pixels of samples, for a `Loader` that needs nothing else."""

    def __init__(self, samples: SampleTable, pixels: PixelSource) -> None:
        self._samples, self._pixels = samples, pixels

    def __getitem__(self, draws: Draws) -> Tensor | DataError:
        """Float32 [B, 3, S, S]; an error is returned: raised in a worker, it would arrive as a page of traceback."""
        try:
            return self._pixels.batch(wanted(self._samples.take(draws.indices), draws))
        except DataError as error:
            return error


def wanted(samples: Sequence[Sample], draws: Draws) -> list[Wanted]:
    """The images of drawn samples, at their visits."""
    chosen = zip(samples, draws.visits.tolist(), strict=True)
    return [(sample.shard, sample.key, visit) for sample, visit in chosen]
