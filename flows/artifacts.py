"""What a stage reports, as artifacts on Prefect's pages."""

import json
import re
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.graph import Stage
from lotlip.validation.summary import FUNNEL

COMPARISON = Path("reports/report/comparison.md")
VALIDATE = "validate"


def stage_artifacts(stage: Stage) -> None:
    """What a stage's reports say."""
    metrics_artifact(stage)
    if stage.name == VALIDATE:
        for path in stage.metrics:
            validation_artifact(path)


def validation_artifact(path: Path, since: float = 0.0) -> None:
    """Verdict, failed expectations, losses, leaks and drift of a validation's summary.

    Args:
        path: `summary.json`; without it there is no artifact.
        since: nor is there for a file written before this time, in seconds since 1970.
    """
    if path.is_file() and path.stat().st_mtime >= since:
        text = validation_markdown(json.loads(path.read_text()))
        create_markdown_artifact(text, key="validation", description="What validation says of images and texts")


def validation_markdown(summary: dict[str, Any]) -> str:
    """`reports/validate/summary.json` for people."""
    counts, images, drift = summary["expectations"], summary["images"], summary["drift"]
    lines = [f"**{counts['passed']} of {counts['evaluated']} expectations passed.**", ""]
    for one in summary["failed"]:
        value = "unknown" if one["measured"] is None else f"{one['measured']:.4g}"
        lines.append(
            f"- {one['suite']}: {one['says']} is {value}, {one['limit']} (`{one['params'] or 'damaged data'}`)"
        )
    lines += ["", "| images | |", "|---|---:|"]
    lines += [f"| {label} | {summary['funnel'][step]:,} |" for step, label in FUNNEL.items()]
    lines += [f"| rejected: shown by evaluation set {name} | {count:,} |" for name, count in images["leaks"].items()]
    if drift is not None:
        lines += ["", "| drift from the baseline | 0 to 1 |", "|---|---:|"]
        lines += [f"| {measure} | {distance:.3f} |" for measure, distance in drift["distances"].items()]
        lines += [f"| {measure} | {note} |" for measure, note in drift["unmatched"].items()]
    return "\n".join([*lines, "", "Pictures: reports/validate/docs/summary.html"]) + "\n"


def metrics_artifact(stage: Stage) -> None:
    """A table of the numbers and short texts in a stage's metrics files, if it has any."""
    reports = [json.loads(path.read_text()) for path in stage.metrics if path.is_file()]
    rows = [row for report in reports for row in metric_rows(report)]
    if rows:
        create_table_artifact(rows, key=artifact_key(stage.name), description=f"Metrics of `{stage.name}`")


def comparison_artifact(root: Path) -> bool:
    """The report's comparison table; False when there is no report."""
    path = root / COMPARISON
    if not path.is_file():
        return False
    create_markdown_artifact(path.read_text(), key="comparison", description="The compared models")
    return True


def metric_rows(report: Any, prefix: str = "") -> list[dict[str, Any]]:
    """`{"long": {"i2t_r1": 47}}` as `[{"metric": "long/i2t_r1", "value": 47}]`; lists are left out."""
    if isinstance(report, dict):
        start = f"{prefix}/" if prefix else ""
        return [row for name, item in report.items() for row in metric_rows(item, f"{start}{name}")]
    if isinstance(report, int | float | str):
        return [{"metric": prefix, "value": round(report, 4) if isinstance(report, float) else report}]
    return []


def artifact_key(stage: str) -> str:
    """Prefect's artifact keys hold lower-case letters, digits and dashes only."""
    return "metrics-" + re.sub(r"[^a-z0-9]+", "-", stage.lower()).strip("-")
