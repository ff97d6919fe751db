"""Importing a folder of img2dataset or WebDataset shards: every sample checked, every row kept."""

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from lotlip.data.images import Picture, check_image
from lotlip.data.manifest import Shard
from lotlip.data.packing import Item, finished_shard, mark_finished, pack_shard
from lotlip.data.progress import Progress
from lotlip.data.shards import ShardReader
from lotlip.data.sources.requests import sample_key
from lotlip.data.tables import Row, Status, column_names, read_records, read_rows
from lotlip.errors import DataError
from lotlip.params import Download, ShardsSource
from lotlip.records import atomic_path, read_json
from lotlip.storage.objects import download, is_s3, list_objects

_SAFE_KEY = re.compile(r"[A-Za-z0-9_-]{1,100}")  # keys become file names
_STATUSES: dict[str, Status] = {
    "failed_to_download": "failed_to_download",
    "failed_to_resize": "failed_to_decode",
    "failed_to_decode": "failed_to_decode",
}
_AT_ONCE = 64
Location = str | Path


def find_files(source: ShardsSource) -> dict[str, tuple[Location, str]]:
    """What lies in a shards source, by name: where, and what changes when the file does."""
    if is_s3(source.path):
        objects = list_objects(str(source.path))
        return {one.url.removeprefix(f"{str(source.path).rstrip('/')}/"): (one.url, one.etag) for one in objects}
    folder = Path(source.path)
    paths = sorted(folder.glob("*")) if folder.is_dir() else []
    return {path.name: (path, f"{path.stat().st_size} {path.stat().st_mtime_ns}") for path in paths}


def find_tars(source: ShardsSource) -> list[list[Location]]:
    """The tars of a shards source by name, each with img2dataset's files about it.

    Raises:
        DataError: the folder is missing or has none.
        StorageError: S3 refuses or is away.
    """
    files = find_files(source)
    names = [name.removesuffix(".tar") for name in sorted(files) if name.endswith(".tar") and "/" not in name]
    tars = [[files[n][0] for n in (f"{name}.tar", *_about(name)) if n in files] for name in names]
    if not tars:
        raise DataError(f"{source.path} has no *.tar: expected a folder of img2dataset shards (`path` in params.yaml).")
    return tars


def import_shards(source: ShardsSource, name: str, settings: Download, folder: Path) -> list[Shard]:
    """Bring every tar of the source into `folder` as a finished shard.

    A tar whose samples are all good, and none larger than `settings.resize`, is copied as it is (not linked: DVC makes
    the files it keeps read-only); otherwise its good samples are packed anew. img2dataset's parquet beside it tells of
    the rows that failed.

    Raises:
        DataError: there are no tars, or one is truncated or holds fewer samples than its `_stats.json` says.
        StorageError: S3 refuses or is away.
    """
    shards: list[Shard] = []
    seen: set[str] = set()
    progress = Progress(f"import {name}")
    with ThreadPoolExecutor(settings.workers or os.cpu_count()) as threads:
        for number, files in enumerate(find_tars(source)):
            shard_name = f"{name}-{number:05d}"
            if (shard := finished_shard(folder, shard_name)) is None:
                with _brought_here(files, folder) as tar:
                    shard = _import_tar(tar, shard_name, folder, settings, seen, threads, progress)
            seen.update(row.key for row in read_rows(folder / shard.files["table"].path))
            shards.append(shard)
    return shards


def _about(name: str) -> tuple[str, str]:
    return f"{name}.parquet", f"{name}_stats.json"


@contextmanager
def _brought_here(files: Sequence[Location], folder: Path) -> Iterator[Path]:
    """The tar, which is the first of the files; those in S3 are here for the time of the block only."""
    if not is_s3(files[0]):
        yield Path(files[0])
        return
    with tempfile.TemporaryDirectory(dir=folder, prefix="from-s3-") as here:
        paths = [Path(here) / str(url).rpartition("/")[2] for url in files]
        for url, path in zip(files, paths, strict=True):
            download(str(url), path)
        yield paths[0]


