"""Manifests: what a data folder holds. Everyone reads the manifest; nobody lists folders.

The files lie beside the manifest, or in S3 under the names of their hashes; then they are copied here when read.

A data stage's output is a folder with `manifest.json` and one entry a shard. Image folders hold a tar and
a table (parquet, a row for every requested sample) a shard; sidecar folders hold one parquet a shard under
the same shard name, joined with the images by sample key.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from lotlip.errors import DataError
from lotlip.records import read_json, sha256_file, write_json
from lotlip.storage.copies import local_copy
from lotlip.storage.objects import is_s3, store

FORMAT = "lotlip-1"
Kind = Literal["images", "captions", "quarantine", "quality"]


@dataclass(frozen=True)
class File:
    """One file of a dataset: path relative to the manifest's folder or `s3://` URL, size in bytes, hex SHA-256."""

    path: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Shard:
    """One shard.

    `files` maps a role to a file: `tar` and `table` for images, `table` for sidecars. `num_samples` counts
    samples in the tar, or rows of a sidecar. `of` is the SHA-256 of the image tar that a sidecar belongs to.
    """

    name: str
    num_samples: int
    files: dict[str, File]
    of: str | None = None


@dataclass(frozen=True)
class Manifest:
    """The shards of one dataset folder, in order."""

    folder: Path
    kind: Kind
    shards: tuple[Shard, ...]

    @property
    def num_samples(self) -> int:
        return sum(shard.num_samples for shard in self.shards)

    def location(self, shard: Shard, role: str) -> str:
        """Where the shard's file of that role lies: an absolute path, or an `s3://` URL."""
        path = shard.files[role].path
        return path if is_s3(path) else str((self.folder / path).absolute())

    def path(self, shard: Shard, role: str, *, fresh: bool = False) -> Path:
        """The shard's file of that role, copied here first where it lies in S3; `fresh` does so even if a copy is here.

        Raises:
            ObjectError: it is not in S3, or has other bytes there than the manifest says.
            StorageError: S3 refuses or is away.
        """
        file = shard.files[role]
        return local_copy(file.path, file.sha256, fresh=fresh) if is_s3(file.path) else self.folder / file.path

    def shard(self, name: str) -> Shard:
        """The shard of that name.

        Raises:
            DataError: there is none.
        """
        for shard in self.shards:
            if shard.name == name:
                return shard
        raise DataError(f"{self.folder} has no shard {name!r}: its sidecars belong to other images.")


def describe_file(folder: Path, path: str) -> File:
    """Size and hash of `folder/path` as a manifest entry."""
    full = folder / path
    return File(path, full.stat().st_size, sha256_file(full))


def write_manifest(folder: Path, kind: Kind, shards: Iterable[Shard], root: str | None = None) -> Manifest:
    """Write `folder/manifest.json` (atomically, last of all files) and return it.

    With a `root` in S3, the shards' files are moved from the folder to there first.

    Raises:
        StorageError: S3 refuses or is away.
    """
    manifest = Manifest(
        folder, kind, tuple(shards if root is None else (_moved(shard, folder, root) for shard in shards))
    )
    entries = [asdict(shard) for shard in manifest.shards]
    write_json(folder / "manifest.json", {"format": FORMAT, "kind": kind, "shards": entries})
    return manifest


def read_manifest(folder: Path, kind: Kind | None = None) -> Manifest:
    """Read `folder/manifest.json`, of whatever kind it is where none is named.

    Raises:
        DataError: it is missing, damaged, of another format, or of another kind.
    """
    record = read_json(folder / "manifest.json")
    try:
        if record["format"] != FORMAT or record["kind"] not in ((kind,) if kind else get_args(Kind)):
            raise DataError(
                f"{folder}/manifest.json says format {record['format']!r}, kind {record['kind']!r}; "
                f"expected {FORMAT!r}, {' or '.join(map(repr, (kind,) if kind else get_args(Kind)))}. "
                "Is this the right folder?"
            )
        shards = tuple(
            Shard(
                entry["name"],
                entry["num_samples"],
                {role: File(**file) for role, file in entry["files"].items()},
                entry.get("of"),
            )
            for entry in record["shards"]
        )
        return Manifest(folder, record["kind"], shards)
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{folder}/manifest.json is no manifest or is damaged ({error!r}).") from None


def _moved(shard: Shard, folder: Path, root: str) -> Shard:
    files = {}
    for role, file in shard.files.items():
        files[role] = replace(file, path=store(folder / file.path, root, file.sha256))
        (folder / file.path).unlink()
    return replace(shard, files=files)
