"""What captions are like, by captioner and between captioners, on a sample of the images."""

import hashlib
import heapq
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lotlip.captioning.tables import Row
from lotlip.data.images import open_rgb
from lotlip.data.manifest import Manifest, Shard, describe_file, write_manifest
from lotlip.data.shards import ShardReader
from lotlip.data.tables import read_table
from lotlip.errors import DataError
from lotlip.evaluation.agreement import ObjectNames, consensus, overlap, support
from lotlip.evaluation.encoders import Encoder
from lotlip.evaluation.similarity import caption_similarity
from lotlip.records import publish_folder
from lotlip.text.subcaptions import split_sub_captions

if TYPE_CHECKING:
    from PIL.Image import Image

COLUMNS = ("key", "captioner", "objects", "unsupported", "support", "similarity", "similarity_of_next")
ROW_COLUMNS = ("key", "kind", "text", "num_tokens", "finish_reason", "failure", "reasons")
CHUNK = 64  # images embedded at once


def measure_quality(
    images: Sequence[Manifest],
    captions: Mapping[str, Manifest],
    names: ObjectNames,
    encoder: Encoder,
    max_images: int,
    max_pixels: int,
    out: Path,
    root: str | None = None,
) -> dict[str, Any]:
    """Measure the long texts of a sample of images; write a row for each and return the summary.

    Args:
        images, captions: image folders, and a captions folder by captioner.
        names: what counts as an object.
        encoder: the model of images and texts that judges similarity.
        max_images: so many images, drawn by their keys, all if there are no more.
        max_pixels: larger images are left out.
        out: becomes a folder of sidecars, kind quality, with the rows `COLUMNS` of an image shard.
        root: place in S3 where its tables go; None: they stay in `out`.

    Returns:
        `images` measured; by captioner `captioners` (see `_of_captioner`); `agreement`, mean Jaccard index of the
        objects that two captioners name; `common_objects`, the mean number that most captioners name.

    Raises:
        DataError: captions belong to other images, a shard is damaged, or no image has a caption.
    """
    chosen = _choose(images, max_images)
    found = [one for manifest in images for one in _read_chosen(manifest, captions, chosen, encoder, max_pixels)]
    if not found:
        raise DataError("No image has a caption: reports/recaption says why all failed.")
    pictures = torch.stack([one.picture for one in found])
    own, of_next = caption_similarity(encoder, pictures, [[row["text"] for row in one.rows.values()] for one in found])
    rows: dict[str, list[Row]] = {shard.name: [] for manifest in images for shard in manifest.shards}
    for i, one in enumerate(found):
        named = {name: names.named_in(row["text"]) for name, row in one.rows.items()}
        supported = support(named)
        for j, (name, row) in enumerate(one.rows.items()):
            shares = supported[name]
            rows[one.shard].append(
                {
                    **row,
                    "key": one.key,
                    "captioner": name,
                    "named": named,
                    "objects": ", ".join(sorted(named[name])),
                    "unsupported": ", ".join(thing for thing, share in shares.items() if share == 0),
                    "support": fmean(shares.values()) if shares else None,
                    "similarity": round(own[i][j], 6),
                    "similarity_of_next": _rounded(of_next[i][j]),
                }
            )
    with publish_folder(out) as staging:
        shards = []
        for shard in (shard for manifest in images for shard in manifest.shards):
            _write(staging / f"{shard.name}.parquet", rows[shard.name])
            file = describe_file(staging, f"{shard.name}.parquet")
            shards.append(Shard(shard.name, len(rows[shard.name]), {"table": file}, of=shard.files["tar"].sha256))
        write_manifest(staging, "quality", shards, root)
    return _summarise([row for of_shard in rows.values() for row in of_shard], list(captions))


def _choose(images: Sequence[Manifest], max_images: int) -> dict[str, set[str]]:
    """Keys of the images with the smallest hashes, by shard."""

    def every() -> Iterator[tuple[bytes, str, str]]:
        for manifest in images:
            for shard in manifest.shards:
                for row in read_table(manifest, shard, ("key", "status")):
                    if row["status"] == "success":
                        yield hashlib.sha256(f"quality/{row['key']}".encode()).digest(), shard.name, row["key"]

    chosen: dict[str, set[str]] = {}
    for _, shard, key in heapq.nsmallest(max_images, every()):
        chosen.setdefault(shard, set()).add(key)
    return chosen


