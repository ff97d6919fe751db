"""The worst offenders of each reason: a few rejected samples with thumbnails, for people to look at."""

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lotlip.data.images import open_rgb
from lotlip.data.manifest import Manifest
from lotlip.data.shards import ShardReader
from lotlip.errors import DataError
from lotlip.validation.tables import EXCERPT

if TYPE_CHECKING:
    import pandas as pd

NUM_SHOWN = 8  # a reason
MAX_TARS = 32  # opened for pictures: they may lie in S3
SIDE = 112  # pixels of a thumbnail's longer side, at most
_TEXTS = ("failure", "text", "raw", "caption")
# The column that says how bad a row is, and whether a small value is worse; other reasons keep the order of the table.
_SEVERITY = {
    "leak": ("twin_bits", True),
    "min_side": ("short_side", True),
    "max_aspect": ("aspect", False),
    "min_tokens": ("num_tokens", True),
    "max_tokens": ("num_tokens", False),
    "language": ("language_probability", True),
    "max_repeats": ("repeats", False),
}


@dataclass(frozen=True)
class Offender:
    """One rejected image, or the image of a rejected text, with what is wrong and an excerpt of the text.

    `picture` and `twin` (the evaluation image that it repeats) are data URIs, empty where there is none.
    """

    key: str
    shard: str
    detail: str
    text: str
    picture: str
    twin: str


@dataclass(frozen=True)
class Offence:
    """A reason of a subject ("image", "raw", a captioner), how many rows it rejects, and the worst of them."""

    subject: str
    reason: str
    count: int
    worst: list[Offender]


def worst_offenders(
    images: Sequence[Manifest],
    tables: Mapping[str, "pd.DataFrame"],
    reasons: Mapping[str, "pd.DataFrame"],
    max_pixels: int,
) -> list[Offence]:
    """For every reason that rejects a row the worst `NUM_SHOWN` rows, with thumbnails from the tars.

    Args:
        images: image folders, one a source.
        tables: "image", "raw", then the captioners.
        reasons: by the same names, boolean, rows of the table by reasons.
        max_pixels: a larger image gets no thumbnail.
    """
    chosen = [
        (subject, str(reason), int(column.sum()), _worst(tables[subject][column], str(reason)))
        for subject, of_subject in reasons.items()
        for reason, column in of_subject.items()
        if column.any()
    ]
    wanted = [(row["shard"], row["key"]) for _, _, _, rows in chosen for row in rows]
    pictures = _thumbnails(images, wanted, max_pixels)
    return [
        Offence(subject, reason, count, [_offender(row, reason, pictures, max_pixels) for row in rows])
        for subject, reason, count, rows in chosen
    ]


def _worst(rows: "pd.DataFrame", reason: str) -> list[dict[str, Any]]:
    if "width" in rows:
        sides = rows[["width", "height"]]
        short = sides.min(axis=1)
        rows = rows.assign(short_side=short, aspect=sides.max(axis=1) / short.clip(lower=1))
    column, ascending = _SEVERITY.get(reason.partition(":")[0], ("key", True))
    if column != "key":
        rows = rows.sort_values(column, ascending=ascending, kind="stable")
    return [{str(name): value for name, value in row.items()} for row in rows.head(NUM_SHOWN).to_dict("records")]


def _offender(row: dict[str, Any], reason: str, pictures: Mapping[tuple[str, str], str], max_pixels: int) -> Offender:
    is_leak = reason.startswith("leak:")
    return Offender(
        key=row["key"],
        shard=row["shard"],
        detail=_detail(row, reason),
        text=next((row[name] for name in _TEXTS if isinstance(row.get(name), str) and row[name]), "")[:EXCERPT],
        picture=pictures.get((row["shard"], row["key"]), ""),
        twin=_thumbnail(Path(row["twin"]).read_bytes(), max_pixels) if is_leak else "",
    )


def _detail(row: dict[str, Any], reason: str) -> str:
    if reason.startswith("leak:"):
        return f"{row['twin_bits']:g} bits from {Path(row['twin']).name[:12]}"
    if "width" in row:
        return f"{row['width']:g} × {row['height']:g}, {row['format']}"
    if reason == "language" and "language_probability" in row:
        return f"{row['language']}, allowed with p = {row['language_probability']:.2g}"
    if reason == "max_repeats":
        return f"of {row['repeats']:g} images"
    return "no text" if row["num_tokens"] != row["num_tokens"] else f"{row['num_tokens']:g} tokens"


def _thumbnails(
    images: Sequence[Manifest], wanted: Sequence[tuple[str, str]], max_pixels: int
) -> dict[tuple[str, str], str]:
    """Thumbnails of samples (shard, key), from the `MAX_TARS` shards that most of them lie in."""
    shards = {shard.name: (manifest, shard) for manifest in images for shard in manifest.shards}
    found = {}
    for name, _ in Counter(shard for shard, _ in wanted).most_common(MAX_TARS):
        manifest, shard = shards[name]
        with ShardReader(manifest.path(shard, "tar")) as reader:
            keys = {key for shard_name, key in wanted if shard_name == name}
            for key in sorted(keys & set(reader.keys)):
                found[name, key] = _thumbnail(reader.image(key), max_pixels)
    return found


def _thumbnail(data: bytes, max_pixels: int) -> str:
    """A JPEG as data URI, empty where the image cannot be decoded."""
    try:
        image = open_rgb(data, max_pixels)
    except DataError:
        return ""
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
