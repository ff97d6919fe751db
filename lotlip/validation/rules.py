"""Row rules: which images and texts are rejected, and why. Each returns a boolean table, rows by reasons.

The thresholds are `validate` in params.yaml. A row may have several reasons.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lotlip.data.tables import CAPTION_REASONS
from lotlip.params import ImageRules, LongRules, RawRules

if TYPE_CHECKING:
    import pandas as pd


def image_reasons(
    table: "pd.DataFrame", rules: ImageRules, leaks: "pd.DataFrame", evalsets: Iterable[str] = ()
) -> "pd.DataFrame":
    """Reasons against the images of `image_table`; a row without an image has none.

    Of equal images the first is kept. `leaks` (of `find_leaks`) gives a reason for each evaluation set.
    """
    import pandas as pd

    success = table["status"] == "success"
    short = table[["width", "height"]].min(axis=1)
    aspect = table[["width", "height"]].max(axis=1) / short.clip(lower=1)
    return pd.DataFrame(
        {
            "min_side": success & (short < rules.min_side),
            "max_aspect": success & (aspect > rules.max_aspect),
            "format": success & ~table["format"].isin(rules.formats),
            "duplicate": success & (table["duplicate"] == 1),
            **{f"leak:{name}": table.index.isin(leaks.loc[leaks["set"] == name, "row"]) for name in evalsets},
        }
    )


def raw_reasons(table: "pd.DataFrame", rules: RawRules) -> "pd.DataFrame":
    """Reasons against the raw captions of `raw_table`; a missing caption has 0 tokens."""
    import pandas as pd

    foreign = pd.Series(False, table.index)
    if "language_probability" in table:
        foreign = table["language_probability"] < rules.min_language_probability

    return pd.DataFrame(
        {
            "min_tokens": table["num_tokens"] < rules.min_tokens,
            "max_tokens": table["num_tokens"] > rules.max_tokens,
            "html": (table["markup"] == 1) & (not rules.allow_markup),
            "language": foreign,
            "max_repeats": table["repeats"] > (rules.max_repeats or float("inf")),
        }
    )


def long_reasons(table: "pd.DataFrame", rules: LongRules) -> "pd.DataFrame":
    """Reasons against the long texts of `long_table`.

    Captioning has marked what breaks its own rules; a text that was cut at a sentence's end is not among it.
    """
    import pandas as pd

    missing = table["captioner"].isna()
    failure = ~missing & table["failure"].notna()
    return pd.DataFrame(
        {
            "missing": missing,
            "failure": failure,
            "empty": ~missing & ~failure & (table["empty"] == 1),
            "min_tokens": table["num_tokens"] < rules.min_tokens,
            "max_tokens": table["num_tokens"] > rules.max_tokens,
            **{rule: table[f"breaks_{rule}"] == 1 for rule in CAPTION_REASONS},
        }
    )
