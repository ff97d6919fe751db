"""Drift: how far the data has moved from a baseline that was written down before.

A baseline holds, for each measure, how often each value occurs. The drift of a number is the Kolmogorov-Smirnov
distance (the largest difference of the two shares below any value), that of a name the total variation distance (half
the sum of all differences of shares). Both are shares of samples: 0 for equal distributions, 1 for disjoint ones.
"""

from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING

from lotlip.errors import DataError
from lotlip.records import read_json, write_json

if TYPE_CHECKING:
    import pandas as pd

BASELINES = Path("conf/baselines")
FORMAT = "lotlip-baseline-1"
NAMES = ("status", "format")  # measures that are names; all others are numbers
Histogram = dict[str, int]


def histograms(tables: Mapping[str, "pd.DataFrame"]) -> dict[str, Histogram]:
    """How often each value of each measure occurs.

    Args:
        tables: of `judge_rows`: "image", "raw", then the captioners.

    Returns:
        By measure: `status` of requested images; `format`, `width`, `height` and `aspect` (longer side / shorter side,
        to two digits) of images; `raw_tokens`; `long_tokens_<captioner>`.
    """
    images = tables["image"][tables["image"]["status"] == "success"]
    sides = images[["width", "height"]]
    values = {
        "status": tables["image"]["status"],
        "format": images["format"],
        "width": images["width"],
        "height": images["height"],
        "aspect": (sides.max(axis=1) / sides.min(axis=1).clip(lower=1)).round(2),
        "raw_tokens": tables["raw"]["num_tokens"],
    }
    values |= {f"long_tokens_{name}": tables[name]["num_tokens"] for name in tables if name not in ("image", "raw")}
    return {name: _histogram(name, column) for name, column in values.items()}


def write_baseline(path: Path, tables: Mapping[str, "pd.DataFrame"]) -> None:
    """Write the histograms of the tables as a baseline."""
    write_json(path, {"format": FORMAT, "histograms": histograms(tables)})


def read_baseline(path: Path) -> dict[str, Histogram]:
    """Read what `write_baseline` wrote.

    Raises:
        DataError: the file is missing or no baseline.
    """
    if not path.is_file():
        raise DataError(
            f"{path} is missing: `lotlip baseline {path.stem}` writes it; validate.baseline: null has none."
        )
    record = read_json(path)
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise DataError(f"{path} is no baseline of format {FORMAT}: `lotlip baseline {path.stem}` writes one.")
    found: dict[str, Histogram] = record["histograms"]
    return found


def drift_table(tables: Mapping[str, "pd.DataFrame"], name: str, baseline: dict[str, Histogram]) -> "pd.DataFrame":
    """The drift of each measure: `key` (its name), `shard` (which baseline), `distance`.

    The distance is NaN for a measure that only the data or only the baseline has, and `note` says which.
    """
    import pandas as pd

    now = histograms(tables)
    rows = []
    for measure in dict.fromkeys([*now, *baseline]):
        here, there = now.get(measure), baseline.get(measure)
        distance = drift(measure, here, there) if here and there else None
        note = "" if distance is not None else "not in the data" if there else "not in the baseline"
        rows.append({"key": measure, "shard": f"baseline {name}", "distance": distance, "note": note})
    return pd.DataFrame(rows).astype({"distance": float})


def drift(measure: str, one: Histogram, other: Histogram) -> float:
    """Distance of two distributions, 0 to 1; both must have counts.

    Kolmogorov-Smirnov for a number, total variation for a measure of `NAMES`.
    """
    values = sorted({*one, *other}, key=str if measure in NAMES else float)
    ones, others = sum(one.values()), sum(other.values())
    differences = [one.get(value, 0) / ones - other.get(value, 0) / others for value in values]
    if measure in NAMES:
        return sum(map(abs, differences)) / 2
    return max(map(abs, accumulate(differences)))


def _histogram(measure: str, values: "pd.Series[float] | pd.Series[str]") -> Histogram:
    counts = values.dropna().value_counts().sort_index()
    shown = (str(value) if measure in NAMES else f"{value:.10g}" for value in counts.index)
    return {value: int(count) for value, count in zip(shown, counts, strict=True)}
