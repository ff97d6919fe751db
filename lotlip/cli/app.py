"""The application that commands join, the options that several share, and how a user's error ends."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from lotlip.errors import LotlipError

app = typer.Typer(
    help="Image-text models that understand long texts: the workflow's parts, one by one. "
    "The whole workflow is `dvc repro`.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _new_file(path: Path | None) -> Path | None:
    """Refuse before the work what cannot be written after it."""
    if path is not None and (path.is_dir() or any(parent.is_file() for parent in path.parents)):
        raise typer.BadParameter(f"{path} is a folder, or lies below a file: name a file.")
    return path


JsonFile = Annotated[
    Path | None, typer.Option("--json", callback=_new_file, help="Also write the result to this JSON file.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TableFormat = Annotated[str | None, typer.Option("--format", help="tsv, csv, jsonl or parquet; default: by its name.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]


def main() -> None:
    """Run the command line; a user's error becomes one message and exit status 1."""
    try:
        app()
    except KeyboardInterrupt:
        print("interrupted: what is finished is kept, the same command goes on", file=sys.stderr)
        sys.exit(130)
    except LotlipError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
