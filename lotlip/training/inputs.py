"""What a run's steps take in: batches of samples, with their texts as ids and their images as pixels or features."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from lotlip.data.loading.image_reader import ImageReader
from lotlip.data.loading.loader import Loader, SampleBatch
from lotlip.data.loading.order import EpochOrder
from lotlip.data.loading.pixels import PixelSource
from lotlip.data.loading.sample_table import SampleTable
from lotlip.data.loading.samples import TextRecipe
from lotlip.data.manifest import Manifest
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
        self._config, self._samples, self._ranks = parts.model.config, samples, ranks
        self._batch_size, self._dtype = settings.batch_size, DTYPES[settings.compute.precision]
        recipe = TextRecipe(method.short_text, method.num_long, method.long_text, settings.run_length)
        self.texts = TextSource(parts.tokenizer, recipe, settings.seed)
        self._features: FeatureStore | None = None
        pixels, is_locked = None, method.image_tower == "locked"
        if is_locked and settings.cached_crops:
            patches = method.objective == "late_interaction"
            self._features = _cached_features(parts, samples, images, settings, work, ranks, patches)
        else:
            reader = ImageReader(images, work / "shards", read_ahead=settings.order == "shards")
            pixels = pixel_source(reader, parts.image_settings, settings, locked=is_locked)
        self._image_work: ImageWork = "cached" if pixels is None else "locked" if is_locked else "trained"
        self.loader = _open_loader(samples, settings, pixels, ranks)

    def __iter__(self) -> Iterator[SampleBatch]:
        """From where the loader stands."""
        return iter(self.loader)

    def batch(self, drawn: SampleBatch) -> Batch:
        """The model's inputs for what the loader has drawn."""
        ids, mask = self.texts.batch(self._samples.take(drawn.indices), drawn.visits.tolist())
        images = drawn.pixels if self._features is None else self._features.batch(drawn.indices, drawn.visits)
        assert images is not None  # without features the loader makes pixels
        device = self._ranks.device
        images = images.to(device, self._dtype)
        return Batch(ids.to(device), mask.to(device), images, mask.sum(dim=-1), self._features is not None)

    def flops(self, batch: Batch) -> float:
        """Useful FLOPs of a step with this share."""
        short, long = batch.lengths[:, 0].numpy(), batch.lengths[:, 1:].flatten().numpy()
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


def _open_loader(samples: SampleTable, settings: Train, pixels: PixelSource | None, ranks: Ranks) -> Loader:
    order = EpochOrder(samples.shards, settings.seed, settings.order, settings.window_shards, settings.source_weights)
    per_epoch = max(1, len(samples) // settings.batch_size)
    num_epochs = math.ceil(num_steps(settings, per_epoch) / per_epoch)
    return Loader(
        samples, order, batch_size=settings.batch_size, num_epochs=num_epochs, pixels=pixels,
        num_workers=settings.num_workers, device=ranks.device, rank=ranks.rank, world_size=ranks.size,
    )  # fmt: skip
