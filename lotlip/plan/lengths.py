"""How long the texts of training will be: from data that are here, else from published statistics."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lotlip.data.loading.join import join_shards
from lotlip.data.loading.samples import TextRecipe, draw_texts
from lotlip.data.manifest import Manifest, read_manifest
from lotlip.errors import LotlipError
from lotlip.evaluation.text_statistics import PUBLISHED_STATISTICS
from lotlip.params import Method, Params, Train, UrlTableSource
from lotlip.text.tokenizer import LotlipTokenizer

_NAMES = {"cc3m": "CC3M", "cc12m": "CC12M", "yfcc15m": "YFCC15M", "laion": "LAION47M", "coyo": "COYO24M"}
_MAX_SAMPLES = 2000  # of each source


@dataclass(frozen=True)
class TextLengths:
    """Ids of texts as training sees them, special tokens and corners included: of some short ones, and of long ones
    (K times as many); and where they are from, in words."""

    short: NDArray[np.int64]
    long: NDArray[np.int64]
    origin: str


def given_lengths(raw_tokens: float, long_tokens: float, settings: Train, method: Method, origin: str) -> TextLengths:
    """Texts of so many tokens each, cut at the limit."""
    extra = 2 + method.corner_tokens

    def ids(tokens: float, count: int) -> NDArray[np.int64]:
        return np.full(count, min(settings.token_limit, round(tokens) + extra), dtype=np.int64)

    return TextLengths(ids(raw_tokens, 1), ids(long_tokens, method.num_long), origin)


def find_lengths(params: Params, name: str, data: Path) -> TextLengths:
    """Lengths of a method's texts: drawn as in training from the first shard of each source below `data`, if images,
    captions and tokenizer are there; else of the mean published text."""
    settings, method = params.train_settings(name), params.methods[name]
    try:
        return _from_data(params, name, settings, method, data)
    except LotlipError:
        raw, sub_caption, text = _published_tokens(params)
        long = text if method.long_text == "whole" else min(text, settings.run_length * sub_caption)
        short = {"raw": raw, "raw_or_rewrite": (raw + sub_caption) / 2, "first_sentence": sub_caption}
        return given_lengths(short[method.short_text], long, settings, method, "published means of BERT's tokens")


def count_pairs(params: Params, data: Path) -> tuple[int, str] | None:
    """Samples to train on, held-out ones left out, and where the number is from; None where nothing says it."""
    counts, origins = 0.0, set()
    published = {row["dataset"]: int(row["images"]) for row in _published()}
    for name, source in params.sources.items():
        try:
            num, origin = read_manifest(data / "images" / name, "images").num_samples, "data/images"
        except LotlipError:
            known = _dataset(params, name)
            if known is None:
                return None
            num, origin = published[known], "published counts"
        counts += num * (1 - source.held_out_share)
        origins.add(origin)
    return int(counts), " and ".join(sorted(origins))


def _from_data(params: Params, name: str, settings: Train, method: Method, data: Path) -> TextLengths:
    images = [_first_shard(read_manifest(data / "images" / source, "images")) for source in params.sources]
    shards = {shard.name for manifest in images for shard in manifest.shards}
    written = {c: read_manifest(data / "captions" / c, "captions") for c in params.captioners_of(name)}
    captions = {
        captioner: Manifest(found.folder, "captions", tuple(shard for shard in found.shards if shard.name in shards))
        for captioner, found in written.items()
    }
    samples = list(islice(chain.from_iterable(join_shards(images, captions)), _MAX_SAMPLES * len(images)))
    tokenizer = LotlipTokenizer.load(
        settings.tokenizer,
        revision=settings.tokenizer_revision,
        num_corner_tokens=method.corner_tokens,
        token_limit=settings.token_limit,
    )
    recipe = TextRecipe(method.short_text, method.num_long, method.long_text, settings.run_length)
    texts = [draw_texts(sample, recipe, settings.seed, 0) for sample in samples]

    def ids(some: Sequence[str]) -> NDArray[np.int64]:
        return np.array([len(row) for row in tokenizer.encode(some).ids], dtype=np.int64)

    origin = f"{len(texts):,} samples of data/"
    return TextLengths(ids([own[0] for own in texts]), ids([text for own in texts for text in own[1:]]), origin)


def _first_shard(manifest: Manifest) -> Manifest:
    return Manifest(manifest.folder, "images", manifest.shards[:1])


def _published_tokens(params: Params) -> tuple[float, float, float]:
    """Mean tokens of a raw caption of the sources (of all published ones, if one of these is not), of a sub-caption,
    and of a whole long text."""
    rows = _published()
    raw = [row for row in rows if row["role"] == "training short"]
    named = {_dataset(params, name) for name in params.sources}
    if None not in named:
        raw = [row for row in raw if row["dataset"] in named]
    images = sum(int(row["images"]) for row in raw)
    tokens = sum(int(row["images"]) * float(row["tokens_per_text"]) for row in raw)
    (long,) = (row for row in rows if row["role"] == "training long")
    whole = float(long["tokens_per_text"])
    return tokens / images, whole / float(long["sub_captions_per_text"]), whole


def _published() -> list[dict[str, str]]:
    with PUBLISHED_STATISTICS.open(newline="") as file:
        return list(csv.DictReader(file))


def _dataset(params: Params, source: str) -> str | None:
    """The published dataset that a source is, by its layout."""
    settings = params.sources[source]
    return _NAMES.get(settings.layout or "") if isinstance(settings, UrlTableSource) else None
