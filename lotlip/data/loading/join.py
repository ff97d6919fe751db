"""Images joined with their texts, shard by shard; made once into a table under a name that follows from all inputs."""

import fcntl
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from lotlip.data.loading.sample_table import SampleTable, write_table
from lotlip.data.loading.samples import Sample, is_held_out, source_of
from lotlip.data.manifest import Manifest, Shard
from lotlip.data.tables import read_table
from lotlip.errors import DataError
from lotlip.records import content_key, disk_errors, publish_folder

_EVERY_S = 10.0
JOIN_VERSION = 1  # raise it when the same inputs would give another table
COUNTS = (
    "images",
    "held_out",
    "held_out_twins",
    "rejected_image",
    "rejected_raw",
    "rejected_long",
    "failed_long",
    "long_texts",
    "rewrites",
    "without_long",
    "without_rewrite",
    "samples",
)

Texts = dict[tuple[str, str], str | None]  # of a captioner, by key and kind; None where it failed


def join_samples(
    images: Sequence[Manifest],
    captions: Mapping[str, Manifest],
    quarantine: Manifest | None = None,
    held_out: Mapping[str, float] | None = None,
    *,
    work: Path,
) -> SampleTable:
    """Join images with their captions, leaving out what is held out or rejected, and count it all.

    Of several processes that come at once, one makes the table, and the others wait for it.

    Args:
        images: image datasets, in the order wanted.
        captions: of each captioner; every image shard must have its sidecar.
        quarantine: what validation rejected: an image or raw caption takes the sample out, a captioner's text
            only that text.
        held_out: share of each source that is kept for evaluation; images with the same bytes as one of these
            are left out too (`held_out_twins`).
        work: the table is kept in `samples` in it, about as large as all texts together.

    Returns:
        The samples in the order of the shards, with the counts named in `COUNTS`, where
        `images = samples + held_out + held_out_twins + rejected_image + rejected_raw`. `without_long` samples
        have no long text left. A sample's rewrites are its texts of kind `rewrite`, or where it has none those of
        kind `short`.

    Raises:
        DataError: a sidecar is missing or belongs to other images, a table is damaged, two shards have the same name,
            or the disk is full.
    """
    folder = work / "samples" / _key(images, captions, quarantine, held_out or {})
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # the system frees it when the process ends, however it ends
        if folder.is_dir():
            try:
                return SampleTable.open(folder)
            except DataError as error:
                print(f"joined samples: {error}: made again", flush=True)
        counts = Counter(dict.fromkeys(COUNTS, 0))
        shards = join_shards(images, captions, quarantine, held_out, counts)
        with disk_errors(folder.parent), publish_folder(folder) as staging:
            write_table(staging, _shown(shards, sum(len(manifest.shards) for manifest in images)), counts)
    return SampleTable.open(folder)


def join_shards(
    images: Sequence[Manifest],
    captions: Mapping[str, Manifest],
    quarantine: Manifest | None = None,
    held_out: Mapping[str, float] | None = None,
    counts: Counter[str] | None = None,
) -> Iterator[list[Sample]]:
    """As `join_samples`, but each shard's samples at a time, with nothing kept; memory holds one shard's tables.

    All but the last three of `COUNTS` are added to `counts` on the way.
    """
    counts = Counter() if counts is None else counts
    shares = held_out or {}
    kept_back = _held_out_images(images, shares)
    for manifest in images:
        for shard in manifest.shards:
            rejected = _rejections(quarantine, shard)
            written = {name: _texts(of_captioner, shard) for name, of_captioner in captions.items()}
            share = shares.get(source_of(shard.name), 0.0)
            samples = []
            for row in _successes(manifest, shard, ("caption", "sha256")):
                counts["images"] += 1
                if reason := _exclusion(row, share, kept_back, rejected):
                    counts[reason] += 1
                    continue
                texts = _pool(row["key"], written, rejected, counts)
                rewrites = _rewrites(row["key"], written)
                counts["rewrites"] += len(rewrites)
                samples.append(Sample(shard.name, row["key"], row["caption"] or "", texts, rewrites))
            yield samples


