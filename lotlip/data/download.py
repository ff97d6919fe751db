"""Download: a source of any kind becomes a dataset folder, and a report of what became of every row."""

import importlib.util
import shutil
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lotlip.data.duplicates import count_duplicates
from lotlip.data.manifest import Shard
from lotlip.data.packing import publish
from lotlip.data.sources.shard_folders import find_files, import_shards
from lotlip.data.sources.table_files import fingerprint
from lotlip.data.tables import FILTERED, STATUSES, error_class, read_rows
from lotlip.errors import CeilingError
from lotlip.params import (
    Download,
    HfDatasetSource,
    ImageFolderSource,
    ScenesSource,
    ShardsSource,
    Source,
    UrlTableSource,
)
from lotlip.records import content_key, read_json, recover_folder, sha256_file
from lotlip.storage.copies import local_path
from lotlip.storage.leases import at_work

VERSION = 3  # of the bytes that this code writes: raise it when they change
_OF_THE_BYTES = {
    "shard_size",
    "max_bytes",
    "max_pixels",
    "allow_private_hosts",
    "respect_robots",
    "user_agent",
    "resize",
}


def download_source(
    source: Source,
    name: str,
    settings: Download,
    out: Path,
    work: Path,
    root: str | None = None,
    retry: Sequence[str] = (),
) -> dict[str, Any]:
    """Make the image dataset of a source in `out` and return its report.

    Finished shards and fetched rows lie in `work` until all is done, so that a killed run continues; `out`
    appears whole, by rename. Equal inputs (and answers of servers) give equal bytes.

    Args:
        source: what to get.
        name: of the source; its shards are `<name>-00000` and so on.
        settings: how to get it.
        out: dataset folder, replaced.
        work: folder for unfinished work, of this source alone.
        root: place in S3 where the shards' files go; None: they stay in `out`.
        retry: classes of errors. If there are any, `out` is there, of a URL table: only its rows that failed with
             one of them are asked for again, and all others keep their bytes.

    Returns:
        Counts: `requested`, one per status, `filtered` (of the rejected), `failed_share` in [0, 1] of those that no
        filter left out, `shards`, `bytes`, `errors` by class, `duplicates` (as `count_duplicates`).

    Raises:
        DataError: the source is missing, unreadable or empty, no image came through, the disk is full, another run
            is at this work, or there is nothing to retry.
        StorageError: S3 refuses or is away.
        CeilingError: more rows failed than `settings.max_failed_share` allows. Rows that failed to download
            are tried again by the next run; the others are kept.
    """
    with at_work(work, root) as check_alone:
        recover_folder(out)
        folder = work / _work_key(source, settings, out, retry)[:16]
        folder.mkdir(parents=True, exist_ok=True)
        if retry and isinstance(source, UrlTableSource):
            from lotlip.data.web.reopening import reopen_published

            reopen_published(source, settings, out, folder, retry)
        shards = _make_shards(source, name, settings, folder)
        report = {"source": name, "kind": source.kind, **summarise(folder, shards)}
        _check_ceiling(report, settings.max_failed_share, folder, shards)
        report["duplicates"] = count_duplicates(folder, shards, settings.near_duplicate_bits)
        check_alone()
        publish(folder, out, shards, root)
        shutil.rmtree(folder)
    counts = f"{report['success']} of {report['requested']} rows in {len(shards)} shards"
    print(f"download {name}: {counts}", flush=True)
    return report


def summarise(folder: Path, shards: Sequence[Shard]) -> dict[str, Any]:
    """Counts over the tables of finished shards."""
    statuses: Counter[str] = Counter()
    errors: Counter[str] = Counter()
    for shard in shards:
        for row in read_rows(folder / shard.files["table"].path):
            statuses[row.status] += 1
            if row.error is not None:
                errors[error_class(row.error)] += 1
    requested = statuses.total()
    filtered = sum(count for error, count in errors.items() if error.startswith(FILTERED))
    wanted = requested - filtered
    return {
        "requested": requested,
        **{status: statuses[status] for status in STATUSES},
        "filtered": filtered,
        "failed_share": round(1 - statuses["success"] / wanted, 6) if wanted else 0.0,
        "shards": len(shards),
        "bytes": sum(shard.files["tar"].num_bytes for shard in shards),
        "errors": dict(sorted(errors.items(), key=lambda item: (-item[1], item[0]))),
    }


