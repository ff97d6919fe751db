"""Packing: from rows and image bytes to finished shards in `.work`, and from there to a dataset folder.

A shard is finished when its mark (`<name>.shard.json`) lies beside its tar and table and fits them.
"""

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

from lotlip.data.manifest import File, Shard, describe_file, write_manifest
from lotlip.data.shards import write_tar
from lotlip.data.tables import Row, write_rows
from lotlip.errors import DataError
from lotlip.records import atomic_path, publish_folder, read_json, write_json


class Item(NamedTuple):
    """A row and, where its status is `success`, its image bytes and their file extension."""

    row: Row
    data: bytes = b""
    extension: str = ""


def pack_shard(folder: Path, name: str, items: Iterable[Item]) -> Shard:
    """Write tar, table and mark of a shard from its items, in their order. Equal items give equal bytes."""
    rows: list[Row] = []
    with atomic_path(folder / f"{name}.tar") as temporary:
        num_samples = write_tar(temporary, _samples(items, rows))
    return mark_finished(folder, name, num_samples, rows)


def mark_finished(folder: Path, name: str, num_samples: int, rows: Sequence[Row]) -> Shard:
    """Write the table and the mark of a shard whose tar is in place."""
    write_rows(folder / f"{name}.parquet", rows)
    files = {"tar": describe_file(folder, f"{name}.tar"), "table": describe_file(folder, f"{name}.parquet")}
    shard = Shard(name, num_samples, files)
    write_json(mark_path(folder, name), asdict(shard))
    return shard


def mark_path(folder: Path, name: str) -> Path:
    """Where the mark of a finished shard lies."""
    return folder / f"{name}.shard.json"


def finished_shard(folder: Path, name: str) -> Shard | None:
    """The shard that an earlier run finished, or None when it is missing or its files do not fit its mark."""
    try:
        record = read_json(mark_path(folder, name))
        files = {role: File(**file) for role, file in record["files"].items()}
        fits = all(describe_file(folder, file.path) == file for file in files.values())
        return Shard(record["name"], record["num_samples"], files) if fits else None
    except (DataError, OSError):
        return None


def publish(folder: Path, out: Path, shards: Sequence[Shard], root: str | None) -> None:
    """Make the dataset folder `out` from finished shards: files and manifest appear together, by rename.

    With a `root` in S3, the files lie there and `out` holds the manifest alone.
    """
    with publish_folder(out) as staging:
        for shard in shards:
            for file in shard.files.values():
                link_or_copy(folder / file.path, staging / file.path)
        write_manifest(staging, "images", shards, root)


def link_or_copy(source: Path, target: Path) -> None:
    """Hard-link our own file, or copy it where the file system cannot link."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _samples(items: Iterable[Item], rows: list[Row]) -> Iterator[dict[str, Any]]:
    for row, data, extension in items:
        rows.append(replace(row, format=row.format or extension or None))
        if row.status == "success":
            yield {
                "__key__": row.key,
                extension: data,
                "txt": (row.caption or "").encode(),
                "json": _metadata(row),
            }


def _metadata(row: Row) -> bytes:
    names = ("key", "url", "caption", "width", "height", "sha256")
    return json.dumps({name: getattr(row, name) for name in names}, ensure_ascii=False).encode()
