"""Published captions: a table that others wrote, joined with image shards by URL.

An image and a row belong together when their URLs are equal, white space at the ends aside: nothing else is made
alike, so that two images never share a caption by guess. Of rows with one URL the first counts; images with one URL
all get its caption.

The table is read once, from front to back. In memory are 20 bytes for each image (a digest of its URL and where it
lies; about 60 while they are sorted) and, later, the texts of one group of neighbouring shards; the texts that found
an image wait on the disk, in `work`, in at most GROUPS files.
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from lotlip.captioning.captioner import Caption, Kind, failed, make_identity
from lotlip.captioning.publish import check_failed_share, publish_captions
from lotlip.captioning.quality import Written, find_reasons
from lotlip.captioning.report import caption_report
from lotlip.captioning.shards import HERE
from lotlip.captioning.tables import make_row, read_captions, write_captions
from lotlip.data.manifest import Manifest, Shard
from lotlip.data.sources.table_files import Record, Wanted, fingerprint, read_cells
from lotlip.data.sources.table_layouts import LAYOUTS
from lotlip.data.tables import read_table
from lotlip.errors import DataError
from lotlip.executor import run_tasks
from lotlip.params import Executor, TableCaptioner
from lotlip.storage.copies import local_path
from lotlip.storage.leases import at_work

GROUPS = 256  # files of waiting texts, all open while the table is read
_ROWS_AT_ONCE = 8192
_REPORT_EVERY = 1_000_000  # rows
ROW_COUNTS = ("rows", "matched", "repeated", "without_image", "unreadable")

Place = tuple[Manifest, Shard]


def import_captions(
    images: Sequence[Manifest],
    out: Path,
    settings: TableCaptioner,
    *,
    work: Path,
    executor: Executor = HERE,
    root: str | None = None,
) -> dict[str, Any]:
    """Publish the table's captions of the images as the folder `out`, a captions dataset like any captioner's.

    Every image has a row of each kind (long, and short with a `short_column`); where the table has no text for it, the
    row says why. Equal inputs give equal bytes.

    Args:
        images: manifests of kind images; shard names are unique over all of them.
        out: becomes a dataset of kind captions, in the tars' order.
        settings: the table, its columns, and the share of images that may stay without a caption.
        work: for waiting texts, emptied at the end; an interrupted import starts again.
        executor: where tables are written once the texts are found; the captions do not depend on it.
        root: place in S3 where the tables go; None: they stay in `out`.

    Returns:
        The numbers of `caption_report`, and under `table` its `sha256` and counts of its rows: `rows` = `matched`
        (the first with the URL of an image) + `repeated` (a later one) + `without_image` + `unreadable` (too few
        columns, or no URL).

    Raises:
        DataError: the table or a column is missing, the table is not the one that `sha256` pins, an image table is
            missing or damaged, two shards share a name, the disk is full, or another run is at this work.
        CeilingError: more images failed than `settings.max_failed_share` allows.
    """
    at = [replace(manifest, folder=manifest.folder.absolute()) for manifest in images]  # workers may be elsewhere
    places = [(manifest, shard) for manifest in at for shard in manifest.shards]
    if len({shard.name for _, shard in places}) != len(places):
        raise DataError("Two image shards share a name: give every source a name of its own and download it again.")
    sha256 = _pinned(settings)
    with at_work(work, root) as check_alone:
        folder = work.absolute() / "import"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        groups = _grouped(places)
        counts = _spill(settings, _Index.build(groups), [folder / f"group-{i:03d}.jsonl" for i in range(len(groups))])
        tasks = [_Group(folder / f"group-{i:03d}.jsonl", tuple(group), folder) for i, group in enumerate(groups)]
        for _ in run_tasks(tasks, _OpenWriter(_identity(settings, sha256), _kinds(settings)), executor):
            pass
        tables = [folder / f"{shard.name}.parquet" for _, shard in places]
        requested = sum(shard.num_samples for _, shard in places)
        report = caption_report((row for table in tables for row in read_captions(table)), requested)
        report["table"] = {"sha256": sha256, **{name: counts[name] for name in ROW_COUNTS}}
        remedy = f"Of {counts['rows']} rows {counts['matched']} found an image. Is url_column the images' URL?"
        check_failed_share(report, settings.max_failed_share, remedy)
        check_alone()
        publish_captions(
            [(shard.name, shard.files["tar"].sha256, table) for (_, shard), table in zip(places, tables, strict=True)],
            out,
            root,
        )
        shutil.rmtree(folder)
    return report


def _pinned(settings: TableCaptioner) -> str:
    found = fingerprint(local_path(settings.path), settings.format)
    if settings.sha256 not in (None, found):
        raise DataError(
            f"Table {settings.path} has sha256 {found}; the captioner's `sha256` is {settings.sha256}: get the table "
            "again, or correct the setting."
        )
    return found


def _columns(settings: TableCaptioner) -> tuple[Wanted, ...]:
    """Columns of URL and long caption, and of the short one if there is any."""
    url: Wanted | None = settings.url_column
    if url is None and settings.layout is not None:
        url = LAYOUTS[settings.layout].url
    assert url is not None
    short = () if settings.short_column is None else (settings.short_column,)
    return (url, settings.long_column, *short)


def _kinds(settings: TableCaptioner) -> tuple[Kind, ...]:
    return ("long",) if settings.short_column is None else ("long", "short")


def _identity(settings: TableCaptioner, sha256: str) -> str:
    return make_identity({"kind": "table", "table": sha256, "columns": _columns(settings)})


def _grouped(places: Sequence[Place]) -> list[list[Place]]:
    number = min(GROUPS, len(places))
    return [list(places[i * len(places) // number : (i + 1) * len(places) // number]) for i in range(number)]


def _digest(url: str) -> bytes:
    return hashlib.blake2b(url.encode("utf-8", "surrogateescape"), digest_size=16).digest()


@dataclass
class _Index:
    """The URLs of all images: their digests in order, each with its group, and whether a row was found for it."""

    digests: NDArray[np.bytes_]
    groups: NDArray[np.int16]
    is_found: NDArray[np.bool_]

    @classmethod
    def build(cls, groups: Sequence[Sequence[Place]]) -> "_Index":
        digests = [
            np.array([_digest(url) for place in group for _, url in _images_of(place) if url], dtype="S16")
            for group in groups
        ]
        of = np.repeat(np.arange(len(groups), dtype=np.int16), [len(each) for each in digests])
        every = np.concatenate(digests) if digests else np.array([], dtype="S16")
        order = np.argsort(every, kind="stable")
        return cls(every[order], of[order], np.zeros(len(every), dtype=np.bool_))

    def take(self, urls: Sequence[str]) -> list[set[int] | None]:
        """For each URL the groups whose images want its caption: None where no image has it, empty where one was
        taken already.
        """
        needles = np.array([_digest(url) for url in urls], dtype="S16")
        firsts = np.searchsorted(self.digests, needles, side="left").tolist()
        ends = np.searchsorted(self.digests, needles, side="right").tolist()
        found: list[set[int] | None] = []
        for first, end in zip(firsts, ends, strict=True):
            if first == end:
                found.append(None)
            else:
                found.append(set() if self.is_found[first] else set(self.groups[first:end].tolist()))
                self.is_found[first] = True
        return found


def _spill(settings: TableCaptioner, index: _Index, paths: Sequence[Path]) -> Counter[str]:
    """Read the table, write [URL, texts...] of each matching row to the files of its groups, and count the rows."""
    counts: Counter[str] = Counter()
    rows = read_cells(local_path(settings.path), settings.format, _columns(settings))
    with ExitStack() as stack:
        files = [stack.enter_context(path.open("w")) for path in paths]
        while batch := list(islice(rows, _ROWS_AT_ONCE)):
            before = counts["rows"]
            counts["rows"] += len(batch)
            _spill_rows(batch, index, files, counts)
            if counts["rows"] // _REPORT_EVERY > before // _REPORT_EVERY:
                print(f"{settings.path}: {counts['rows']} rows, {counts['matched']} with an image", flush=True)
    return counts


def _spill_rows(batch: Sequence[Record], index: _Index, files: Sequence[IO[str]], counts: Counter[str]) -> None:
    urls = [_text(record.cells[0]) for record in batch]
    readable = [i for i, record in enumerate(batch) if record.problem is None and urls[i]]
    counts["unreadable"] += len(batch) - len(readable)
    for i, groups in zip(readable, index.take([urls[i] for i in readable]), strict=True):
        if groups is None:
            counts["without_image"] += 1
        elif not groups:
            counts["repeated"] += 1
        else:
            counts["matched"] += 1
            line = json.dumps([urls[i], *map(_text, batch[i].cells[1:])]) + "\n"
            for group in groups:
                files[group].write(line)


def _text(cell: bytes | None) -> str:
    return (cell or b"").decode("utf-8", "surrogateescape").strip()


def _images_of(place: Place) -> Iterator[tuple[str, str]]:
    """Key and URL of a shard's images, in the tar's order."""
    manifest, shard = place
    rows = [row for row in read_table(manifest, shard, ("key", "url", "status")) if row["status"] == "success"]
    if len(rows) != shard.num_samples:
        raise DataError(
            f"{manifest.path(shard, 'table')} has {len(rows)} successful rows, its tar {shard.num_samples} samples: "
            "run its download stage again."
        )
    return ((row["key"], (row["url"] or "").strip()) for row in rows)


@dataclass(frozen=True)
class _Group:
    """Neighbouring shards, and the file of texts that wait for them."""

    texts: Path
    places: tuple[Place, ...]
    folder: Path


@dataclass(frozen=True)
class _OpenWriter:
    """Opens, in any process, what writes the tables of one group a call."""

    identity: str
    kinds: tuple[Kind, ...]

    def __call__(self) -> Callable[[_Group], None]:
        return self._write

    def _write(self, group: _Group) -> None:
        texts: dict[str, list[str]] = {}
        with group.texts.open() as lines:
            for line in lines:
                url, *captions = json.loads(line)
                texts[url] = captions
        for place in group.places:
            rows = [
                make_row(key, kind, _written(url, texts.get(url), at), self.identity)
                for key, url in _images_of(place)
                for at, kind in enumerate(self.kinds)
            ]
            write_captions(group.folder / f"{place[1].name}.parquet", rows)


def _written(url: str, captions: list[str] | None, at: int) -> Written:
    caption = _caption(url, captions, at)
    return Written(caption, find_reasons(caption))


def _caption(url: str, captions: list[str] | None, at: int) -> Caption:
    if not url:
        return failed("no URL")
    if captions is None:
        return failed("no row in the table")
    if not captions[at]:
        return failed("empty caption")
    try:
        captions[at].encode()
    except UnicodeEncodeError:
        return failed("caption is not UTF-8")
    return Caption(captions[at], None, "stop")
