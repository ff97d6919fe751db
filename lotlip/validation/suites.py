"""The suites run by Great Expectations: checks and tables in, outcomes and GX's own results out.

Importing Great Expectations takes about ten seconds, so it happens when the first suite runs.
"""

import os
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from lotlip.validation.checks import Check

if TYPE_CHECKING:
    import pandas as pd

NUM_UNEXPECTED = 10  # unexpected values that a page of the Data Docs shows


@dataclass(frozen=True)
class Outcome:
    """One check against a table; `measured` is None where there was nothing to measure, which fails it."""

    check: Check
    passed: bool
    measured: float | None


@dataclass(frozen=True)
class SuiteResult:
    """The outcomes of a suite in order of its checks, and the result of Great Expectations behind them."""

    name: str
    num_rows: int
    outcomes: list[Outcome]
    gx_result: Any


def run_suite(name: str, table: "pd.DataFrame", checks: list[Check]) -> SuiteResult:
    """Check a table: one expectation of Great Expectations a check."""
    import great_expectations as gx
    import great_expectations.expectations as gxe

    expectations = [
        getattr(gxe, f"ExpectColumn{check.kind}")(column=check.column, meta={"check": i}, **check.limits)
        for i, check in enumerate(checks)
    ]
    columns = list(dict.fromkeys(check.column for check in checks))
    result = (
        _whole_table()
        .get_batch({"dataframe": table[columns]})
        .validate(
            gx.ExpectationSuite(name=name, expectations=expectations),
            result_format={"result_format": "SUMMARY", "partial_unexpected_count": NUM_UNEXPECTED},
        )
    )
    by_check = {one.expectation_config.meta["check"]: one for one in result.results}
    outcomes = [_outcome(check, by_check[i]) for i, check in enumerate(checks)]
    return SuiteResult(name, len(table), outcomes, result)


@cache
def _whole_table() -> Any:
    """A batch of a frame in a context that lives in memory: no files, no telemetry, no progress bars."""
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("tables").add_dataframe_asset("table")
    return asset.add_batch_definition_whole_dataframe("all")


def _outcome(check: Check, one: Any) -> Outcome:
    assert not one.exception_info.get("raised_exception"), f"{check}: {one.exception_info}"
    if "observed_value" in one.result:
        measured = one.result["observed_value"]
    else:
        measured = one.result["unexpected_percent"]
        measured = None if measured is None else measured / 100
    return Outcome(check, bool(one.success), None if measured is None else round(float(measured), 6))
