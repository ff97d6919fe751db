"""Shards of JPEGs as photographs on the web have them: 448 pixels on the longer side, about 30 kB each."""

import io
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from lotlip.data.images import eval_transform, open_rgb
from lotlip.data.loading.samples import Sample
from lotlip.data.manifest import Manifest, Shard, describe_file, write_manifest
from lotlip.data.shards import encode_png, write_tar
from lotlip.model.image_tower import ImageSettings
from lotlip.model.processor import MAX_PIXELS
from lotlip.sample.scenes import make_scene, render

SIDE, BYTES, DISTINCT = 448, 30_000, 250
Transform = Callable[..., Tensor]


def make_shards(folder: Path, num_shards: int, size: int) -> tuple[list[Sample], Manifest]:
    """Write shards `jpeg-00000`, ... of `size` samples each; distinct pictures come again under other keys."""
    folder.mkdir(parents=True)
    pictures = [jpeg(data) for data in source_images()]
    samples, shards = [], []
    for number in range(num_shards):
        name = f"jpeg-{number:05d}"
        here = [Sample(name, f"{number * size + i:08d}", "", ()) for i in range(size)]
        records = [{"__key__": s.key, "jpg": pictures[int(s.key) % len(pictures)], "txt": "a picture"} for s in here]
        count = write_tar(folder / f"{name}.tar", records)
        shards.append(Shard(name, count, {"tar": describe_file(folder, f"{name}.tar")}))
        samples += here
    return samples, write_manifest(folder, "images", shards)


def source_images() -> list[bytes]:
    """Encoded images: `../shared/data/pictures` if it is there, else scenes of the sample."""
    found = sorted((Path(__file__).parents[2] / "shared/data/pictures/images").glob("*"))
    if found:
        return [path.read_bytes() for path in found[:: max(1, len(found) // DISTINCT)]]
    return [encode_png(render(make_scene(0, index))) for index in range(DISTINCT)]


def jpeg(data: bytes) -> bytes:
    """The image as a JPEG of the usual size, at the quality from which on it has about the usual number of bytes."""
    image = open_rgb(data, 10**8)
    scale = SIDE / max(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    for quality in (85, 92, 96, 98):
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=quality)
        if buffer.tell() >= BYTES:
            break
    return buffer.getvalue()


def pixels(data: bytes, *_: object) -> Tensor:
    """The evaluation transform at 224 pixels; random numbers of an augmentation are not used."""
    image = ImageSettings(224)
    return eval_transform(open_rgb(data, MAX_PIXELS), image.size, image.mean, image.std)


def nothing(data: bytes, *_: object) -> Tensor:
    """In place of pixels where only the order counts."""
    return torch.zeros(1)
