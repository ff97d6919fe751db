"""Downloading a URL table: many requests in flight, a few shards at a time, every row accounted for."""

import asyncio
import os
import resource
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from lotlip.data.images import check_image
from lotlip.data.manifest import Shard
from lotlip.data.packing import Item, finished_shard, pack_shard
from lotlip.data.progress import Progress
from lotlip.data.sources.requests import Request, read_requests
from lotlip.data.tables import Row, Status
from lotlip.data.web.crawl import Crawler, with_retries
from lotlip.data.web.fetch import NO_MORE_FILES, FetchError, open_session
from lotlip.data.web.journal import Journal
from lotlip.data.web.robots import RobotsError
from lotlip.errors import DataError, ParamsError
from lotlip.params import Download, UrlTableSource

# Of the shards in work, so many rows are open: a row that hangs keeps its shard open, while others go on.
_OPEN_ROWS_PER_SLOT = 256
# So many of them wait for a slot or hold one: enough that slow hosts leave some of others.
_ROWS_PER_SLOT = 32
_NUM_LOOKUPS = 32
_STATUSES: dict[type[Exception], Status] = {
    FetchError: "failed_to_download",
    RobotsError: "rejected",
    DataError: "failed_to_decode",
}


def download_table(source: UrlTableSource, name: str, settings: Download, folder: Path) -> list[Shard]:
    """Download every pair of the table into finished shards in `folder`, going on where a run stopped.

    Raises:
        DataError: the table is missing, unreadable or empty.
        ParamsError: this process may not open as many files.
    """
    try:
        return asyncio.run(_download(source, name, settings, folder))
    except ExceptionGroup as errors:
        first = _first(errors)
        if isinstance(first, OSError) and first.errno in NO_MORE_FILES:
            raise ParamsError(
                f"Too many open files ({first}): raise the limit (`ulimit -n`) or lower download.concurrency, and run "
                "again; what is fetched is kept."
            ) from None
        raise first from None


def batches(requests: Iterator[Request], size: int) -> Iterator[list[Request]]:
    """The requests of one shard after the other."""
    while batch := list(islice(requests, size)):
        yield batch


async def _download(source: UrlTableSource, name: str, settings: Download, folder: Path) -> list[Shard]:
    _allow_many_files()
    # aiohttp looks names up in the threads of this executor, and dead names take long.
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_NUM_LOOKUPS))
    in_flight = 2 + _OPEN_ROWS_PER_SLOT * settings.concurrency // settings.shard_size
    shards: list[Shard | asyncio.Task[Shard]] = []
    running: set[asyncio.Task[Shard]] = set()
    with ThreadPoolExecutor(settings.workers or os.cpu_count()) as threads:
        async with open_session(settings) as session, asyncio.TaskGroup() as group:
            loader = _ShardLoader(Crawler(session, settings), settings, folder, threads, Progress(f"download {name}"))
            read = batches(read_requests(source), settings.shard_size)
            # In a thread, as all that takes longer than a moment: deadlines are kept by this one.
            while requests := await asyncio.to_thread(next, read, None):
                shard_name = f"{name}-{len(shards):05d}"
                if (done := await asyncio.to_thread(finished_shard, folder, shard_name)) is not None:
                    shards.append(done)
                    continue
                if len(running) >= in_flight:
                    _, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                running.add(task := group.create_task(loader.load(shard_name, requests)))
                shards.append(task)
    return [shard.result() if isinstance(shard, asyncio.Task) else shard for shard in shards]


class _ShardLoader:
    """Fetches shards with a shared crawler and shared decoding threads."""

    def __init__(
        self,
        crawler: Crawler,
        settings: Download,
        folder: Path,
        threads: ThreadPoolExecutor,
        progress: Progress,
    ) -> None:
        self._crawler = crawler
        self._settings = settings
        self._folder = folder
        self._threads = threads
        self._progress = progress
        self._rows = asyncio.Semaphore(_ROWS_PER_SLOT * settings.concurrency)
        self._turn = asyncio.Lock()

    async def load(self, name: str, requests: Sequence[Request]) -> Shard:
        """Fetch what the shard's journal lacks, then pack it in the order of the requests."""
        journal = await asyncio.to_thread(Journal, self._folder, name)
        try:
            for row in journal:
                self._progress.add(row.status)
            async with asyncio.TaskGroup() as group, self._turn:  # shards start in turn, so that the first end first
                for request in requests:
                    if request.reason is None and request.key not in journal:
                        await self._rows.acquire()
                        task = group.create_task(self._load_one(request, journal))
                        task.add_done_callback(lambda _: self._rows.release())
            # The journal first: a published row that is not tried again keeps every cell.
            items = (journal.item(r.key) if r.key in journal else Item(_rejected(r)) for r in requests)
            loop = asyncio.get_running_loop()
            shard = await loop.run_in_executor(self._threads, pack_shard, self._folder, name, items)
            journal.remove()
            return shard
        finally:
            journal.close()

    async def _load_one(self, request: Request, journal: Journal) -> None:
        async def attempt() -> Item:
            async with self._crawler.image(request.url) as data:
                loop = asyncio.get_running_loop()
                return await loop.run_in_executor(self._threads, self._keep, request, data, journal)

        try:
            item = await with_retries(attempt, self._settings.num_retries)
        except (FetchError, RobotsError, DataError) as error:
            item = Item(Row(request.key, request.url, _STATUSES[type(error)], str(error), request.caption))
            journal.add(item)
        self._progress.add(item.row.status)

    def _keep(self, request: Request, data: bytes, journal: Journal) -> Item:
        """Check an image and add it to the journal, in a thread: the disk never holds up the requests."""
        picture = check_image(data, self._settings.max_pixels, self._settings.resize)
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
        item = Item(row, picture.data, picture.extension)
        journal.add(item)
        return item


def _rejected(request: Request) -> Row:
    return Row(request.key, request.url, "rejected", request.reason, request.caption)


def _allow_many_files() -> None:
    """Raise this process's limit of open files, sockets included, as far as it may itself."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    inner = errors.exceptions[0]
    return _first(inner) if isinstance(inner, BaseExceptionGroup) else inner