@dataclass(frozen=True)
class _Chosen:
    """An image that has captions: its embedding, float [D], and their rows by captioner."""

    shard: str
    key: str
    picture: Tensor
    rows: dict[str, Row]


def _read_chosen(
    manifest: Manifest, captions: Mapping[str, Manifest], chosen: dict[str, set[str]], encoder: Encoder, max_pixels: int
) -> Iterator[_Chosen]:
    for shard in manifest.shards:
        keys = chosen.get(shard.name, set())
        if not keys:
            continue
        written = {name: _long_rows(folder, shard, keys) for name, folder in captions.items()}
        waiting: list[tuple[str, Image, dict[str, Row]]] = []
        with ShardReader(manifest.path(shard, "tar"), shard.files["tar"].sha256) as reader:
            wanted = [key for key in reader.keys if key in keys]
            for key in wanted:
                rows = {name: of_captioner[key] for name, of_captioner in written.items() if key in of_captioner}
                if rows and (picture := _open(reader, key, max_pixels)) is not None:
                    waiting.append((key, picture, rows))
                if waiting and (len(waiting) == CHUNK or key == wanted[-1]):
                    pictures = encoder.images([picture for _, picture, _ in waiting]).cpu()
                    for (done, _, rows), embedded in zip(waiting, pictures, strict=True):
                        yield _Chosen(shard.name, done, embedded, rows)
                    waiting = []


def _open(reader: ShardReader, key: str, max_pixels: int) -> "Image | None":
    try:
        return open_rgb(reader.image(key), max_pixels)
    except DataError:
        return None  # its captions failed, too, and are counted there


def _long_rows(captions: Manifest, images: Shard, keys: set[str]) -> dict[str, Row]:
    """Rows of long texts that did not fail, by key."""
    shard = captions.shard(images.name)
    if shard.of != images.files["tar"].sha256:
        raise DataError(
            f"{captions.folder}: the captions of {images.name} belong to other images than there are now: run "
            f"`dvc repro recaption@{captions.folder.name}`."
        )
    return {
        row["key"]: row
        for row in read_table(captions, shard, ROW_COLUMNS)
        if row["key"] in keys and row["kind"] == "long" and row["failure"] is None and row["text"]
    }


def _write(path: Path, rows: list[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    numbers = {"support", "similarity", "similarity_of_next"}
    schema = pa.schema([(name, pa.float64() if name in numbers else pa.string()) for name in COLUMNS])
    pq.write_table(pa.Table.from_pylist([{name: row[name] for name in COLUMNS} for row in rows], schema), path)


def _summarise(rows: list[Row], captioners: list[str]) -> dict[str, Any]:
    by_image = {id(row["named"]): row["named"] for row in rows}  # one mapping an image, shared by its rows
    pairs = {}
    for first, second in combinations(captioners, 2):
        both = [named for named in by_image.values() if first in named and second in named]
        overlaps = [overlap(named[first], named[second]) for named in both]
        pairs[f"{first}-{second}"] = _mean(overlaps, lambda value: value)
    return {
        "images": len(by_image),
        "captioners": {name: _of_captioner([row for row in rows if row["captioner"] == name]) for name in captioners},
        "agreement": pairs,
        "common_objects": _mean(
            [named for named in by_image.values() if len(named) > 2], lambda named: float(len(consensus(named)))
        ),
    }


def _of_captioner(rows: list[Row]) -> dict[str, Any]:
    """Of one captioner's texts.

    `tokens` (generated) and `sub_captions` a text; `reasons`, the share of texts that break each rule; `duplicates`,
    the share of texts equal to an earlier image's; `objects` a text; where others wrote, too: `unsupported`, the share
    of its objects that no other captioner names, and `coverage`, of the objects that most of three or more captioners
    name the share that it names; `similarity` with the own and with another image.
    """
    reasons = Counter(reason for row in rows for reason in (row["reasons"] or "").split(",") if reason)
    compared = [row for row in rows if len(row["named"]) > 1]
    objects = sum(len(row["named"][row["captioner"]]) for row in compared)
    unsupported = sum(len([thing for thing in row["unsupported"].split(", ") if thing]) for row in compared)
    common = [(consensus(row["named"]), row["named"][row["captioner"]]) for row in compared if len(row["named"]) > 2]
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


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
