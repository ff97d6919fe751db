"""Image shards: WebDataset tars in the img2dataset layout, written in order and read at random.

A sample `<key>` is `<key>.<image extension>`, `<key>.txt` (raw caption) and `<key>.json`.
"""

import io
import json
import tarfile
from collections.abc import Iterable
from mmap import mmap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lotlip.data.manifest import Manifest
from lotlip.data.tar_index import Data, Member, index_tar, map_file
from lotlip.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
MAX_SPARSE = 1 << 30  # bytes


def write_tar(path: Path, samples: Iterable[dict[str, Any]]) -> int:
    """Write samples (`__key__`, image bytes under their extension, `txt`, `json`) and return their number.

    Equal samples give equal bytes: no times, owners or modes of the machine enter the tar.
    """
    import webdataset

    count = 0
    with path.open("wb") as file, webdataset.TarWriter(file, mtime=0, user="", group="") as writer:
        for sample in samples:
            writer.write(sample)
            count += 1
    return count


class ShardReader:
    """Random access to the samples of one tar by key, also from several threads.

    The file is mapped, not read: one pass over it for the hash, one over its headers, and memory holds no more of it
    than the system likes to keep.

    Raises:
        DataError: the file is missing or truncated, has another hash than `sha256`, or repeats a key.
    """

    def __init__(self, path: Path, sha256: str | None = None) -> None:
        if not path.is_file():
            raise DataError(f"Shard {path} is missing: run `dvc checkout` or its download stage again.")
        self.path = path
        self._data = map_file(path)
        try:
            self._members = _by_key(path, index_tar(self._data, path, sha256))
        except BaseException:
            self.close()
            raise

    @property
    def keys(self) -> list[str]:
        """Sample keys in the order of the tar."""
        return list(self._members)

    def image(self, key: str) -> bytes:
        """Encoded image bytes of a sample.

        Raises:
            DataError: it has none.
        """
        if extension := self.extension(key):
            return self._read(key, extension)
        raise DataError(f"Sample {key} of {self.path} has no image ({', '.join(IMAGE_EXTENSIONS)}).")

    def extension(self, key: str) -> str:
        """File extension of a sample's image, empty where there is no image."""
        members = self._members[key]
        for name in IMAGE_EXTENSIONS:
            if name in members:
                return name
        return ""

    def caption(self, key: str) -> str:
        """Raw caption of a sample, empty where there is none.

        Raises:
            DataError: it is not UTF-8.
        """
        try:
            return self._read(key, "txt").decode() if "txt" in self._members[key] else ""
        except UnicodeDecodeError:
            raise DataError(f"Sample {key} of {self.path}: its caption is not UTF-8.") from None

    def metadata(self, key: str) -> dict[str, Any]:
        """The sample's JSON record, empty where there is none."""
        record: dict[str, Any] = json.loads(self._read(key, "json")) if "json" in self._members[key] else {}
        return record

    def close(self) -> None:
        if isinstance(self._data, mmap):
            self._data.close()

    def __enter__(self) -> "ShardReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, key: str, extension: str) -> bytes:
        return read_member(self._data, self.path, self._members[key][extension])


def read_member(data: Data, path: Path, member: Member) -> bytes:
    """The bytes of a file in a tar.

    Raises:
        DataError: the tar ends before they do, or it is sparse and large.
    """
    if member.is_sparse:
        return _read_sparse(path, member)
    found = data[member.offset : member.offset + member.size]
    if len(found) != member.size:
        raise DataError(f"{path} ends inside {member.name}: {len(found)} of {member.size} bytes are there.")
    return found


def split_name(name: str) -> tuple[str, str]:
    """Key and extension by WebDataset's rule: the extension begins at the first dot of the last path component."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


def _by_key(path: Path, members: Iterable[Member]) -> dict[str, dict[str, Member]]:
    samples: dict[str, dict[str, Member]] = {}
    for member in members:
        key, extension = split_name(member.name)
        sample = samples.setdefault(key, {})
        if extension in sample:
            raise DataError(f"Shard {path} holds {member.name} twice: keys must be unique.")
        sample[extension] = member
    return samples


def _read_sparse(path: Path, member: Member) -> bytes:
    if member.size > MAX_SPARSE:  # holes cost nothing in the tar: its size is no limit
        raise DataError(f"{path}: {member.name} is sparse and {member.size} bytes long; pack it without `--sparse`.")
    with tarfile.open(path, "r:") as tar:
        info = next(info for info in tar if info.offset_data == member.offset)
        file = tar.extractfile(info)
        assert file is not None
        return file.read()


def as_webdataset(manifest: Manifest) -> Any:
    """The shards as a `webdataset.WebDataset`, for loaders other than ours."""
    import webdataset

    urls = [str(manifest.path(shard, "tar")) for shard in manifest.shards]
    return webdataset.WebDataset(urls, shardshuffle=False)


def encode_png(image: "Image") -> bytes:
    """A Pillow image as PNG bytes."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