def _import_tar(
    tar: Path,
    name: str,
    folder: Path,
    settings: Download,
    seen: set[str],
    threads: ThreadPoolExecutor,
    progress: Progress,
) -> Shard:
    with ShardReader(tar) as reader:
        told = _told_rows(tar)
        if not told:
            _check_stats(tar, len(reader.keys))
        rows: list[Row] = []
        changed: set[str] = set()
        for key, found in _pictures(reader, settings, threads):
            row = _row(reader, key, found, told.get(key), key in seen)
            if row.status == "success" and isinstance(found, Picture) and found.data != reader.image(key):
                changed.add(key)
            progress.add(row.status)
            rows.append(row)
        samples = set(reader.keys)
        is_whole = not changed and all(row.status == "success" for row in rows)
        rows += [row for key, row in told.items() if key not in samples]
        if not is_whole:
            return pack_shard(folder, name, _items(reader, rows, changed, settings))
        with atomic_path(folder / f"{name}.tar") as temporary:
            shutil.copyfile(tar, temporary)
        return mark_finished(folder, name, len(samples), rows)


def _pictures(
    reader: ShardReader, settings: Download, threads: ThreadPoolExecutor
) -> Iterator[tuple[str, Picture | str]]:
    """Yield every key with its checked picture, or the reason why there is none."""

    def check(data: bytes) -> Picture | str:
        try:
            return check_image(data, settings.max_pixels, settings.resize) if data else "no image in the tar"
        except DataError as error:
            return str(error)

    keys = iter(reader.keys)
    while batch := list(islice(keys, _AT_ONCE)):
        data = [reader.image(key) if reader.extension(key) else b"" for key in batch]
        yield from zip(batch, threads.map(check, data), strict=True)


def _row(reader: ShardReader, key: str, found: Picture | str, told: Row | None, is_repeated: bool) -> Row:
    url = told.url if told is not None else _url(reader, key)
    try:
        caption = reader.caption(key)
    except DataError:
        return Row(key, url, "rejected", "caption is not UTF-8")
    if not _SAFE_KEY.fullmatch(key):
        return Row(_other_key(reader, key), url, "rejected", f"key is no plain name: {_clean(key)}", caption)
    if is_repeated:
        return Row(_other_key(reader, key), url, "rejected", f"key is in an earlier tar: {key}", caption)
    if isinstance(found, str):
        return Row(key, url, "failed_to_decode", found, caption)
    return Row(
        key, url, "success", None, caption, found.width, found.height, found.sha256, found.phash, found.extension
    )


def _items(reader: ShardReader, rows: Sequence[Row], changed: set[str], settings: Download) -> Iterator[Item]:
    for row in rows:
        if row.status != "success":
            yield Item(row)
        elif row.key in changed:
            picture = check_image(reader.image(row.key), settings.max_pixels, settings.resize)
            yield Item(row, picture.data, picture.extension)
        else:
            yield Item(row, reader.image(row.key), reader.extension(row.key))


def _told_rows(tar: Path) -> dict[str, Row]:
    """What img2dataset's parquet beside the tar says of each key; empty without one.

    A key that it calls a success and the tar lacks is a failed row, never a lost one.
    """
    path = tar.with_suffix(".parquet")
    if not path.is_file() or not {"key", "status"} <= set(column_names(path)):
        return {}
    wanted = {"key", "status", "url", "caption", "error_message", "error"} & set(column_names(path))
    rows = {}
    for record in read_records(path, sorted(wanted)):
        key, status = str(record["key"]), str(record["status"])
        error = record.get("error_message") or record.get("error") or status
        if status == "success":
            error = "missing from the tar"
        rows[key] = Row(
            key,
            _clean(record.get("url")),
            _STATUSES.get(status, "rejected"),
            _clean(error),
            _clean(record.get("caption")),
        )
    return rows


def _check_stats(tar: Path, num_samples: int) -> None:
    path = tar.with_name(f"{tar.stem}_stats.json")
    expected = read_json(path).get("successes", num_samples) if path.is_file() else num_samples
    if expected != num_samples:
        raise DataError(f"Shard {tar} holds {num_samples} samples, {path.name} says {expected}: copy the shard again.")


def _url(reader: ShardReader, key: str) -> str | None:
    try:
        return _clean(reader.metadata(key).get("url"))
    except (ValueError, AttributeError):
        return None


def _other_key(reader: ShardReader, key: str) -> str:
    return sample_key(reader.path.name.encode(), key.encode("utf-8", "backslashreplace"))


def _clean(text: object) -> str | None:
    """Text that UTF-8 can hold: JSON and tar names may bring lone surrogates."""
    return None if text is None else str(text).encode("utf-8", "backslashreplace").decode()
