"""Row rules: which images and texts are rejected, and why. Each returns a boolean table, rows by reasons.

The thresholds are `validate` in params.yaml. A row may have several reasons.
"""

from typing import TYPE_CHECKING

from lotlip.data.tables import CAPTION_REASONS
from lotlip.params import ImageRules, LongRules, RawRules

if TYPE_CHECKING:
    import pandas as pd


def image_reasons(table: "pd.DataFrame", rules: ImageRules) -> "pd.DataFrame":
    """Reasons against the images of `image_table`; a row without an image has none.

    Of equal images the first is kept.
    """
    import pandas as pd

    success = table["status"] == "success"
    short = table[["width", "height"]].min(axis=1)
    aspect = table[["width", "height"]].max(axis=1) / short.clip(lower=1)
    return pd.DataFrame(
        {
            "min_side": success & (short < rules.min_side),
            "max_aspect": success & (aspect > rules.max_aspect),
            "duplicate": success & (table["duplicate"] == 1),
        }
    )


def raw_reasons(table: "pd.DataFrame", rules: RawRules) -> "pd.DataFrame":
    """Reasons against the raw captions of `raw_table`; a missing caption has 0 tokens."""
    import pandas as pd

    return pd.DataFrame(
        {
            "min_tokens": table["num_tokens"] < rules.min_tokens,
            "max_tokens": table["num_tokens"] > rules.max_tokens,
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
