"""Joins: which of its texts every kept image still has."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd


def joins_table(tables: Mapping[str, "pd.DataFrame"], reasons: Mapping[str, "pd.DataFrame"]) -> "pd.DataFrame":
    """A row for every kept image: `shard, key`, `lacks` (captioners), and 0/1 columns.

    These are `without_raw`, `without_long` (no captioner's text is left) and `incomplete` (not every captioner's is).

    Args:
        tables: "image" with a boolean column `kept`, "raw", then the captioners.
        reasons: by the same names, boolean, rows of the table by reasons.
    """
    table = tables["image"].loc[tables["image"]["kept"], ["shard", "key"]].reset_index(drop=True)
    captioners = [name for name in tables if name not in ("image", "raw")]
    samples = list(zip(table["shard"], table["key"], strict=True))
    lacking: list[list[str]] = [[] for _ in samples]
    for name in ("raw", *captioners):
        left = tables[name][~reasons[name].any(axis=1)]
        with_text = set(zip(left["shard"], left["key"], strict=True))
        for sample, lacks in zip(samples, lacking, strict=True):
            lacks += [name] * (sample not in with_text)
    table["without_raw"] = [float("raw" in lacks) for lacks in lacking]
    long = [[name for name in lacks if name != "raw"] for lacks in lacking]
    table["without_long"] = [float(len(lacks) == len(captioners)) for lacks in long]
    table["incomplete"] = [float(bool(lacks)) for lacks in long]
    table["lacks"] = [", ".join(lacks) for lacks in long]
    return table
