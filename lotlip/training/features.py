"""Images for training: the transform of a tower that learns, and features of a locked one, computed once and kept.

A cached file belongs to one tar, one tower and one transform; its name is a hash of all three, so all
methods with the same locked tower share it.
"""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lotlip.data.images import eval_transform, open_rgb
from lotlip.data.loading.samples import Sample
from lotlip.data.manifest import Manifest, Shard
from lotlip.data.shards import ShardReader
from lotlip.errors import DataError
from lotlip.model.image_tower import ImageSettings, image_features
from lotlip.model.processor import MAX_PIXELS
from lotlip.records import atomic_path, content_key

FEATURE_VERSION = 1  # raise it when the same tower and tar would give other features
_BATCH = 64


def weights_hash(module: nn.Module) -> str:
    """Hex SHA-256 over the names, types, shapes and bytes of all weights."""
    digest = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def decode(reader: ShardReader, key: str, settings: ImageSettings) -> Tensor:
    """Normalised pixels of one sample, float32 [3, S, S].

    Raises:
        DataError: it is missing or unreadable; validation would have put it into quarantine.
    """
    try:
        return evaluation_pixels(reader.image(key), settings)
    except DataError as error:
        raise DataError(f"Image {key} of {reader.path}: {error}. Run `dvc repro validate` first.") from error


def evaluation_pixels(data: bytes, settings: ImageSettings) -> Tensor:
    """Normalised pixels of an encoded image by the evaluation transform, float32 [3, S, S].

    Raises:
        DataError: it is unreadable; the message is a short reason.
    """
    return eval_transform(open_rgb(data, MAX_PIXELS), settings.size, settings.mean, settings.std)


def cached_features(
    tower: nn.Module,
    settings: ImageSettings,
    images: Sequence[Manifest],
    samples: Sequence[Sample],
    folder: Path,
    *,
    patches: bool = False,
) -> Tensor:
    """Features of the samples' images by a locked tower, computed for whole shards and kept in `folder`.

    Args:
        tower: in eval mode, on the device to compute on.
        settings: the evaluation transform; there is no augmentation.
        images: manifests that hold the samples' shards.
        samples: whose features are wanted, in this order.
        folder: of `<key>.safetensors`, one a shard.
        patches: of each of an image's P patches instead.

    Returns:
        float32 [len(samples), H] or [len(samples), P, H] on the CPU, not normalised.

    Raises:
        DataError: a shard or an image is missing or damaged.
    """
    identity = weights_hash(tower)
    wanted = {sample.shard for sample in samples}
    rows: dict[tuple[str, str], Tensor] = {}
    for manifest in images:
        for shard in manifest.shards:
            if shard.name in wanted:
                path = folder / f"{_key(identity, settings, shard, patches)}.safetensors"
                if not path.is_file():
                    _compute(tower, settings, manifest, shard, path, patches)
                rows.update(_read(path, shard.name))
    missing = [sample.key for sample in samples if (sample.shard, sample.key) not in rows]
    if missing:
        raise DataError(
            f"{len(missing)} samples have no image in the shards given, {missing[0]} first: captions and "
            "images do not belong together."
        )
    return torch.stack([rows[sample.shard, sample.key] for sample in samples])


def _key(identity: str, settings: ImageSettings, shard: Shard, patches: bool) -> str:
    return content_key(
        {
            "version": FEATURE_VERSION,
            "tower": identity,
            "transform": asdict(settings),
            "tar": shard.files["tar"].sha256,
            "patches": patches,
        }
    )


@torch.inference_mode()
def _compute(tower: Any, settings: ImageSettings, manifest: Manifest, shard: Shard, path: Path, patches: bool) -> None:
    print(f"image features of {shard.name}: {shard.num_samples} images", flush=True)
    device = next(tower.parameters()).device
    with ShardReader(manifest.path(shard, "tar"), shard.files["tar"].sha256) as reader:
        batches = _pixel_batches(reader, settings)
        parts = [image_features(tower, pixels.to(device), patches=patches).cpu() for pixels in batches]
        keys = reader.keys
    features = torch.cat(parts) if parts else torch.zeros(0, tower.config.hidden_size)
    with atomic_path(path) as temporary:
        save_file({"features": features.float()}, temporary, metadata={"keys": json.dumps(keys)})


def _read(path: Path, shard: str) -> Iterator[tuple[tuple[str, str], Tensor]]:
    with safe_open(path, framework="pt") as file:
        keys = json.loads(file.metadata()["keys"])
        features = file.get_tensor("features")
    for key, row in zip(keys, features, strict=True):
        yield (shard, key), row


def _pixel_batches(reader: ShardReader, settings: ImageSettings) -> Iterator[Tensor]:
    keys = reader.keys
    for start in range(0, len(keys), _BATCH):
        yield torch.stack([decode(reader, key, settings) for key in keys[start : start + _BATCH]])
