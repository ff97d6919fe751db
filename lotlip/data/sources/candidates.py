"""Images that lie on disk: from what a source holds to finished shards, every candidate a row."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

from lotlip.data.images import check_image
from lotlip.data.manifest import Shard
from lotlip.data.packing import Item, finished_shard, pack_shard
from lotlip.data.progress import Progress
from lotlip.data.sources.requests import Keys
from lotlip.data.tables import Row
from lotlip.errors import DataError
from lotlip.params import Download

T = TypeVar("T")
_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Candidate:
    """An image that a source names, before its bytes are looked at.

    `parts` make its key: content or path, never a position. `read` gives the encoded image, or raises DataError with
    a short reason. `problem` says why it is rejected unread.
    """

    parts: tuple[bytes, ...]
    url: str | None
    caption: str | None
    read: Callable[[], bytes]
    problem: str | None = None


def pack_candidates(candidates: Iterable[Candidate], name: str, settings: Download, folder: Path) -> list[Shard]:
    """Check the candidates' images and pack them into finished shards in `folder`, in their order.

    Shards that an earlier run finished are kept. Of candidates with equal parts and no problem the first counts; the
    others are rejected with `repeats row N`.
    """
    keys = Keys()
    shards = []
    progress = Progress(f"import {name}")
    with ThreadPoolExecutor(settings.workers or os.cpu_count()) as threads:
        for number, batch in enumerate(_batches(candidates, settings.shard_size)):
            taken = [(candidate, *keys.take(*candidate.parts, problem=candidate.problem)) for candidate in batch]
            shard_name = f"{name}-{number:05d}"
            if (shard := finished_shard(folder, shard_name)) is None:
                shard = pack_shard(folder, shard_name, _items(taken, settings, threads, progress))
            shards.append(shard)
    return shards


def _items(
    taken: Sequence[tuple[Candidate, str, str | None]],
    settings: Download,
    threads: ThreadPoolExecutor,
    progress: Progress,
) -> Iterator[Item]:
    def check(one: tuple[Candidate, str, str | None]) -> Item:
        candidate, key, problem = one
        if problem is not None:
            return Item(Row(key, candidate.url, "rejected", problem, candidate.caption))
        try:
            picture = check_image(candidate.read(), settings.max_pixels, settings.resize)
        except DataError as error:
            return Item(Row(key, candidate.url, "failed_to_decode", str(error), candidate.caption))
        sizes = (picture.width, picture.height, picture.sha256, picture.phash)
        row = Row(key, candidate.url, "success", None, candidate.caption, *sizes)
        return Item(row, picture.data, picture.extension)

    for batch in _batches(taken, _AT_ONCE):  # so that no more than these images are in memory
        for item in threads.map(check, batch):
            progress.add(item.row.status)
            yield item


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch
