"""Statistics of texts, ours and the published ones: images, texts, sub-captions and tokens a text."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PUBLISHED_STATISTICS = Path(__file__).parent / "published" / "dataset_statistics.csv"


@dataclass(frozen=True)
class TextStatistics:
    """A row of the table: texts of what, and whose numbers."""

    source: str
    texts_of: str
    images: int
    texts: int
    sub_captions: float
    tokens: float


def measured_statistics(quality: Mapping[str, Any], evalset: Mapping[str, Mapping[str, Any]]) -> list[TextStatistics]:
    """Raw captions, each captioner's long texts, and each evaluation set that has texts.

    Args:
        quality: the report `reports/quality/summary.json`.
        evalset: the reports `reports/evalset/<set>.json` by set.
    """
    rows = []
    for name, one in quality["statistics"].items():
        what = "raw captions" if name == "raw" else f"long texts by {name}"
        counts = (one["images"], one["texts"], one["sub_captions_per_text"], one["tokens_per_text"])
        rows.append(TextStatistics("here", what, *counts))
    for name, one in evalset.items():
        if one.get("num_texts"):
            counts = (one["num_images"], one["num_texts"], one["sub_captions_per_text"], one["tokens_per_text"])
            rows.append(TextStatistics("here", f"evaluation set {name}", *counts))
    return rows


def published_statistics() -> list[TextStatistics]:
    """The poster's table of data sets."""
    with PUBLISHED_STATISTICS.open(newline="") as file:
        return [
            TextStatistics(
                row["source"],
                f"{row['dataset']} ({row['role']})",
                int(row["images"]),
                int(row["texts"]),
                float(row["sub_captions_per_text"]),
                float(row["tokens_per_text"]),
            )
            for row in csv.DictReader(file)
        ]
