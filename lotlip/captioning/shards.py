"""Caption image shards, resumably: what was captioned once, by the same captioner, is never captioned again.

A shard's captions are a pure function of (tar, captioner), and are cached under a key of both:
`<work>/<key>/batch-<first sample>.json` while it runs (written atomically), then `captions.parquet`.
Killed anywhere, the next run reads the finished batches and goes on; its bytes equal an uninterrupted run's.
"""

import io
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lotlip.captioning.captioner import Captioner, Kind, failed, is_passing
from lotlip.captioning.publish import check_failed_share, publish_captions
from lotlip.captioning.quality import Written, write_checked
from lotlip.captioning.report import caption_report
from lotlip.captioning.tables import Row, count_rows, make_row, read_captions, write_captions
from lotlip.data.manifest import Manifest, Shard
from lotlip.data.shards import ShardReader
from lotlip.errors import DataError
from lotlip.executor import run_tasks
from lotlip.params import Executor
from lotlip.records import content_key, read_json, write_json
from lotlip.storage.copies import find_size, local
from lotlip.storage.leases import at_work

if TYPE_CHECKING:
    from PIL.Image import Image

T = TypeVar("T")
HERE = Executor(kind="local", workers=1, num_gpus=0.0, address=None, retries=0)
REPORT_EVERY_S = 5.0
REMEDY = (
    "Mend the cause, or raise the ceiling, and run again: failures that may pass are tried again, finished captions "
    "are kept."
)
WINDOW = 4  # batches whose images are sorted by length of prompt
AHEAD = 2  # batches that wait, ready for the model


@dataclass(frozen=True)
class ShardTask:
    """One shard to caption: everything that decides its captions, but for the captioner.

    `max_pixels` refuses larger images before they are decoded; `num_samples` is what the manifest promises.
    """

    name: str
    tar: str
    sha256: str
    num_bytes: int
    num_samples: int
    max_pixels: int


@dataclass(frozen=True)
class ShardResult:
    """A shard's finished table, how many images this run captioned, and the share of its time the model was at work."""

    table: Path
    captioned_now: int
    model_share: float | None


def caption_shards(
    images: Sequence[Manifest],
    out: Path,
    open_captioner: Callable[[], Captioner],
    *,
    batch_size: int,
    max_pixels: int,
    work: Path,
    executor: Executor = HERE,
    max_failed_share: float = 1.0,
    root: str | None = None,
) -> dict[str, Any]:
    """Caption every image of the manifests and publish the sidecars as the folder `out`.

    Args:
        images: manifests of kind images; shard names are unique over all of them.
        out: becomes a dataset of kind captions, with a row for every sample, in the tar's order.
        open_captioner: called once in each worker; it loads nothing if all shards are found finished in `work`.
        batch_size: images a call of the captioner; the captions do not depend on it.
        max_pixels: a larger image is recorded as failed and never decoded.
        work: where finished batches and shards are kept between runs; on a cluster, a folder that all machines see.
        executor: where shards are captioned; the captions do not depend on it.
        max_failed_share: with more failed images nothing is published.
        root: place in S3 where the tables go; None: they stay in `out`.

    Returns:
        The report's numbers (see `caption_report`).

    Raises:
        DataError: a shard is missing or damaged, two shards share a name, the disk is full, or another run is at
            this work.
        ModelError: the captioner cannot be loaded, or its server is away.
        ExecutorError: workers cannot be started, or die again and again.
        CeilingError: more images failed than `max_failed_share` allows. What failed for a reason that may pass (a
            server's answer, memory) is tried again by the next run, in any case.
    """
    tasks = [_task(manifest, shard, max_pixels) for manifest in images for shard in manifest.shards]
    if len({task.name for task in tasks}) != len(tasks):
        raise DataError("Two image shards share a name: give every source a name of its own and download it again.")
    requested = sum(task.num_samples for task in tasks)
    tables: dict[int, Path] = {}
    done = now = 0
    with at_work(work, root) as check_alone:
        started = time.monotonic()
        for i, result in run_tasks(tasks, OpenWorker(open_captioner, batch_size, work.absolute()), executor):
            tables[i], done, now = result.table, done + tasks[i].num_samples, now + result.captioned_now
            share = "" if result.model_share is None else f", model at work {100 * result.model_share:.0f}% of the time"
            rate = now / max(time.monotonic() - started, 1e-9)
            print(f"captioned {done}/{requested} images, {now} in this run at {rate:.1f} images/s{share}", flush=True)
        finished = [(task, tables[i]) for i, task in enumerate(tasks)]
        report = caption_report((row for _, table in finished for row in read_captions(table)), requested)
        check_failed_share(report, max_failed_share, REMEDY)
        check_alone()
        publish_captions([(task.name, task.sha256, table) for task, table in finished], out, root)
        return report


