"""Samples for training: an image's texts, and draws of them that depend on nothing but their seeds."""

import hashlib
import random
from dataclasses import dataclass
from typing import Literal

from lotlip.text.subcaptions import join_sub_captions, split_sub_captions


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


def _uniform(text: str) -> float:
    digest = hashlib.sha256(text.encode()).digest()
    return int.from_bytes(digest[:7], "big") / 2**56
