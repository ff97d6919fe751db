"""Samples for training: images joined with their texts, and draws that depend on nothing but their seeds."""

import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lotlip.data.manifest import Manifest, Shard
from lotlip.data.tables import read_table
from lotlip.errors import DataError
from lotlip.text.subcaptions import join_sub_captions, split_sub_captions

COUNTS = (
    "images",
    "held_out",
    "held_out_twins",
    "rejected_image",
    "rejected_raw",
    "rejected_long",
    "failed_long",
    "long_texts",
    "without_long",
    "samples",
)


@dataclass(frozen=True, slots=True)
class Sample:
    """An image and its texts: where it lies, its raw caption, and the captioners' long texts."""

    shard: str
    key: str
    raw: str
    long: tuple[str, ...]


def is_held_out(key: str, share: float) -> bool:
    """Whether a sample belongs to the held-out `share` in [0, 1] of its source.

    It depends on the key alone, and whoever is held out at one share is so at every larger one.
    """
    return _uniform(f"held out/{key}") < share


def source_of(shard: str) -> str:
    """The source that a shard's name begins with."""
    return shard.rpartition("-")[0]


def join_samples(
    images: Sequence[Manifest],
    captions: Mapping[str, Manifest],
    quarantine: Manifest | None = None,
    held_out: Mapping[str, float] | None = None,
) -> tuple[list[Sample], dict[str, int]]:
    """Join images with their captions, leaving out what is held out or rejected, and count it all.

    Args:
        images: image datasets, in the order wanted.
        captions: of each captioner; every image shard must have its sidecar.
        quarantine: what validation rejected: an image or raw caption takes the sample out, a captioner's text
            only that text.
        held_out: share of each source that is kept for evaluation; images with the same bytes as one of these
            are left out too (`held_out_twins`).

    Returns:
        The samples in the order of the shards, and the counts named in `COUNTS`, where
        `images = samples + held_out + held_out_twins + rejected_image + rejected_raw`. `without_long` samples
        have no long text left.

    Raises:
        DataError: a sidecar is missing or belongs to other images, or a table is damaged.
    """
    counts: Counter[str] = Counter()
    shares = held_out or {}
    tables = [(shard, _successes(manifest, shard)) for manifest in images for shard in manifest.shards]
    kept_back = {
        row["sha256"]
        for shard, rows in tables
        for row in rows
        if is_held_out(row["key"], shares.get(source_of(shard.name), 0.0))
    }
    samples: list[Sample] = []
    for shard, rows in tables:
        rejected = _rejections(quarantine, shard)
        long = {name: _long_texts(manifest, shard) for name, manifest in captions.items()}
        share = shares.get(source_of(shard.name), 0.0)
        for row in rows:
            counts["images"] += 1
            if reason := _exclusion(row, share, kept_back, rejected):
                counts[reason] += 1
                continue
            texts = _pool(row["key"], long, rejected, counts)
            counts["without_long"] += not texts
            samples.append(Sample(shard.name, row["key"], row["caption"] or "", texts))
    counts["samples"] = len(samples)
    return samples, {name: counts[name] for name in COUNTS}


def draw_texts(sample: Sample, num_long: int, run_length: int, seed: int, epoch: int) -> tuple[str, ...]:
    """The texts of a sample in an epoch: its raw caption, then `num_long` runs of consecutive sub-captions.

    Each run has `run_length` sub-captions, or all of a shorter text. The captioners' texts take turns in a
    random order, so that several runs come from different texts as far as there are. Without any long text
    the raw caption stands in (`without_long` of `join_samples` counts these samples).

    Returns:
        1 + `num_long` texts, equal for equal sample key, seed and epoch.
    """
    if num_long == 0:
        return (sample.raw,)
    rng = random.Random(f"texts/{seed}/{epoch}/{sample.shard}/{sample.key}")
    pool = [pieces for text in sample.long if (pieces := split_sub_captions(text))]
    if not pool:
        return (sample.raw,) * (1 + num_long)
    rng.shuffle(pool)
    return (sample.raw, *(_draw_run(pool[i % len(pool)], run_length, rng) for i in range(num_long)))


def epoch_order(num_samples: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """A permutation of 0 to `num_samples` - 1, equal for equal arguments; int64 [num_samples]."""
    return np.random.default_rng([seed, epoch]).permutation(num_samples)


def _draw_run(pieces: list[str], run_length: int, rng: random.Random) -> str:
    start = rng.randrange(max(1, len(pieces) - run_length + 1))
    return join_sub_captions(pieces[start : start + run_length])


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
    key: str, long: dict[str, dict[str, str | None]], rejected: set[tuple[str, str]], counts: Counter[str]
) -> tuple[str, ...]:
    texts = []
    for name, of_captioner in long.items():
        text = of_captioner.get(key)
        if text is None:
            counts["failed_long"] += 1
        elif (key, name) in rejected:
            counts["rejected_long"] += 1
        else:
            counts["long_texts"] += 1
            texts.append(text)
    return tuple(texts)


def _successes(manifest: Manifest, shard: Shard) -> list[dict[str, str]]:
    rows = read_table(manifest, shard, ("key", "status", "caption", "sha256"))
    return [row for row in rows if row["status"] == "success"]


def _long_texts(manifest: Manifest, images: Shard) -> dict[str, str | None]:
    rows = read_table(manifest, _sidecar(manifest, images), ("key", "kind", "text", "failure"))
    return {
        row["key"]: row["text"] if row["failure"] is None and (row["text"] or "").strip() else None
        for row in rows
        if row["kind"] == "long"
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


def _uniform(text: str) -> float:
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56
