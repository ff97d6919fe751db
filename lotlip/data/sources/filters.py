"""Filters on columns of a table: what is left out before anything is fetched, and why."""

import math
from collections.abc import Iterable

from lotlip.data.tables import FILTERED
from lotlip.params import Column, ColumnFilter


def left_out(filters: Iterable[tuple[Column, ColumnFilter]], cells: Iterable[bytes | None]) -> str | None:
    """Why a row is left out, `filtered: <column>: <reason>`, by the first filter that does; None if it stays.

    Args:
        filters: in the order of `cells`.
        cells: the row's values, None where there is none.
    """
    for (column, rule), cell in zip(filters, cells, strict=True):
        text = (cell or b"").decode("utf-8", "backslashreplace").strip()
        if reason := _breaks(rule, text):
            return f"{FILTERED}{column}: {reason}"
    return None


def _breaks(rule: ColumnFilter, text: str) -> str | None:
    number = _number(text)
    wants_number = rule.min is not None or rule.max is not None
    if not text or text.lower() == "nan" or (wants_number and number is None):
        return "missing" if rule.missing == "reject" else None
    shown = text if len(text) <= 40 else f"{text[:37]}..."
    if number is not None and rule.min is not None and number < rule.min:
        return f"{shown} is below {rule.min:g}"
    if number is not None and rule.max is not None and number > rule.max:
        return f"{shown} is above {rule.max:g}"
    if rule.in_ is not None and text not in rule.in_:
        return f"{shown} is not wanted"
    if rule.not_in is not None and text in rule.not_in:
        return f"{shown} is not wanted"
    return None


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return None if math.isnan(number) else number
