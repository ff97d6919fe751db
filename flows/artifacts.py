"""What a stage reports, as artifacts on Prefect's pages."""

import json
import re
from pathlib import Path
from typing import Any

from prefect.artifacts import create_markdown_artifact, create_table_artifact

from flows.graph import Stage

COMPARISON = Path("reports/report/comparison.md")


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
