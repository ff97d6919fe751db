"""The numbers of a validation (reports/validate/summary.json) and the error that a passed limit raises."""

from typing import TYPE_CHECKING, Any, Literal

from lotlip.errors import CeilingError, DataError
from lotlip.validation.checks import Check, worst_rows
from lotlip.validation.suites import SuiteResult

if TYPE_CHECKING:
    import pandas as pd

Frames = dict[str, "pd.DataFrame"]
FUNNEL = {  # the steps of `summary["funnel"]` in words
    "requested": "requested",
    "fetched": "fetched",
    "decoded": "decoded",
    "kept": "kept",
    "with_raw": "with a good raw caption",
    "with_long": "with a good long text",
    "with_every_long": "with one of every captioner",
}


def summarise(tables: Frames, reasons: Frames, wholes: Frames, results: list[SuiteResult]) -> dict[str, Any]:
    """Counts, shares and means by subject, and the failed expectations with their worst rows.

    Shares and means are rounded to 6 digits, and None where there is nothing to measure.

    Args:
        tables: by subject: "image", "raw", then the captioners.
        reasons: by subject, boolean, rows of the table by reasons.
        wholes: "joins" and, with a baseline, "drift".
        results: the suites' results, named as the tables.
    """
    every = tables | wholes
    failed = [
        _failure(result.name, outcome.check, outcome.measured, every[result.name])
        for result in results
        for outcome in result.outcomes
        if not outcome.passed
    ]
    evaluated = sum(len(result.outcomes) for result in results)
    return {
        "funnel": _funnel(tables["image"], wholes["joins"]),
        "images": _images(tables["image"], reasons["image"]),
        "raw": _texts(tables["raw"], reasons["raw"]),
        "long": {name: _texts(tables[name], reasons[name]) for name in tables if name not in ("image", "raw")},
        "joins": {name: _mean(wholes["joins"][name]) for name in ("without_raw", "without_long", "incomplete")},
        "drift": _drift(wholes["drift"]) if "drift" in wholes else None,
        "expectations": {"evaluated": evaluated, "passed": evaluated - len(failed), "failed": len(failed)},
        "failed": failed,
    }


def check_summary(summary: dict[str, Any], on_breach: Literal["fail", "report"]) -> None:
    """Raise when an expectation failed; the message lists each: number, limit, setting, worst rows.

    With `report`, passed limits are printed and the workflow goes on; damaged tables stop it all the same.

    Raises:
        CeilingError: limits of params.yaml are passed.
        DataError: the tables are damaged, which no setting mends.
    """
    failed = summary["failed"]
    if not failed:
        return
    lines = [f"validation failed {len(failed)} of {summary['expectations']['evaluated']} expectations:"]
    for one in failed:
        lines.append(f"- {one['suite']}: {one['says']} is {_number(one['measured'])}, {one['limit']}")
        lines.append(f"  {_remedy(one)}")
        lines += [f"    {row}" for row in one["worst"]]
    lines.append(
        "What was rejected is in data/quarantine; open reports/validate/docs/summary.html to see more. "
        "`validate.on_breach: report` goes on all the same and shows this in every report."
    )
    is_damaged = any(one["params"] is None for one in failed)
    if on_breach == "report" and not is_damaged:
        print("warning: " + "\n".join(lines), flush=True)
        return
    raise (DataError if is_damaged else CeilingError)("\n".join(lines))


def _funnel(images: "pd.DataFrame", joins: "pd.DataFrame") -> dict[str, int]:
    """What is left at each step on the way from a requested image to one with all its texts."""
    statuses = images["status"].value_counts()
    decoded = int(statuses.get("success", 0))
    return {
        "requested": len(images),
        "fetched": decoded + int(statuses.get("failed_to_decode", 0)),
        "decoded": decoded,
        "kept": len(joins),
        "with_raw": int((joins["without_raw"] == 0).sum()),
        "with_long": int((joins["without_long"] == 0).sum()),
        "with_every_long": int((joins["incomplete"] == 0).sum()),
    }


def _drift(table: "pd.DataFrame") -> dict[str, Any]:
    """Distances by measure, and the measures that only one side has."""
    known = table[table["distance"].notna()]
    return {
        "distances": {row["key"]: round(row["distance"], 6) for row in known.to_dict("records")},
        "unmatched": {row["key"]: row["note"] for row in table.to_dict("records") if row["note"]},
    }


def _counts(values: "pd.Series[str]") -> dict[str, int]:
    return {str(name): int(count) for name, count in values.value_counts().sort_index().items()}


def _images(table: "pd.DataFrame", reasons: "pd.DataFrame") -> dict[str, Any]:
    num_images = int((table["status"] == "success").sum())
    return {
        "requested": len(table),
        "failed": len(table) - num_images,
        "failed_share": _mean(table["failed"]),
        **_verdicts(reasons, num_images),
        "duplicate_share": _mean(table["duplicate"]),
        "undecodable_share": _mean(table["undecodable"]),
        "statuses": _counts(table["status"]),
        "formats": _counts(table["format"]),
        "leak_share": _mean(table["leak"]),
        "leaks": {
            name.removeprefix("leak:"): int(reasons[name].sum())
            for name in map(str, reasons.columns)
            if name.startswith("leak:")
        },
        "without_phash": int(table.loc[table["status"] == "success", "phash"].isna().sum()),
    }


def _texts(table: "pd.DataFrame", reasons: "pd.DataFrame") -> dict[str, Any]:
    numbers = {
        **_verdicts(reasons, len(table)),
        "duplicate_share": _mean(table["duplicate"]),
        "mean_tokens": _mean(table["num_tokens"]),
    }
    if "markup" in table:
        numbers["markup_share"] = _mean(table["markup"])
    if "language" in table:
        numbers["languages"] = _counts(table["language"])
    if "truncated" in table:
        numbers["truncated_share"] = _mean(table["truncated"])
        numbers["raw_word_recall"] = _mean(table["raw_word_recall"])
    return numbers


def _verdicts(reasons: "pd.DataFrame", total: int) -> dict[str, Any]:
    rejected = int(reasons.any(axis=1).sum())
    by_reason = {str(name): int(count) for name, count in reasons.sum().items()}
    share = round(rejected / total, 6) if total else None
    return {"kept": total - rejected, "rejected": rejected, "rejected_share": share, "rejected_by": by_reason}


def _failure(suite: str, check: Check, measured: float | None, table: "pd.DataFrame") -> dict[str, Any]:
    return {
        "suite": suite,
        "column": check.column,
        "says": check.says,
        "measured": measured,
        "limit": f"{'at least' if check.is_floor else 'at most'} {_number(check.limit)} is allowed",
        "params": check.params,
        "worst": worst_rows(check, table),
    }


def _remedy(one: dict[str, Any]) -> str:
    if one["params"] is None:
        return "The data is damaged: run the stage that wrote it again. Rows:"
    return f"Mend the data or change {one['params']} in params.yaml. Worst rows:"


def _number(value: float | None) -> str:
    return "unknown (nothing to measure)" if value is None else f"{value:.4g}"


def _mean(values: "pd.Series[Any]") -> float | None:
    mean = float(values.mean())
    return None if mean != mean else round(mean, 6)
