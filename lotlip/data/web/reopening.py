"""Trying failed rows again: finished shards become journals without these rows, and all others keep their bytes."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from itertools import zip_longest
from pathlib import Path

from lotlip.data.manifest import Manifest, Shard, read_manifest
from lotlip.data.packing import Item, link_or_copy, mark_path
from lotlip.data.shards import ShardReader
from lotlip.data.sources.requests import read_requests
from lotlip.data.tables import FILTERED, Row, error_class, read_rows
from lotlip.data.web.journal import Journal
from lotlip.data.web.url_download import batches
from lotlip.errors import DataError
from lotlip.params import Download, UrlTableSource
from lotlip.records import sha256_file, write_json


def reopen_failed(folder: Path, shards: Sequence[Shard]) -> None:
    """Open the finished shards in `folder` whose downloads failed in part, so that the next run tries these again."""
    for shard in shards:
        _reopen(folder, shard, lambda row: row.status == "failed_to_download")


def reopen_published(
    source: UrlTableSource, settings: Download, out: Path, folder: Path, classes: Collection[str]
) -> None:
    """Bring the dataset in `out` into `folder` as finished shards, and open those with rows that failed with an
    error of the given classes (or with exactly that error).

    Done once: where a killed run did it, its shards and journals (hard links of the dataset's files in part) stay as
    they are.

    Raises:
        DataError: `out` is damaged, is no dataset of this table, shard size and filters, or has no such row.
    """
    manifest = read_manifest(out, "images")
    _check_files(manifest)
    done = folder / "reopened.json"
    if done.is_file():
        return
    _check_same_rows(source, settings, manifest)
    for shard in manifest.shards:
        _restore(manifest, shard, folder)
    errors: Counter[str] = Counter()
    for shard in manifest.shards:
        errors += _reopen(folder, shard, lambda row: bool({row.error, _class(row)} & set(classes)))
    if not set(classes) & set(errors):
        known = ", ".join(f"{error} ({count})" for error, count in errors.most_common(20))
        raise DataError(f"{out} has no row that failed with {' or '.join(classes)}; it has {known or 'no failed row'}.")
    write_json(done, sorted(classes))


def _restore(manifest: Manifest, shard: Shard, folder: Path) -> None:
    files = {}
    for role, file in shard.files.items():
        path = manifest.path(shard, role)
        name = f"{shard.name}{path.suffix}"  # in S3 it is named by its hash
        (folder / name).unlink(missing_ok=True)
        link_or_copy(path, folder / name)
        files[role] = replace(file, path=name)
    write_json(mark_path(folder, shard.name), asdict(replace(shard, files=files)))


def _check_files(manifest: Manifest) -> None:
    """Every byte, before anything is touched: from a damaged shard, good images would be lost with the bad."""
    for shard in manifest.shards:
        for role, file in shard.files.items():
            path = manifest.path(shard, role)
            if not path.is_file() or sha256_file(path) != file.sha256:
                raise DataError(
                    f"{path} is damaged or missing, its sha256 is not the manifest's. Before any retry run "
                    f"`dvc checkout --force` to bring it back, or `lotlip verify {manifest.folder} --repair` to take "
                    "its shard out."
                )


def _check_same_rows(source: UrlTableSource, settings: Download, manifest: Manifest) -> None:
    for requests, shard in zip_longest(batches(read_requests(source), settings.shard_size), manifest.shards):
        asked = [(request.key, _filtered(request.reason)) for request in requests or ()]
        rows = [] if shard is None else read_rows(manifest.path(shard, "table"))
        if asked != [(row.key, _filtered(row.error)) for row in rows]:
            raise DataError(
                f"{manifest.folder} was not made from {source.path} as it is now, with these filters, in shards of "
                f"{settings.shard_size}: give the same table, columns, filters and download.shard_size, or download it "
                "anew into another folder."
            )


def _filtered(reason: str | None) -> str | None:
    return reason if reason is not None and reason.startswith(FILTERED) else None


def _reopen(folder: Path, shard: Shard, is_chosen: Callable[[Row], bool]) -> Counter[str]:
    """Open the shard if a row of it is chosen; counts of its errors, by class and whole."""
    rows = read_rows(folder / shard.files["table"].path)
    if any(is_chosen(row) for row in rows):
        journal = Journal(folder, shard.name)
        with ShardReader(folder / shard.files["tar"].path) as reader:
            for row in rows:
                if row.status == "success":
                    journal.add(Item(row, reader.image(row.key), reader.extension(row.key)))
                elif not is_chosen(row):
                    journal.add(Item(row))
        journal.close()
        mark_path(folder, shard.name).unlink()
    return Counter(name for row in rows if row.error is not None for name in {row.error, _class(row)})


def _class(row: Row) -> str:
    return error_class(row.error or "")
