"""The embedded sample as a source: rendered scenes with their raw captions."""

from collections.abc import Iterator
from pathlib import Path

from lotlip.data.images import check_image
from lotlip.data.manifest import Shard
from lotlip.data.packing import Item, finished_shard, pack_shard
from lotlip.data.progress import Progress
from lotlip.data.shards import encode_png
from lotlip.data.sources.requests import sample_key
from lotlip.data.tables import Row
from lotlip.params import Download, ScenesSource
from lotlip.sample.scenes import make_scene, raw_caption, render


def render_scenes(source: ScenesSource, name: str, settings: Download, folder: Path) -> list[Shard]:
    """Render the scenes 0 to `num_images` - 1 of the source's seed into finished shards in `folder`."""
    shards = []
    progress = Progress(f"render {name}")
    for number, first in enumerate(range(0, source.num_images, settings.shard_size)):
        indices = range(first, min(first + settings.shard_size, source.num_images))
        items = _items(source.seed, indices, settings.max_pixels, progress)
        shard_name = f"{name}-{number:05d}"
        shards.append(finished_shard(folder, shard_name) or pack_shard(folder, shard_name, items))
    return shards


def _items(seed: int, indices: range, max_pixels: int, progress: Progress) -> Iterator[Item]:
    for index in indices:
        scene = make_scene(seed, index)
        picture = check_image(encode_png(render(scene)), max_pixels)
        key = sample_key(b"scenes", str(seed).encode(), str(index).encode())
        row = Row(
            key,
            None,
            "success",
            None,
            raw_caption(scene),
            picture.width,
            picture.height,
            picture.sha256,
            picture.phash,
        )
        progress.add(row.status)
        yield Item(row, picture.data, picture.extension)
