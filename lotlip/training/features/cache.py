"""The features of a locked tower that a training run needs: which files they are in, computing those, batches of them.

A file belongs to one tar, one tower and one way to make pixels; its name is a hash of all three, so all methods with
the same locked tower share it, and nothing old is ever taken for something new.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lotlip.data.loading.image_reader import ImageReader
from lotlip.data.loading.samples import Sample
from lotlip.data.manifest import Manifest, Shard
from lotlip.errors import DataError
from lotlip.model.image_tower import ImageSettings
from lotlip.params import Train
from lotlip.records import content_key
from lotlip.training.features.compute import Embed, Job, compute_sidecars
from lotlip.training.features.sidecar import open_sidecar
from lotlip.training.features.store import ByShard, FeatureStore
from lotlip.training.pixels import pixel_decode, pixel_source

FEATURE_VERSION = 2  # raise it when the same tower and tar would give other features
_NO_RESULT_CHANGES = ("_name_or_path", "architectures", "dtype", "transformers_version")  # of a tower's configuration


def weights_hash(module: nn.Module) -> str:
    """Hex SHA-256 over the names, types, shapes and bytes of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class FeatureCache:
    """Files with the features of all images of the samples' shards.

    First each rank calls `compute_missing`; once all are done, each calls `open`.

    Args:
        tower: locked, in eval mode, on the device to compute on.
        image: how images become its input.
        images: manifests that hold the samples' shards.
        samples: whose features are wanted.
        settings: the section `train`: augment, cached_crops (r, at least 1), decode, seed, num_workers.
        work: features go to `features` in it, and where images lie in their shards to `shards`.
        patches: of each of an image's P patches instead.
        autocast: type to compute under autocast in; None: as the weights are.

    Raises:
        DataError: no manifest holds the shard of a sample.
    """

    def __init__(
        self,
        tower: Any,
        image: ImageSettings,
        images: Sequence[Manifest],
        samples: Sequence[Sample],
        settings: Train,
        work: Path,
        *,
        patches: bool = False,
        autocast: torch.dtype | None = None,
    ) -> None:
        # Without augmentation all crops of an image are the same.
        self._num_crops = settings.cached_crops if settings.augment else 1
        self._samples, self._num_workers = samples, settings.num_workers
        self._embed = Embed(tower, self._num_crops, patches, autocast)
        self._reader = ImageReader(images, work / "shards", read_ahead=True)
        self._source = pixel_source(self._reader, image, settings, locked=True)
        self._by_shard = ByShard(samples)
        known = {shard.name: shard for manifest in images for shard in manifest.shards}
        for name in self._by_shard.shards:
            if name not in known:
                raise DataError(f"No image manifest holds shard {name!r}: samples and images do not fit.")
        self._shards = [known[name] for name in self._by_shard.shards]
        identity = {
            "version": FEATURE_VERSION,
            "weights": weights_hash(tower),
            "tower": {name: x for name, x in tower.config.to_dict().items() if name not in _NO_RESULT_CHANGES},
            "image": asdict(image),
            "patches": patches,
            "autocast": None if autocast is None else str(autocast),
            "dtype": "float16",
        }
        self._paths = [work / "features" / f"{_key(identity, settings, shard)}.safetensors" for shard in self._shards]

    def compute_missing(self, rank: int = 0, world_size: int = 1) -> None:
        """Compute every `world_size`-th shard's file, from the one at `rank` on, that is missing or damaged.

        Which ones are a rank's own does not depend on what is there, so ranks need not start at the same time.

        Raises:
            DataError: a shard or an image is missing or damaged; what is computed is kept.
            ExecutorError: a process that decodes images died.
            ModelError: features are not finite.
        """
        own = range(rank, len(self._shards), world_size)
        jobs = [self._job(number) for number in own if not self._is_there(number)]
        if jobs:
            compute_sidecars(jobs, self._samples, self._embed, self._reader, self._source, self._num_workers)

    def open(self) -> FeatureStore:
        """The features of the samples.

        Raises:
            DataError: a file is missing or damaged, or lacks a sample.
        """
        return FeatureStore(self._samples, self._by_shard, self._paths, self._num_crops)

    def _is_there(self, number: int) -> bool:
        path = self._paths[number]
        if not path.is_file():
            return False
        try:
            open_sidecar(path)
        except DataError as error:
            print(f"image features of {self._shards[number].name}: {error}: computed again", flush=True)
            return False
        return True

    def _job(self, number: int) -> Job:
        shard = self._shards[number]
        return Job(shard.name, shard.num_samples, self._paths[number], self._by_shard.members(number))


def _key(identity: Mapping[str, Any], settings: Train, shard: Shard) -> str:
    changes = None
    if settings.augment:  # its random numbers follow from the shard's name, too
        changes = {
            "augment": settings.augment.model_dump(),
            "crops": settings.cached_crops,
            "seed": settings.seed,
            "shard": shard.name,
        }
    decode = pixel_decode(settings, locked=True)
    return content_key({**identity, "decode": decode, "changes": changes, "tar": shard.files["tar"].sha256})
