"""Commands about results: the poster's tables."""

from pathlib import Path
from typing import Annotated

import typer

from lotlip.cli.app import app


@app.command()
def table(
    name: Annotated[
        str,
        typer.Argument(help="A table of ablations.yaml, dataset_statistics, or all."),
    ],
    out: Annotated[Path, typer.Option(help="Folder that holds runs.jsonl and takes the pages.")] = Path("docs/results"),
    ablations: Annotated[Path, typer.Option(help="Which methods stand in which table.")] = Path("ablations.yaml"),
) -> None:
    """Write a table of the poster from the runs there are: page and figure, published numbers beside ours."""
    from lotlip.evaluation.poster.write import write_tables

    for path in write_tables([name], out, ablations, Path("reports")):
        print(path)
