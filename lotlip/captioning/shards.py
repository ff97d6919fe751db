"""Caption image shards, resumably: what was captioned once, by the same captioner, is never captioned again.

A shard's captions are a pure function of (tar, captioner), and are cached under a key of both:
`<work>/<key>/batch-<first sample>.json` while it runs (written atomically), then `captions.parquet`.
Killed anywhere, the next run reads the finished batches and goes on; its bytes equal an uninterrupted run's.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lotlip.captioning.captioner import Captioner, Kind, failed
from lotlip.captioning.quality import Written, write_checked
from lotlip.captioning.report import caption_report
from lotlip.captioning.tables import Row, make_row, read_captions, write_captions
from lotlip.data.manifest import Manifest, Shard, describe_file, write_manifest
from lotlip.data.shards import ShardReader
from lotlip.errors import DataError
from lotlip.records import content_key, locked, publish_folder, read_json, write_json

if TYPE_CHECKING:
    from PIL.Image import Image

REPORT_EVERY_S = 5.0


@dataclass(frozen=True)
class ShardTask:
    """One shard to caption: everything that decides its captions, but for the captioner.

    `max_pixels` refuses larger images before they are decoded; `num_samples` is what the manifest promises.
    """

    name: str
    tar: Path
    sha256: str
    num_samples: int
    max_pixels: int


def caption_shards(
    images: Sequence[Manifest],
    out: Path,
    captioner: Captioner,
    *,
    batch_size: int,
    max_pixels: int,
    work: Path,
) -> dict[str, Any]:
    """Caption every image of the manifests and publish the sidecars as the folder `out`.

    Args:
        images: manifests of kind images; shard names are unique over all of them.
        out: becomes a dataset of kind captions, with a row for every sample, in the tar's order.
        captioner: what captions them; it loads nothing if all shards are found finished in `work`.
        batch_size: images a call of the captioner; the captions do not depend on it.
        max_pixels: a larger image is recorded as failed and never decoded.
        work: where finished batches and shards are kept between runs.

    Returns:
        The report's numbers (see `caption_report`).

    Raises:
        DataError: a shard is missing or damaged, two shards share a name, or another run works in `work`.
        ModelError: the captioner cannot be loaded.
    """
    tasks = {shard.name: _task(manifest, shard, max_pixels) for manifest in images for shard in manifest.shards}
    if len(tasks) != sum(len(manifest.shards) for manifest in images):
        raise DataError("Two image shards share a name: give every source a name of its own and download it again.")
    progress = _Progress(sum(task.num_samples for task in tasks.values()))
    with locked(work):
        tables = [(task, caption_shard(task, captioner, batch_size, work, progress)) for task in tasks.values()]
        progress.finish()
        _publish(tables, out)
        return caption_report((row for _, table in tables for row in read_captions(table)), progress.requested)


def caption_shard(
    task: ShardTask,
    captioner: Captioner,
    batch_size: int,
    work: Path,
    on_rows: Callable[[list[Row], bool], None],
) -> Path:
    """Caption one shard and return its finished table inside `work`.

    `on_rows` gets each batch of rows and whether they were captioned now (False: found from an earlier run).
    """
    folder = work / content_key([task.sha256, captioner.identity, task.max_pixels])[:20]
    table = folder / "captions.parquet"
    if table.is_file():
        on_rows(read_captions(table), False)
        return table
    with ShardReader(task.tar, task.sha256) as reader:
        keys = reader.keys
        if len(keys) != task.num_samples:
            raise DataError(f"{task.tar} has {len(keys)} samples, its manifest says {task.num_samples}.")
        rows = _read_batches(folder)
        on_rows(list(rows.values()), False)
        todo = [(i, key) for i, key in enumerate(keys) if (key, "long") not in rows]
        batches = [todo[i : i + batch_size] for i in range(0, len(todo), batch_size)]
        for batch, decoded in _prefetch(reader, batches, task.max_pixels):
            written = {kind: _caption_decoded(captioner, decoded, kind) for kind in captioner.kinds}
            done = [
                make_row(key, kind, written[kind][at], captioner.identity)
                for at, (_, key) in enumerate(batch)
                for kind in captioner.kinds
            ]
            # Named by its first sample: the next run may use other batch sizes and never hits a taken name.
            write_json(folder / f"batch-{batch[0][0]:06d}.json", done)
            rows.update(((row["key"], row["kind"]), row) for row in done)
            on_rows(done, True)
    write_captions(table, [rows[key, kind] for key in keys for kind in captioner.kinds])
    for pattern in ("batch-*.json", ".batch-*.tmp"):  # a killed run leaves temporary files
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)
    return table


def _task(manifest: Manifest, shard: Shard, max_pixels: int) -> ShardTask:
    tar = shard.files["tar"]
    return ShardTask(shard.name, manifest.path(shard, "tar"), tar.sha256, shard.num_samples, max_pixels)


def _read_batches(folder: Path) -> dict[tuple[str, str], Row]:
    """Rows of the batches that an earlier run finished, by key and kind."""
    rows = [row for path in sorted(folder.glob("batch-*.json")) for row in read_json(path)]
    return {(row["key"], row["kind"]): row for row in rows}


Batch = list[tuple[int, str]]
Decoded = list["Image | str"]


def _prefetch(reader: ShardReader, batches: list[Batch], max_pixels: int) -> Iterator[tuple[Batch, Decoded]]:
    """Each batch with its decoded images; the next one is decoded in a thread while this one is captioned."""

    def decode(batch: Batch) -> Decoded:
        return [_decode(reader, key, max_pixels) for _, key in batch]

    with ThreadPoolExecutor(max_workers=1) as pool:
        ahead = [pool.submit(decode, batch) for batch in batches[:1]]
        for i, batch in enumerate(batches):
            decoded = ahead.pop().result()
            ahead += [pool.submit(decode, following) for following in batches[i + 1 : i + 2]]
            yield batch, decoded


def _decode(reader: ShardReader, key: str, max_pixels: int) -> "Image | str":
    """The sample's RGB image, or the reason why there is none."""
    from lotlip.data.images import open_rgb

    try:
        data = reader.image(key)
    except DataError:  # its message names the tar's path, which the captions must not depend on
        return "no image: the shard has none under this key"
    try:
        return open_rgb(data, max_pixels)
    except DataError as error:
        return str(error)