@dataclass(frozen=True)
class OpenWorker:
    """Opens the captioner in a worker's process; the result captions one shard a call."""

    open_captioner: Callable[[], Captioner]
    batch_size: int
    work: Path

    def __call__(self) -> Callable[[ShardTask], ShardResult]:
        captioner = self.open_captioner()
        return lambda task: caption_shard(task, captioner, self.batch_size, self.work)


def caption_shard(task: ShardTask, captioner: Captioner, batch_size: int, work: Path) -> ShardResult:
    """Caption one shard into a table inside `work`, going on where an earlier run was stopped."""
    folder = work / content_key([task.sha256, captioner.identity, task.max_pixels])[:20]
    table = folder / "captions.parquet"
    rows = _finished(read_captions(table)) if table.is_file() else {}
    if table.is_file() and len(rows) == count_rows(table):
        _check_size(task)  # its hash is not worth a reading of the whole tar, but that it is there and whole is
        return ShardResult(table, 0, None)
    with ShardReader(local(task.tar, task.sha256), task.sha256) as reader:
        keys = reader.keys
        if len(keys) != task.num_samples:
            raise DataError(f"{task.tar} has {len(keys)} samples, its manifest says {task.num_samples}.")
        rows |= _finished([row for path in sorted(folder.glob("batch-*.json")) for row in read_json(path)])
        todo = [(i, key) for i, key in enumerate(keys) if any((key, kind) not in rows for kind in captioner.kinds)]
        progress = _Progress(task, len(todo))
        for batch in feed(reader, todo, captioner, batch_size, task.max_pixels):
            with progress.model_at_work():
                written = {kind: caption_batch(captioner, batch, kind) for kind in captioner.kinds}
            new = [
                make_row(key, kind, written[kind][at], captioner.identity)
                for at, (_, key) in enumerate(batch.samples)
                for kind in captioner.kinds
            ]
            # Named by its samples: the next run may use other batch sizes and never overwrites what this one finished.
            write_json(folder / f"batch-{content_key([key for _, key in batch.samples])[:20]}.json", new)
            rows.update(((row["key"], row["kind"]), row) for row in new)
            progress.add(len(batch.samples))
    write_captions(table, [rows[key, kind] for key in keys for kind in captioner.kinds])
    for pattern in ("batch-*.json", ".*.tmp"):  # a killed run leaves temporary files
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
    return ShardResult(table, len(todo), progress.model_share)


def _check_size(task: ShardTask) -> None:
    size = find_size(task.tar)
    if size != task.num_bytes:
        raise DataError(
            f"Shard {task.tar} has {size} bytes, its manifest says {task.num_bytes}: the file is damaged or was "
            "changed. Remove it and run `dvc checkout` or its download stage again."
        )


def _task(manifest: Manifest, shard: Shard, max_pixels: int) -> ShardTask:
    tar = shard.files["tar"]
    location = manifest.location(shard, "tar")  # absolute: a worker may have another working directory
    return ShardTask(shard.name, location, tar.sha256, tar.num_bytes, shard.num_samples, max_pixels)


def _finished(rows: list[Row]) -> dict[tuple[str, str], Row]:
    """Rows of an earlier run by key and kind, without those that failed for a reason that may have passed."""
    return {(row["key"], row["kind"]): row for row in rows if not is_passing(row["failure"])}


