"""Commands about results: the poster's tables."""

from pathlib import Path
from typing import Annotated

import typer

from lotlip.cli.app import app


@app.command()
def table(
    names: Annotated[
        list[str],
        typer.Argument(metavar="NAME...", help="Tables of ablations.yaml, dataset_statistics, or all."),
    ],
    out: Annotated[Path, typer.Option(help="Folder that holds runs.jsonl and takes the pages.")] = Path("docs/results"),
    ablations: Annotated[Path, typer.Option(help="Which methods stand in which table.")] = Path("ablations.yaml"),
) -> None:
    """Write tables of the poster from the runs there are: page and figure, published numbers beside ours."""
    from lotlip.evaluation.poster.write import write_tables

    for path in write_tables(names, out, ablations, Path("reports")):
        print(path)
