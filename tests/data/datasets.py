"""Small whole datasets, images and their sidecars, and ways to damage them that leave hard links alone."""

import tarfile
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq

from lotlip.data.manifest import Manifest, read_manifest, write_manifest
from lotlip.data.packing import Item, pack_shard
from lotlip.data.tables import Row
from lotlip.data.verify.datasets import verify_dataset
from lotlip.records import sha256_bytes
from tests.data.folders import long_row, sidecar

SHARDS = {"s-00000": ("a", "b", "c"), "s-00001": ("d", "e")}
Entry = tuple[tarfile.TarInfo, bytes]


def picture(key: str) -> bytes:
    """Bytes that stand for an image of 1,500 bytes."""
    return key.encode() * 1500


def write_images(folder: Path) -> Manifest:
    """Two shards of three and two samples, each with a row that failed besides."""
    folder.mkdir(parents=True)
    made = []
    for name, keys in SHARDS.items():
        items = [
            Item(
                Row(key, f"http://a/{key}", "success", None, f"a {key}", 8, 8, sha256_bytes(picture(key)), "0" * 16),
                picture(key),
                "jpg",
            )
            for key in keys
        ]
        failed = Row(f"no-{name}", f"http://a/{name}", "failed_to_download", "HTTP 404", "tab\tand\nline")
        made.append(pack_shard(folder, name, [*items, Item(failed)]))
    for mark in folder.glob("*.shard.json"):
        mark.unlink()
    return write_manifest(folder, "images", made)


def write_captions(folder: Path, images: Manifest) -> Manifest:
    """A long caption for every image."""
    return sidecar(folder, "captions", images, {n: [long_row(k, f"a long {k}") for k in SHARDS[n]] for n in SHARDS})


def replace(path: Path, data: bytes) -> None:
    """Put a new file in the place of another."""
    path.unlink()
    path.write_bytes(data)


def flip(path: Path, at: int, mask: int = 1) -> None:
    """Change bits of one byte."""
    data = bytearray(path.read_bytes())
    data[at] ^= mask
    replace(path, bytes(data))


def rewrite_tar(path: Path, change: Callable[[list[Entry]], list[Entry]]) -> None:
    """Change the members of a tar with `tarfile`."""
    import io

    with tarfile.open(path) as tar:
        entries = [(info, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    path.unlink()
    with tarfile.open(path, "w") as tar:
        for info, data in change(entries):
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def rewrite_table(path: Path, change: Callable[[list[dict[str, object]]], list[dict[str, object]]]) -> None:
    """Change the rows of a table."""
    import pyarrow as pa

    table = pq.read_table(path)
    path.unlink()
    pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), schema=table.schema), path)


def accept(folder: Path) -> None:
    """Make the manifest name the files as they are now, so that only what is in them can be found wrong."""
    from dataclasses import replace as changed

    from lotlip.data.manifest import describe_file

    manifest = read_manifest(folder)
    shards = [
        changed(shard, files={role: describe_file(folder, file.path) for role, file in shard.files.items()})
        for shard in manifest.shards
    ]
    write_manifest(folder, manifest.kind, shards)


def found(folder: Path) -> list[tuple[str, str, str]]:
    """File, key and kind of every problem."""
    return [(problem.file, problem.key, problem.what) for problem in verify_dataset(folder).problems]