@dataclass(frozen=True)
class Batch:
    """Samples (index, key) with their RGB images or the reasons why there are none, and what `prepare` made of them."""

    samples: list[tuple[int, str]]
    decoded: list["Image | str"]
    prepared: dict[Kind, Any]

    @property
    def images(self) -> list["Image"]:
        return [image for image in self.decoded if not isinstance(image, str)]


def feed(
    reader: ShardReader, todo: list[tuple[int, str]], captioner: Captioner, batch_size: int, max_pixels: int
) -> Iterator[Batch]:
    """Batches of images whose prompts are about equally long, decoded and prepared in threads while the model works.

    The sizes of WINDOW batches are read from the images' headers; only the next few batches are decoded.
    """

    def prepare_all(pool: ThreadPoolExecutor) -> Iterator[Batch]:
        for start in range(0, len(todo), WINDOW * batch_size):
            window = todo[start : start + WINDOW * batch_size]
            encoded = {key: _read(reader, key) for _, key in window}
            order = sorted(window, key=lambda sample: _prompt_length(captioner, encoded[sample[1]]))
            for at in range(0, len(order), batch_size):
                samples = order[at : at + batch_size]
                decoded = list(pool.map(lambda sample: _decode(encoded[sample[1]], max_pixels), samples))  # noqa: B023
                batch = Batch(samples, decoded, {})
                for kind in captioner.kinds if batch.images else ():
                    batch.prepared[kind] = captioner.prepare(batch.images, kind)
                yield batch

    with ThreadPoolExecutor(max(1, min(8, (os.cpu_count() or 1) - 1))) as pool:  # one core is the model's
        yield from _ahead(prepare_all(pool), AHEAD)


def _prompt_length(captioner: Captioner, data: bytes | None) -> int:
    """0 for what is no image: decoding says so."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data or b"")) as image:
            return captioner.prompt_length(image.size)
    except (OSError, ValueError, Image.DecompressionBombError):
        return 0


def _ahead(items: Iterator[T], depth: int) -> Iterator[T]:
    """The items, at most `depth` of them made in a thread before they are asked for."""
    end = object()
    with ThreadPoolExecutor(1) as pool:
        coming = deque(pool.submit(next, items, end) for _ in range(depth))
        while (item := coming.popleft().result()) is not end:
            coming.append(pool.submit(next, items, end))
            yield item  # type: ignore[misc]


def _read(reader: ShardReader, key: str) -> bytes | None:
    try:
        return reader.image(key)
    except DataError:
        return None


def _decode(data: bytes | None, max_pixels: int) -> "Image | str":
    """The RGB image, or the reason why there is none."""
    from lotlip.data.images import open_rgb

    if data is None:
        return "no image: the shard has none under this key"
    try:
        return open_rgb(data, max_pixels)
    except DataError as error:
        return str(error)


def caption_batch(captioner: Captioner, batch: Batch, kind: Kind) -> list[Written]:
    """A caption for every sample of the batch, failed ones where there is no image."""
    images = batch.images
    written = write_checked(captioner, images, kind, batch.prepared[kind]) if images else []
    if len(written) != len(images):
        raise DataError(f"The captioner returned {len(written)} captions for {len(images)} images.")
    captions = iter(written)
    return [Written(failed(image), ()) if isinstance(image, str) else next(captions) for image in batch.decoded]


class _Progress:
    """Prints a line every few seconds, and measures how long the model was at work."""

    def __init__(self, task: ShardTask, todo: int) -> None:
        self._task, self._todo = task, todo
        self._done, self._busy = 0, 0.0
        self._start = self._last = time.monotonic()

    @contextmanager
    def model_at_work(self) -> Iterator[None]:
        started = time.monotonic()
        yield
        self._busy += time.monotonic() - started

    def add(self, num_images: int) -> None:
        self._done += num_images
        if time.monotonic() - self._last > REPORT_EVERY_S:
            self._last = time.monotonic()
            rate = self._done / (self._last - self._start)
            print(f"{self._task.name}: {self._done}/{self._todo} images at {rate:.1f} images/s", flush=True)

    @property
    def model_share(self) -> float | None:
        """Share of the time until now; None where there was nothing to do."""
        return self._busy / (time.monotonic() - self._start) if self._done else None
