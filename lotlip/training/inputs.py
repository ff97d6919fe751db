"""What a run's steps take in: batches of samples, with their texts as ids and their images as pixels or features."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from lotlip.data.loading.image_reader import ImageReader
from lotlip.data.loading.loader import Loader, SampleBatch
from lotlip.data.loading.order import Draws, EpochOrder
from lotlip.data.loading.pixels import PixelSource, wanted
from lotlip.data.loading.sample_table import SampleTable
from lotlip.data.loading.samples import TextRecipe
from lotlip.data.manifest import Manifest
from lotlip.errors import LotlipError
from lotlip.model.build import Parts
from lotlip.model.flops import ImageWork, step_flops
from lotlip.params import Method, Train
from lotlip.training.features.cache import FeatureCache
from lotlip.training.features.store import FeatureStore
from lotlip.training.optim import num_steps
from lotlip.training.parallel import DTYPES
from lotlip.training.pixels import pixel_source
from lotlip.training.ranks import Ranks
from lotlip.training.step import Batch
from lotlip.training.texts import TextSource


class Made(NamedTuple):
    """A batch as it comes from a worker; lengths and counts stay on the CPU."""

    ids: Tensor
    mask: Tensor
    images: Tensor
    lengths: NDArray[np.int64]
    counts: dict[str, int]


class BatchSource(Dataset[Made | LotlipError]):
    """Makes batches of what a loader draws: texts as ids, images as pixels or as features that are there."""

    def __init__(self, samples: SampleTable, texts: TextSource, images: PixelSource | FeatureStore) -> None:
        self._samples, self._texts, self._images = samples, texts, images

    def __getitem__(self, draws: Draws) -> Made | LotlipError:
        """An error is returned: raised in a worker, it would arrive as a page of traceback."""
        try:
            samples = self._samples.take(draws.indices)
            ids, mask, counts = self._texts.batch(samples, draws.visits.tolist())
            if isinstance(self._images, FeatureStore):
                images = self._images.batch(draws.indices, draws.visits)
            else:
                images = self._images.batch(wanted(samples, draws))
            return Made(ids, mask, images, mask.sum(dim=-1).numpy(), counts)
        except LotlipError as error:
            return error


class Inputs:
    """This process's share of every batch.

    Made before the model is wrapped: a locked image tower computes the features that are missing here, each process a
    part of them.

    Args:
        parts: the model, on its device, and what makes its inputs.
        samples: to train on.
        images: manifests whose shards hold their images.
        settings: the section `train`.
        method: which texts, which images.
        work: keeps features, and where images lie in their shards.
        ranks: the processes that share the batches.

    Raises:
        DataError: fewer samples than one batch; an image is missing or damaged.
        ExecutorError: workers that decode images died.
    """

    def __init__(
        self,
        parts: Parts,
        samples: SampleTable,
        images: Sequence[Manifest],
        settings: Train,
        method: Method,
        work: Path,
        ranks: Ranks,
    ) -> None:
        self._config, self._device = parts.model.config, ranks.device
        self._batch_size, self._dtype = settings.batch_size, DTYPES[settings.compute.precision]
        self.counts = Counter[str]()
        is_locked = method.image_tower == "locked"
        self._is_cached = is_locked and settings.cached_crops > 0
        self._image_work: ImageWork = "cached" if self._is_cached else "locked" if is_locked else "trained"
        of_images: PixelSource | FeatureStore
        if self._is_cached:
            patches = method.objective == "late_interaction"
            of_images = _cached_features(parts, samples, images, settings, work, ranks, patches)
        else:
            reader = ImageReader(images, work / "shards", read_ahead=settings.order == "shards")
            of_images = pixel_source(reader, parts.image_settings, settings, locked=is_locked)
        recipe = TextRecipe(method.short_text, method.num_long, method.long_text, settings.run_length)
        texts = TextSource(parts.tokenizer, recipe, settings.seed)
        self.loader = _open_loader(samples, settings, BatchSource(samples, texts, of_images), ranks)

    def __iter__(self) -> Iterator[SampleBatch]:
        """From where the loader stands."""
        return iter(self.loader)

    def batch(self, drawn: SampleBatch) -> Batch:
        """The model's inputs for what the loader has drawn; `counts` adds up what it says of its texts."""
        made: Made = drawn.content
        self.counts.update(made.counts)
        ids, mask, images = made.ids.to(self._device), made.mask.to(self._device), made.images
        return Batch(ids, mask, images.to(self._device, self._dtype), made.lengths, self._is_cached)

    def flops(self, batch: Batch) -> float:
        """Useful FLOPs of a step with this share."""
        short, long = batch.lengths[:, 0], batch.lengths[:, 1:].flatten()
        return step_flops(self._config, short, long, image=self._image_work, batch_size=self._batch_size).total


def _cached_features(
    parts: Parts,
    samples: SampleTable,
    images: Sequence[Manifest],
    settings: Train,
    work: Path,
    ranks: Ranks,
    patches: bool,
) -> FeatureStore:
    tower = parts.model.image_tower.to(ranks.device).eval()
    autocast = torch.bfloat16 if settings.compute.precision == "bfloat16" else None
    cache = FeatureCache(
        tower, parts.image_settings, images, samples, settings, work, patches=patches, autocast=autocast
    )
    cache.compute_missing(ranks.rank, ranks.size)
    ranks.wait()
    return cache.open()


def _open_loader(samples: SampleTable, settings: Train, source: BatchSource, ranks: Ranks) -> Loader:
    order = EpochOrder(samples.shards, settings.seed, settings.order, settings.window_shards, settings.source_weights)
    per_epoch = max(1, len(samples) // settings.batch_size)
    num_epochs = math.ceil(num_steps(settings, per_epoch) / per_epoch)
    return Loader(
        samples, order, batch_size=settings.batch_size, num_epochs=num_epochs, source=source,
        num_workers=settings.num_workers, device=ranks.device, rank=ranks.rank, world_size=ranks.size,
    )  # fmt: skip
