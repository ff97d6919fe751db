"""What captions are like, by captioner and between captioners, on a sample of the images."""

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from lotlip.captioning.tables import Row, read_captions
from lotlip.data.images import open_rgb
from lotlip.data.manifest import Manifest, Shard, describe_file, write_manifest
from lotlip.data.shards import ShardReader
from lotlip.errors import DataError
from lotlip.evaluation.agreement import ObjectNames, consensus, overlap, support
from lotlip.evaluation.similarity import Encoder, caption_similarity
from lotlip.records import publish_folder
from lotlip.text.subcaptions import split_sub_captions

if TYPE_CHECKING:
    from PIL.Image import Image

COLUMNS = ("key", "captioner", "objects", "unsupported", "support", "similarity", "similarity_of_next")
Texts = dict[str, str]  # of one image, by captioner


def measure_quality(
    images: Sequence[Manifest],
    captions: Mapping[str, Manifest],
    names: ObjectNames,
    encoder: Encoder,
    max_images: int,
    max_pixels: int,
    out: Path,
) -> dict[str, Any]:
    """Measure the long texts of a sample of images; write a row for each and return the summary.

    Args:
        images, captions: image folders, and a captions folder by captioner.
        names: what counts as an object.
        encoder: the model of images and texts that judges similarity.
        max_images: so many images, drawn by their keys, all if there are no more.
        max_pixels: larger images are left out.
        out: becomes a folder of sidecars, kind quality, with the rows `COLUMNS` of an image shard.

    Returns:
        `images` measured; by captioner `captioners` (see `_of_captioner`); `agreement`, mean Jaccard index of the
        objects that two captioners name; `common_objects`, the mean number that most captioners name.

    Raises:
        DataError: captions belong to other images, a shard is damaged, or no image has a caption.
    """
    chosen = _choose(images, max_images)
    rows: list[Row] = []
    shards = []
    with publish_folder(out) as staging:
        for manifest in images:
            for shard in manifest.shards:
                of_shard = list(_measure_shard(manifest, shard, captions, chosen, names, encoder, max_pixels))
                rows += of_shard
                _write(staging / f"{shard.name}.parquet", of_shard)
                file = describe_file(staging, f"{shard.name}.parquet")
                shards.append(Shard(shard.name, len(of_shard), {"table": file}, of=shard.files["tar"].sha256))
        write_manifest(staging, "quality", shards)
    if not rows:
        raise DataError("No image has a caption: reports/recaption says why all failed.")
    return _summarise(rows, list(captions))


def _choose(images: Sequence[Manifest], max_images: int) -> set[tuple[str, str]]:
    """(shard, key) of the images with the smallest hashes."""

    def every() -> Iterator[tuple[bytes, str, str]]:
        for manifest in images:
            for shard in manifest.shards:
                with ShardReader(manifest.path(shard, "tar"), shard.files["tar"].sha256) as reader:
                    for key in reader.keys:
                        yield hashlib.sha256(f"quality/{key}".encode()).digest(), shard.name, key

    return {(shard, key) for _, shard, key in heapq.nsmallest(max_images, every())}


def _measure_shard(
    manifest: Manifest,
    shard: Shard,
    captions: Mapping[str, Manifest],
    chosen: set[tuple[str, str]],
    names: ObjectNames,
    encoder: Encoder,
    max_pixels: int,
) -> Iterator[Row]:
    written = {name: _long_rows(folder, shard) for name, folder in captions.items()}
    pictures: list[Image] = []
    texts: list[Texts] = []
    keys = []
    with ShardReader(manifest.path(shard, "tar"), shard.files["tar"].sha256) as reader:
        for key in (key for key in reader.keys if (shard.name, key) in chosen):
            of_image = {name: rows[key]["text"] for name, rows in written.items() if key in rows}
            try:
                picture = open_rgb(reader.image(key), max_pixels)
            except DataError:
                continue  # its captions failed, too, and are counted there
            if of_image:
                pictures.append(picture)
                texts.append(of_image)
                keys.append(key)
    if not keys:
        return
    own, of_next = caption_similarity(encoder, pictures, [list(of_image.values()) for of_image in texts])
    for i, (key, of_image) in enumerate(zip(keys, texts, strict=True)):
        named = {name: names.named_in(text) for name, text in of_image.items()}
        supported = support(named)
        for j, (name, text) in enumerate(of_image.items()):
            shares = supported[name]
            yield {
                **written[name][key],
                "key": key,
                "captioner": name,
                "text": text,
                "named": named,
                "objects": ", ".join(sorted(named[name])),
                "unsupported": ", ".join(thing for thing, share in shares.items() if share == 0),
                "support": fmean(shares.values()) if shares else None,
                "similarity": round(own[i][j], 6),
                "similarity_of_next": round(of_next[i][j], 6),
            }


