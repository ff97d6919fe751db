"""Samples for training: images joined with their texts, and draws that depend on nothing but their seeds."""

import hashlib
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

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
    "rewrites",
    "without_long",
    "samples",
)

Texts = dict[tuple[str, str], str | None]  # of a captioner, by key and kind; None where it failed


@dataclass(frozen=True, slots=True)
class Sample:
    """An image and its texts: where it lies, its raw caption, the captioners' long texts, rewrites of the raw one."""

    shard: str
    key: str
    raw: str
    long: tuple[str, ...]
    rewrites: tuple[str, ...] = ()


@dataclass(frozen=True)
class TextRecipe:
    """Which texts of a sample a step sees; the comments in params.yaml say what each value means."""

    short: Literal["raw", "raw_or_rewrite", "first_sentence"] = "raw"
    num_long: int = 0
    long: Literal["runs", "whole"] = "runs"
    run_length: int = 3


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
        have no long text left. A sample's rewrites are its texts of kind `rewrite`, or where it has none those of
        kind `short`.

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
        written = {name: _texts(manifest, shard) for name, manifest in captions.items()}
        share = shares.get(source_of(shard.name), 0.0)
        for row in rows:
            counts["images"] += 1
            if reason := _exclusion(row, share, kept_back, rejected):
                counts[reason] += 1
                continue
            texts = _pool(row["key"], written, rejected, counts)
            rewrites = _rewrites(row["key"], written)
            counts["without_long"] += not texts
            counts["rewrites"] += len(rewrites)
            samples.append(Sample(shard.name, row["key"], row["caption"] or "", texts, rewrites))
    counts["samples"] = len(samples)
    return samples, {name: counts[name] for name in COUNTS}


def draw_texts(sample: Sample, recipe: TextRecipe, seed: int, visit: int) -> tuple[str, ...]:
    """The texts of a sample at a visit: a short one, then `recipe.num_long` long ones.

    Visits count from 0; where each sample comes once an epoch, they are the epochs.

    Short: the raw caption; or, each as likely, the raw caption or one of its rewrites (without any: or the first
    sub-caption of a long text, which is ours); or the first sub-caption of a long text. Long: runs of `run_length`
    consecutive sub-captions, or of all of a shorter text; or whole texts. The captioners' texts take turns in a random
    order, so that several come from different texts as far as there are, and the first sentence is that of the first
    long one. Without any long text the raw caption stands in (`without_long` of `join_samples` counts these samples).

    Returns:
        1 + `num_long` texts, equal for equal sample key, recipe, seed and visit.
    """
    if recipe.short == "raw" and recipe.num_long == 0:
        return (sample.raw,)
    rng = random.Random(f"texts/{seed}/{visit}/{sample.shard}/{sample.key}")
    pool = [pieces for text in sample.long if (pieces := split_sub_captions(text))]
    rng.shuffle(pool)
    short = sample.raw
    if recipe.short == "raw_or_rewrite":
        short = rng.choice([sample.raw, *(sample.rewrites or [pieces[0] for pieces in pool])])
    elif recipe.short == "first_sentence" and pool:
        short = pool[0][0]
    if not pool:
        return (short, *([sample.raw] * recipe.num_long))
    return (short, *(_draw_long(pool[i % len(pool)], recipe, rng) for i in range(recipe.num_long)))


def _draw_long(pieces: list[str], recipe: TextRecipe, rng: random.Random) -> str:
    if recipe.long == "whole":
        return join_sub_captions(pieces)
    start = rng.randrange(max(1, len(pieces) - recipe.run_length + 1))
    return join_sub_captions(pieces[start : start + recipe.run_length])


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


def _successes(manifest: Manifest, shard: Shard) -> list[dict[str, str]]:
    rows = read_table(manifest, shard, ("key", "status", "caption", "sha256"))
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


def _uniform(text: str) -> float:
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56