def _make_shards(source: Source, name: str, settings: Download, folder: Path) -> list[Shard]:
    match source:
        case ScenesSource():
            from lotlip.data.sources.scenes import render_scenes

            return render_scenes(source, name, settings, folder)
        case UrlTableSource():
            from lotlip.data.web.url_download import download_table

            return download_table(source, name, settings, folder)
        case ShardsSource():
            return import_shards(source, name, settings, folder)
        case ImageFolderSource():
            from lotlip.data.sources.candidates import pack_candidates
            from lotlip.data.sources.image_folders import find_images

            return pack_candidates(find_images(source, settings.max_bytes), name, settings, folder)
        case HfDatasetSource():
            from lotlip.data.sources.candidates import pack_candidates
            from lotlip.data.sources.hf_datasets import find_rows

            return pack_candidates(find_rows(source), name, settings, folder)


def _check_ceiling(report: dict[str, Any], ceiling: float, folder: Path, shards: Sequence[Shard]) -> None:
    if report["success"] and report["failed_share"] <= ceiling:
        return
    if report["kind"] == "url_table":
        from lotlip.data.web.reopening import reopen_failed

        reopen_failed(folder, shards)
    if report["filtered"] == report["requested"]:
        columns = ", ".join(f"{error} ({count})" for error, count in report["errors"].items())
        raise CeilingError(f"Source {report['source']}: all {report['requested']} rows were left out: {columns}.")
    frequent = ", ".join(f"{error} ({count})" for error, count in list(report["errors"].items())[:5])
    if any(error.startswith("address refused") for error in report["errors"]):
        frequent += "; `download.allow_private_hosts: true` lets URLs point to this machine and private networks"
    if "invalid URL" in report["errors"]:
        urls = (
            row.url
            for shard in shards
            for row in read_rows(folder / shard.files["table"].path)
            if row.error == "invalid URL"
        )
        frequent += f"; one such URL is {next(urls)!r}: is it the right column, does it need url_prefix?"
    wanted = report["requested"] - report["filtered"]
    raise CeilingError(
        f"Source {report['source']}: {wanted - report['success']} of {wanted} rows failed "
        f"({report['failed_share']:.1%}); download.max_failed_share allows {ceiling:.1%}, and at least one "
        f"row must succeed. Most frequent: {frequent or 'no rows at all'}. Mend the cause or raise the "
        "ceiling, and run again: failed downloads are tried again, what is fetched is kept."
    )


def _work_key(source: Source, settings: Download, out: Path, retry: Sequence[str]) -> str:
    """Hash of all that determines the bytes of the result."""
    inputs: dict[str, Any] = source.model_dump(mode="json", exclude={"path", "held_out_share"})
    match source:
        case ScenesSource():
            renderer = importlib.util.find_spec("lotlip.sample.scenes")
            assert renderer is not None
            assert renderer.origin is not None
            inputs["renderer"] = sha256_file(Path(renderer.origin))
        case UrlTableSource():
            inputs["table"] = fingerprint(local_path(source.path), source.format)
        case ShardsSource():
            inputs["files"] = {name: tag for name, (_, tag) in find_files(source).items()}
        case ImageFolderSource() | HfDatasetSource():
            path = local_path(source.path)
            inputs["files"] = [
                (str(file.relative_to(path)), file.lstat().st_size, file.lstat().st_mtime_ns)
                for file in sorted(path.rglob("*"))
            ]
    if retry:
        inputs["retry"] = [sorted(retry), read_json(out / "manifest.json")]
    chosen = settings.model_dump(mode="json", include=_OF_THE_BYTES)
    return content_key({"version": VERSION, "source": inputs, "settings": chosen})
