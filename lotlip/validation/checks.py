"""The expectations over each table as plain data: what is measured, its limit, the setting that holds it."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lotlip.data.tables import STATUSES
from lotlip.params import Validate
from lotlip.validation.tables import EXCERPT

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Check:
    """One expectation of Great Expectations.

    `says` names the measured number; `kind` is the class `ExpectColumn<kind>` of GX; `params`
    is the key in params.yaml that holds the limit, None where the data is damaged and no setting helps.
    """

    says: str
    kind: str
    column: str
    limits: dict[str, Any] = field(default_factory=dict)
    params: str | None = None

    @property
    def is_floor(self) -> bool:
        """Whether the limit is a least value."""
        return self.kind == "MeanToBeBetween" and "min_value" in self.limits

    @property
    def limit(self) -> float:
        """The limit in the measured number's unit: a mean, a count, or the share of rows that may break."""
        if self.kind in ("MeanToBeBetween", "MaxToBeBetween", "UniqueValueCountToBeBetween"):
            return float(self.limits["min_value" if self.is_floor else "max_value"])
        return round(1 - float(self.limits.get("mostly", 1.0)), 9)


def image_checks(rules: Validate) -> list[Check]:
    """Expectations over `image_table` with a 0/1 column `rejected`."""
    rejected = "validate.max_rejected_share"
    mostly = _mostly(rules)
    formats = {"value_set": list(rules.image.formats), "mostly": mostly}
    side = {"min_value": rules.image.min_side, "mostly": mostly}
    return [
        Check("share of rows without key", "ValuesToNotBeNull", "key"),
        Check("share of rows whose key repeats", "ValuesToBeUnique", "key"),
        Check("share of rows without url", "ValuesToNotBeNull", "url", {"mostly": mostly}, rejected),
        Check("share of rows without status", "ValuesToNotBeNull", "status"),
        Check("share of unknown statuses", "ValuesToBeInSet", "status", {"value_set": list(STATUSES)}),
        Check("share of images of other formats", "ValuesToBeInSet", "format", formats, rejected),
        Check("share of images narrower than min_side", "ValuesToBeBetween", "width", side, rejected),
        Check("share of images lower than min_side", "ValuesToBeBetween", "height", side, rejected),
        _ceiling("share of requested images that failed", "failed", rules, "image.max_failed_share"),
        _ceiling("share of fetched files that are no image", "undecodable", rules, "image.max_undecodable_share"),
        _ceiling("share of images with equal bytes", "duplicate", rules, "image.max_duplicate_share"),
        _ceiling("share of images that an evaluation set shows", "leak", rules, "leaks.max_share"),
        _ceiling("share of rejected images", "rejected", rules, "max_rejected_share"),
    ]


def raw_checks(rules: Validate) -> list[Check]:
    """Expectations over `raw_table` with a 0/1 column `rejected`."""
    key, mostly = "validate.max_rejected_share", _mostly(rules)
    tokens = {"min_value": rules.raw.min_tokens, "max_value": rules.raw.max_tokens, "mostly": mostly}
    outside = "share of raw captions with fewer or more tokens than allowed"
    checks = [
        Check("share of rows whose key repeats", "ValuesToBeUnique", "key"),
        Check("share of missing raw captions", "ValuesToNotBeNull", "caption", {"mostly": mostly}, key),
        Check(outside, "ValuesToBeBetween", "num_tokens", tokens, key),
        _ceiling("share of raw captions that repeat", "duplicate", rules, "raw.max_duplicate_share"),
        _ceiling("share of rejected raw captions", "rejected", rules, "max_rejected_share"),
    ]
    if not rules.raw.allow_markup:
        plain = {"value_set": [0.0], "mostly": mostly}
        checks.append(Check("share of raw captions with markup", "ValuesToBeInSet", "markup", plain, key))
    if rules.raw.languages is not None:
        likely = {"min_value": rules.raw.min_language_probability, "mostly": mostly}
        says = "share of raw captions in other languages"
        checks.append(Check(says, "ValuesToBeBetween", "language_probability", likely, key))
    if rules.raw.max_repeats is not None:
        few = {"max_value": rules.raw.max_repeats, "mostly": mostly}
        says = "share of raw captions of more images than allowed"
        checks.append(Check(says, "ValuesToBeBetween", "repeats", few, key))
    return checks


