"""Downloading a URL table: many requests in flight, a few shards at a time, every row accounted for."""

import asyncio
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from aiohttp import ClientSession

from lotlip.data.fetch import FetchError, fetch, open_session, with_retries
from lotlip.data.images import Picture, check_image
from lotlip.data.journal import Journal
from lotlip.data.manifest import Shard
from lotlip.data.packing import Item, finished_shard, mark_path, pack_shard
from lotlip.data.progress import Progress
from lotlip.data.shards import ShardReader
from lotlip.data.sources import Request, read_requests
from lotlip.data.tables import Row, read_rows
from lotlip.errors import DataError
from lotlip.params import Download, UrlTableSource


def download_table(source: UrlTableSource, name: str, settings: Download, folder: Path) -> list[Shard]:
    """Download every pair of the table into finished shards in `folder`, going on where a run stopped.

    Raises:
        DataError: the table is missing, unreadable or empty.
    """
    try:
        return asyncio.run(_download(source, name, settings, folder))
    except ExceptionGroup as errors:
        raise _first(errors) from None


def reopen_failed(folder: Path, shards: Sequence[Shard]) -> int:
    """Turn finished shards with failed downloads back into journals without these rows, so that the next run
    tries them again and nothing else; returns the number of these rows.
    """
    count = 0
    for shard in shards:
        rows = read_rows(folder / shard.files["table"].path)
        if failed := sum(row.status == "failed_to_download" for row in rows):
            _reopen(folder, shard, rows)
            count += failed
    return count


async def _download(source: UrlTableSource, name: str, settings: Download, folder: Path) -> list[Shard]:
    in_flight = 2 + settings.concurrency // settings.shard_size
    shards: list[Shard | asyncio.Task[Shard]] = []
    running: set[asyncio.Task[Shard]] = set()
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        async with open_session(settings) as session, asyncio.TaskGroup() as group:
            loader = _ShardLoader(session, settings, folder, threads, Progress(f"download {name}"))
            for number, requests in enumerate(_batches(read_requests(source), settings.shard_size)):
                shard_name = f"{name}-{number:05d}"
                if (done := finished_shard(folder, shard_name)) is not None:
                    shards.append(done)
                    continue
                if len(running) >= in_flight:
                    _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                running.add(task := group.create_task(loader.load(shard_name, requests)))
                shards.append(task)
    return [shard.result() if isinstance(shard, asyncio.Task) else shard for shard in shards]


class _ShardLoader:
    """Fetches shards with shared connections, request slots and decoding threads."""

    def __init__(
        self,
        session: ClientSession,
        settings: Download,
        folder: Path,
        threads: ThreadPoolExecutor,
        progress: Progress,
    ) -> None:
        self._session = session
        self._settings = settings
        self._folder = folder
        self._threads = threads
        self._progress = progress
        self._slots = asyncio.Semaphore(settings.concurrency)

    async def load(self, name: str, requests: Sequence[Request]) -> Shard:
        """Fetch what the shard's journal lacks, then pack it in the order of the requests."""
        journal = Journal(self._folder, name)
        try:
            for row in journal:
                self._progress.add(row.status)
            missing = [item for item in requests if item.reason is None and item.key not in journal]
            async with asyncio.TaskGroup() as group:
                for request in missing:
                    group.create_task(self._load_one(request, journal))
            items = (Item(_rejected(r)) if r.reason is not None else journal.item(r.key) for r in requests)
            loop = asyncio.get_running_loop()
            shard = await loop.run_in_executor(self._threads, pack_shard, self._folder, name, items)
            journal.remove()
            return shard
        finally:
            journal.close()

    async def _load_one(self, request: Request, journal: Journal) -> None:
        async def attempt() -> Picture:
            data = await fetch(self._session, request.url, self._settings.max_bytes)
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._threads, check_image, data, self._settings.max_pixels)

        try:
            picture = await with_retries(attempt, self._slots, self._settings.num_retries)
            item = _success(request, picture)
        except FetchError as error:
            item = Item(Row(request.key, request.url, "failed_to_download", str(error), request.caption))
        except DataError as error:
            item = Item(Row(request.key, request.url, "failed_to_decode", str(error), request.caption))
        journal.add(item)
        self._progress.add(item.row.status)


def _success(request: Request, picture: Picture) -> Item:
    row = Row(
        request.key,
        request.url,
        "success",
        None,
        request.caption,
        picture.width,
        picture.height,
        picture.sha256,
        picture.phash,
    )
    return Item(row, picture.data, picture.extension)


def _rejected(request: Request) -> Row:
    return Row(request.key, request.url, "rejected", request.reason, request.caption)


def _batches(requests: Iterator[Request], size: int) -> Iterator[list[Request]]:
    while batch := list(islice(requests, size)):
        yield batch


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    inner = errors.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner


def _reopen(folder: Path, shard: Shard, rows: Sequence[Row]) -> None:
    tar = folder / shard.files["tar"].path
    journal = Journal(folder, shard.name)
    with ShardReader(tar) as reader:
        for row in rows:
            if row.status == "success":
                journal.add(Item(row, reader.image(row.key), reader.extension(row.key)))
            elif row.status == "failed_to_decode":
                journal.add(Item(row))
    journal.close()
    mark_path(folder, shard.name).unlink()