def _shown(shards: Iterator[list[Sample]], total: int) -> Iterator[list[Sample]]:
    """The shards; every few seconds a line says how many are done, and how long the others will take."""
    started_at = printed_at = time.monotonic()
    for number, shard in enumerate(shards, start=1):
        yield shard
        now = time.monotonic()
        if now - printed_at >= _EVERY_S:
            printed_at = now
            left = timedelta(seconds=round((now - started_at) / number * (total - number)))
            print(f"joined samples: {number} of {total} shards, {left} left", flush=True)


def _key(
    images: Sequence[Manifest],
    captions: Mapping[str, Manifest],
    quarantine: Manifest | None,
    held_out: Mapping[str, float],
) -> str:
    """Of all that determines the samples: the bytes of the tables, and which images these are of."""

    def tables(manifest: Manifest | None) -> list[Any]:
        shards = () if manifest is None else manifest.shards
        return [(s.name, s.files["table"].sha256, s.of or s.files["tar"].sha256) for s in shards]

    return content_key(
        {
            "version": JOIN_VERSION,
            "images": [tables(manifest) for manifest in images],
            "captions": [(name, tables(manifest)) for name, manifest in captions.items()],  # texts are in this order
            "quarantine": tables(quarantine),
            "held_out": dict(held_out),
        }
    )


def _held_out_images(images: Sequence[Manifest], shares: Mapping[str, float]) -> set[str]:
    """Hashes of the images that are held out."""
    return {
        row["sha256"]
        for manifest in images
        for shard in manifest.shards
        if (share := shares.get(source_of(shard.name), 0.0))
        for row in _successes(manifest, shard, ("sha256",))
        if is_held_out(row["key"], share)
    }


def _exclusion(row: dict[str, str], share: float, kept_back: set[str], rejected: set[tuple[str, str]]) -> str | None:
    key = row["key"]
    if is_held_out(key, share):
        return "held_out"
    if row["sha256"] in kept_back:
        return "held_out_twins"
    if (key, "image") in rejected:
        return "rejected_image"
    return "rejected_raw" if (key, "raw") in rejected else None


def _pool(
    key: str, written: Mapping[str, Texts], rejected: set[tuple[str, str]], counts: Counter[str]
) -> tuple[str, ...]:
    texts = []
    for name, of_captioner in written.items():
        text = of_captioner.get((key, "long"))
        if text is None:
            counts["failed_long"] += 1
        elif (key, name) in rejected:
            counts["rejected_long"] += 1
        else:
            counts["long_texts"] += 1
            texts.append(text)
    return tuple(texts)


def _rewrites(key: str, written: Mapping[str, Texts]) -> tuple[str, ...]:
    for kind in ("rewrite", "short"):
        if found := tuple(text for texts in written.values() if (text := texts.get((key, kind)))):
            return found
    return ()


def _successes(manifest: Manifest, shard: Shard, columns: Sequence[str]) -> list[dict[str, str]]:
    rows = read_table(manifest, shard, ("key", "status", *columns))
    return [row for row in rows if row["status"] == "success"]


def _texts(manifest: Manifest, images: Shard) -> Texts:
    rows = read_table(manifest, _sidecar(manifest, images), ("key", "kind", "text", "failure"))
    return {
        (row["key"], row["kind"]): row["text"] if row["failure"] is None and (row["text"] or "").strip() else None
        for row in rows
    }


def _rejections(quarantine: Manifest | None, images: Shard) -> set[tuple[str, str]]:
    if quarantine is None:
        return set()
    rows = read_table(quarantine, _sidecar(quarantine, images), ("key", "subject"))
    return {(row["key"], row["subject"]) for row in rows}


def _sidecar(manifest: Manifest, images: Shard) -> Shard:
    sidecar = manifest.shard(images.name)
    if sidecar.of != images.files["tar"].sha256:
        raise DataError(
            f"{manifest.folder}: the sidecar of {images.name} was made from other images than there are now. "
            "Run `dvc repro` to make it again."
        )
    return sidecar