def long_checks(rules: Validate) -> list[Check]:
    """Expectations over the `long_table` of one captioner, with a 0/1 column `rejected`."""
    key, mostly = "validate.max_rejected_share", _mostly(rules)
    tokens = {"min_value": rules.long.min_tokens, "max_value": rules.long.max_tokens, "mostly": mostly}
    outside = "share of long texts with fewer or more tokens than allowed"
    one = {"max_value": 1}
    recall = {"min_value": rules.long.min_raw_word_recall}
    return [
        Check("share of kept images without a row", "ValuesToNotBeNull", "captioner"),
        Check("share of rows whose key repeats", "ValuesToBeUnique", "key"),
        Check("number of captioner identities", "UniqueValueCountToBeBetween", "captioner", one),
        Check(outside, "ValuesToBeBetween", "num_tokens", tokens, key),
        _ceiling("share of truncated long texts", "truncated", rules, "long.max_truncated_share"),
        _ceiling("share of long texts that repeat", "duplicate", rules, "long.max_duplicate_share"),
        Check(
            "mean raw-word recall",
            "MeanToBeBetween",
            "raw_word_recall",
            recall,
            "validate.long.min_raw_word_recall",
        ),
        _ceiling("share of rejected long texts", "rejected", rules, "max_rejected_share"),
    ]


def join_checks(rules: Validate) -> list[Check]:
    """Expectations over `joins_table`."""
    return [
        _ceiling("share of images without any good long text", "without_long", rules, "joins.max_without_long_share"),
        _ceiling("share of images without one of every captioner", "incomplete", rules, "joins.max_incomplete_share"),
    ]


def drift_checks(rules: Validate) -> list[Check]:
    """Expectations over `drift_table`."""
    largest = {"max_value": rules.max_drift}
    return [Check("largest drift from the baseline", "MaxToBeBetween", "distance", largest, "validate.max_drift")]


def is_applicable(check: Check, table: "pd.DataFrame") -> bool:
    """False where a mean has nothing to measure and its limit (floor 0, ceiling 1) allows everything."""
    allows_all = check.kind == "MeanToBeBetween" and check.limit == (0.0 if check.is_floor else 1.0)
    return not allows_all or bool(table[check.column].notna().any())


def worst_rows(check: Check, table: "pd.DataFrame", number: int = 3) -> list[str]:
    """The first (for means: the worst) rows that break a check, as `key of shard: column value, words`."""
    rows = _breaking(check, table, table[check.column]).head(number)
    return [_describe(row, check.column) for row in rows.to_dict("records")]


def _breaking(check: Check, table: "pd.DataFrame", values: "pd.Series[Any]") -> "pd.DataFrame":
    if check.kind == "MeanToBeBetween":
        ordered = values.dropna().sort_values(ascending=check.is_floor, kind="stable")
        return table.loc[ordered.index if check.is_floor else ordered.index[ordered > 0]]
    if check.kind == "MaxToBeBetween":
        return table.loc[values[values > check.limit].sort_values(ascending=False, kind="stable").index]
    if check.kind == "ValuesToNotBeNull":
        return table[values.isna()]
    if check.kind == "ValuesToBeUnique":
        return table[values.duplicated(keep=False)]
    if check.kind == "ValuesToBeInSet":
        return table[~values.isin(check.limits["value_set"])]
    if check.kind == "UniqueValueCountToBeBetween":
        return table[~values.duplicated() & values.notna()]
    low, high = check.limits.get("min_value", float("-inf")), check.limits.get("max_value", float("inf"))
    return table[values.notna() & ~values.between(low, high)]


def _describe(row: dict[Any, Any], column: str) -> str:
    # repr: the words come from the web and go to a terminal.
    said = [
        f", {name} {row[name][:EXCERPT]!r}"
        for name in ("error", "failure", "twin", "lacks", "raw", "text")
        if name != column and isinstance(row.get(name), str) and row[name]
    ]
    value = row[column]
    shown = f"{value:g}" if isinstance(value, float) else repr(value)
    shown = "missing" if shown in ("nan", "None") else shown
    return f"{str(row['key'])!r} of {row['shard']}: {column} {shown}" + "".join(said)


def _ceiling(says: str, column: str, rules: Validate, key: str) -> Check:
    value: Any = rules
    for part in key.split("."):
        value = getattr(value, part)
    return Check(says, "MeanToBeBetween", column, {"max_value": value}, f"validate.{key}")


def _mostly(rules: Validate) -> float:
    return round(1 - rules.max_rejected_share, 9)