def _long_rows(captions: Manifest, images: Shard) -> dict[str, Row]:
    """Rows of long texts that did not fail, by key."""
    shard = captions.shard(images.name)
    if shard.of != images.files["tar"].sha256:
        raise DataError(
            f"{captions.folder}: the captions of {images.name} belong to other images than there are now: run "
            f"`dvc repro recaption@{captions.folder.name}`."
        )
    rows = read_captions(captions.path(shard, "table"))
    return {row["key"]: row for row in rows if row["kind"] == "long" and row["failure"] is None and row["text"]}


def _write(path: Path, rows: list[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = {"support", "similarity", "similarity_of_next"}
    schema = pa.schema([(name, pa.float64() if name in numbers else pa.string()) for name in COLUMNS])
    pq.write_table(pa.Table.from_pylist([{name: row[name] for name in COLUMNS} for row in rows], schema), path)


def _summarise(rows: list[Row], captioners: list[str]) -> dict[str, Any]:
    by_image: dict[str, dict[str, frozenset[str]]] = {row["key"]: row["named"] for row in rows}
    pairs = {}
    for first, second in combinations(captioners, 2):
        both = [named for named in by_image.values() if first in named and second in named]
        overlaps = [overlap(named[first], named[second]) for named in both]
        pairs[f"{first}-{second}"] = _mean(overlaps, lambda value: value)
    return {
        "images": len(by_image),
        "captioners": {name: _of_captioner([row for row in rows if row["captioner"] == name]) for name in captioners},
        "agreement": pairs,
        "common_objects": _mean(list(by_image.values()), lambda named: float(len(consensus(named)))),
    }


def _of_captioner(rows: list[Row]) -> dict[str, Any]:
    """Of one captioner's texts.

    `tokens` (generated) and `sub_captions` a text; `reasons`, the share of texts that break each rule; `duplicates`,
    the share of texts equal to an earlier image's; `objects` a text; where others wrote, too: `unsupported`, the share
    of its objects that no other captioner names, and `coverage`, of the objects that most captioners name the share
    that it names; `similarity` with the own and with another image.
    """
    reasons = Counter(reason for row in rows for reason in (row["reasons"] or "").split(",") if reason)
    compared = [row for row in rows if len(row["named"]) > 1]
    objects = sum(len(row["named"][row["captioner"]]) for row in compared)
    unsupported = sum(len([thing for thing in row["unsupported"].split(", ") if thing]) for row in compared)
    common = [(consensus(row["named"]), row["named"][row["captioner"]]) for row in compared]
    wanted = sum(len(things) for things, _ in common)
    covered = sum(len(things & named) for things, named in common)
    return {
        "texts": len(rows),
        "tokens": _mean(rows, lambda row: row["num_tokens"]),
        "sub_captions": _mean(rows, lambda row: float(len(split_sub_captions(row["text"])))),
        "truncated": _mean(rows, lambda row: float(row["finish_reason"] == "length")),
        "reasons": {reason: round(count / len(rows), 6) for reason, count in sorted(reasons.items())},
        "duplicates": round(1 - len({row["text"] for row in rows}) / len(rows), 6) if rows else None,
        "objects": _mean(rows, lambda row: float(len(row["named"][row["captioner"]]))),
        "unsupported": round(unsupported / objects, 6) if objects else None,
        "coverage": round(covered / wanted, 6) if wanted else None,
        "similarity": _mean(rows, lambda row: row["similarity"]),
        "similarity_of_next": _mean(rows, lambda row: row["similarity_of_next"]),
    }


def _mean(items: Sequence[Any], value: Callable[[Any], float | None]) -> float | None:
    values = [found for item in items if (found := value(item)) is not None]
    return round(fmean(values), 6) if values else None
