"""Commands about the project: its settings, its state in MLflow, its results, its machine."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from lotlip.cli.app import app


@app.command()
def configure(
    overlays: Annotated[list[Path] | None, typer.Argument(help="Overlay files, e.g. conf/quick.yaml.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", help="section.key=value, e.g. train.epochs=2; repeatable.")
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Of an overlay's sources, sets, methods ... the entry of this name; repeatable."),
    ] = None,
) -> None:
    """Merge overlays and settings into params.yaml, checked before it is written. `git diff` shows the change."""
    from lotlip.overlays import apply_overlays
    from lotlip.params import PublishedEvalset, load_params

    if not overlays and not settings:
        raise typer.BadParameter("give an overlay file or --set section.key=value")
    apply_overlays(overlays or [], settings or [], only=only or [])
    params = load_params()
    name = params.validate_.baseline
    if name is not None and not Path(f"conf/baselines/{name}.json").is_file():
        print(f"warning: validate.baseline: conf/baselines/{name}.json is missing; null has none.", file=sys.stderr)
    for name, source in params.sources.items():
        if isinstance(source.path, Path) and not source.path.exists():
            print(f"warning: sources.{name}.path: {source.path} is missing; `dvc repro` needs it.", file=sys.stderr)
    for name, evalset in params.evalsets.items():
        if isinstance(evalset, PublishedEvalset) and not evalset.path.exists():
            print(f"warning: evalsets.{name}.path: {evalset.path} is missing; `dvc repro` needs it.", file=sys.stderr)
    print("params.yaml is written: `git diff params.yaml` shows the change, `dvc repro` runs it.")


@app.command()
def track(
    name: Annotated[str | None, typer.Option(help="What MLflow calls this state; default: its hash.")] = None,
) -> None:
    """Log the state of dvc.lock to MLflow: parameters, curves, metrics, tables, plots, models. Twice adds nothing."""
    from lotlip.tracking import track as track_state

    print(track_state(Path(), name))


@app.command()
def summary() -> None:
    """Print the table of compared models and where to look further."""
    from lotlip.evaluation.tables import print_comparison
    from lotlip.records import read_json

    print_comparison()
    for failure in read_json(Path("reports/validate/summary.json"))["failed"]:
        print(f"FAILED validation: {failure['suite']}: {failure['says']} is {failure['measured']}, {failure['limit']}")
    print("Report:             open reports/report/index.html")
    print("MLflow and Prefect: make ui")
    print("Any two states:     dvc exp show, dvc metrics diff, dvc plots diff")


@app.command()
def doctor() -> None:
    """Check versions, devices, disk, ports, servers, credentials and telemetry, and say what to do."""
    from rich.console import Console
    from rich.table import Table

    from lotlip.doctor import run_checks

    checks = run_checks()
    table = Table(box=None)
    for column in ("", "check", "found", "what to do"):
        table.add_column(column, overflow="fold")
    marks = {"ok": "[green]ok[/]", "warning": "[yellow]warning[/]", "failed": "[red]failed[/]"}
    for check in checks:
        table.add_row(marks[check.status], check.name, check.found, check.advice)
    Console().print(table)
    if any(check.status == "failed" for check in checks):
        raise typer.Exit(1)
