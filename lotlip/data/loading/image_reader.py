"""Encoded images of samples by shard and key, in any order and from any process, at the price of one read each.

Who reads a shard first checks its sha256 and notes where every image lies, in a file named by all that determines it.
From then on a shard opens in well under a millisecond, for each worker and each resumed run, so reads may jump among
thousands of shards. A tar whose size or time of change is another than then is checked again.
"""

import fcntl
import os
from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from lotlip.data.manifest import Manifest, Shard
from lotlip.data.shards import ShardReader
from lotlip.errors import DataError
from lotlip.records import atomic_path, content_key

_OPEN_SHARDS = 256
_VERSION = 1  # of the files below


class ImageReader:
    """Reads images of the manifests' shards.

    Args:
        images: image datasets.
        folder: keeps where the images of each tar lie.
        read_ahead: have the system read a shard as a whole when it is opened, for the order `shards`.
    """

    def __init__(self, images: Sequence[Manifest], folder: Path, *, read_ahead: bool = False) -> None:
        self._shards = {shard.name: (manifest, shard) for manifest in images for shard in manifest.shards}
        self._folder, self._read_ahead = folder, read_ahead
        self._open: OrderedDict[str, tuple[BinaryIO, NDArray[Any]]] = OrderedDict()

    def path(self, shard: str) -> Path:
        """The tar of a shard.

        Raises:
            DataError: no manifest holds it.
        """
        if shard not in self._shards:
            raise DataError(f"No image manifest holds shard {shard!r}: samples and images do not fit.")
        manifest, found = self._shards[shard]
        return manifest.path(found, "tar")

    def keys(self, shard: str, part: slice = slice(None)) -> list[str]:
        """Keys of a shard's samples that have an image, sorted by their bytes; or a part of them.

        Raises:
            DataError: the shard is missing or damaged.
        """
        _, spans = self._opened(shard)
        return [key.decode() for key in spans["key"][part].tolist()]

    def read(self, shard: str, key: str) -> bytes:
        """Encoded bytes of a sample's image.

        Raises:
            DataError: the shard is missing or damaged, or has no such image.
        """
        file, spans = self._opened(shard)
        keys, name = spans["key"], key.encode()
        place = bisect_left(keys, name)
        if place == len(keys) or keys[place] != name:
            raise DataError(f"{self.path(shard)} has no image of sample {key}: samples and images do not fit.")
        offset, size = int(spans["offset"][place]), int(spans["size"][place])
        return os.pread(file.fileno(), size, offset)

    def _opened(self, name: str) -> tuple[BinaryIO, NDArray[Any]]:
        if name not in self._open:
            path = self.path(name)
            spans = self._spans(path, self._shards[name][1])
            file = path.open("rb", buffering=0)
            if self._read_ahead:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
            self._open[name] = file, spans
        self._open.move_to_end(name)
        while len(self._open) > _OPEN_SHARDS:
            self._open.popitem(last=False)[1][0].close()
        return self._open[name]

    def _spans(self, path: Path, shard: Shard) -> NDArray[Any]:
        """Key, offset and size of each image in the tar, sorted by key; mapped, so that processes share the memory."""
        cached = self._folder / f"{_key(path, shard)}.npy"
        if not cached.is_file():
            self._folder.mkdir(parents=True, exist_ok=True)
            with cached.with_suffix(".lock").open("a") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # workers come to a new shard together: one of them checks it
                if not cached.is_file():
                    _write_spans(path, shard, cached)
        return np.asarray(np.load(cached, mmap_mode="r" if shard.num_samples else None))


def _key(path: Path, shard: Shard) -> str:
    found = path.stat() if path.is_file() else None
    return content_key(
        {
            "version": _VERSION,
            "tar": shard.files["tar"].sha256,
            "size": found and found.st_size,
            "changed_ns": found and found.st_mtime_ns,
        }
    )


def _write_spans(path: Path, shard: Shard, cached: Path) -> None:
    with ShardReader(path, shard.files["tar"].sha256) as reader:
        found = sorted((key.encode(), *reader.image_span(key)) for key in reader.keys if reader.extension(key))
    width = max((len(key) for key, _, _ in found), default=1)
    spans = np.array(found, dtype=[("key", f"S{width}"), ("offset", np.int64), ("size", np.int64)])
    with atomic_path(cached) as temporary, temporary.open("wb") as file:
        np.save(file, spans)