def _caption_decoded(captioner: Captioner, decoded: Decoded, kind: Kind) -> list[Written]:
    images = [image for image in decoded if not isinstance(image, str)]
    written = write_checked(captioner, images, kind) if images else []
    if len(written) != len(images):
        raise DataError(f"The captioner returned {len(written)} captions for {len(images)} images.")
    captions = iter(written)
    return [Written(failed(image), ()) if isinstance(image, str) else next(captions) for image in decoded]


def _publish(tables: list[tuple[ShardTask, Path]], out: Path) -> None:
    with publish_folder(out) as staging:
        shards = []
        for task, table in tables:
            shutil.copyfile(table, staging / f"{task.name}.parquet")
            file = describe_file(staging, f"{task.name}.parquet")
            shards.append(Shard(task.name, task.num_samples, {"table": file}, of=task.sha256))
        write_manifest(staging, "captions", shards)


class _Progress:
    """Prints a line every few seconds; the rate counts only what was captioned in this run."""

    def __init__(self, requested: int) -> None:
        self.requested = requested
        self._done = self._captioned_now = self._failed = 0
        self._start = self._last = time.monotonic()

    def __call__(self, rows: list[Row], is_new: bool) -> None:
        long = [row for row in rows if row["kind"] == "long"]  # one an image
        self._done += len(long)
        self._captioned_now += len(long) if is_new else 0
        self._failed += sum(row["failure"] is not None for row in long)
        if time.monotonic() - self._last > REPORT_EVERY_S:
            self.finish()

    def finish(self) -> None:
        self._last = time.monotonic()
        rate = self._captioned_now / max(self._last - self._start, 1e-9)
        print(
            f"captioned {self._done}/{self.requested} images, {self._failed} failed, "
            f"{self._captioned_now} in this run at {rate:.1f} images/s",
            flush=True,
        )
