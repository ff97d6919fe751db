"""Image shards: WebDataset tars in the img2dataset layout, written in order and read at random.

A sample `<key>` is `<key>.<image extension>`, `<key>.txt` (raw caption) and `<key>.json`.
"""

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from lotlip.data.manifest import Manifest
from lotlip.errors import DataError
from lotlip.records import sha256_file

if TYPE_CHECKING:
    from PIL.Image import Image

IMAGE_EXTENSIONS = ("jpg", "jpeg", "png", "webp")


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
    """Random access to the samples of one tar by key: one pass over the headers, then one seek a sample.

    Raises:
        DataError: the file is missing or truncated, has another hash than `sha256`, or repeats a key.
    """

    def __init__(self, path: Path, sha256: str | None = None) -> None:
        if not path.is_file():
            raise DataError(f"Shard {path} is missing: run `dvc checkout` or its download stage again.")
        if sha256 is not None and (found := sha256_file(path)) != sha256:
            raise DataError(
                f"Shard {path} has sha256 {found[:12]}, its manifest says {sha256[:12]}: the file is damaged "
                "or was changed. Remove it and run `dvc checkout` or its download stage again."
            )
        self.path = path
        self._members = _index(path)
        self._file: BinaryIO = path.open("rb")

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
        return next((name for name in IMAGE_EXTENSIONS if name in self._members[key]), "")

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
        self._file.close()

    def __enter__(self) -> "ShardReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, key: str, extension: str) -> bytes:
        offset, size = self._members[key][extension]
        self._file.seek(offset)
        return self._file.read(size)


def _index(path: Path) -> dict[str, dict[str, tuple[int, int]]]:
    members: dict[str, dict[str, tuple[int, int]]] = {}
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                key, extension = _split_name(member.name)
                if extension in members.setdefault(key, {}):
                    raise DataError(f"Shard {path} holds {member.name} twice: keys must be unique.")
                members[key][extension] = (member.offset_data, member.size)
            _check_end(path, tar.offset)
    except (tarfile.TarError, OSError) as error:
        raise DataError(f"Shard {path} cannot be read as a tar ({error}): it is truncated or damaged.") from error
    return members


def _split_name(name: str) -> tuple[str, str]:
    """WebDataset's rule: the extension begins at the first dot of the last path component."""
    folder, slash, base = name.rpartition("/")
    stem, _, extension = base.partition(".")
    return f"{folder}{slash}{stem}", extension.lower()


def _check_end(path: Path, offset: int) -> None:
    """Refuse a tar without its final zeros: `tarfile` takes one that is cut between two members for whole."""
    with path.open("rb") as file:
        file.seek(offset)
        if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
            raise DataError(f"Shard {path} ends without the mark of a tar's end: it is truncated or damaged.")


def iterate_images(manifest: Manifest) -> Iterator[tuple[str, str, bytes]]:
    """Yield (shard name, key, encoded image) of every sample, verifying each shard's hash first."""
    for shard in manifest.shards:
        with ShardReader(manifest.path(shard, "tar"), shard.files["tar"].sha256) as reader:
            for key in reader.keys:
                yield shard.name, key, reader.image(key)


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
