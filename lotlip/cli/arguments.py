"""From a command's arguments to what its function takes."""

from pathlib import Path
from typing import Any

import typer


def check_new(out: Path, kind: str, *, is_changed: bool = True) -> None:
    """Refuse a place that cannot be written, or where something is already.

    With `is_changed`, what an earlier run of the same command made there is to be replaced.
    """
    from lotlip.errors import DataError
    from lotlip.records import read_json

    if out.exists() and not is_changed:
        raise DataError(f"{out} is there already: name a new folder, or remove it.")
    if out.exists():
        record = read_json(out / "manifest.json") if (out / "manifest.json").is_file() else None
        if not isinstance(record, dict) or record.get("kind") != kind:
            raise DataError(f"{out} is there already and holds no {kind} of an earlier run: name a new folder.")
    try:
        out.absolute().parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out} cannot be made ({error}): name another folder.") from None


def make_section(section: Any, **values: Any) -> Any:
    """A section of params.yaml from options; what does not fit is the user's error."""
    from pydantic import ValidationError

    try:
        return section(**values)
    except ValidationError as error:
        problems = [f"{problem['loc'][0]}: {problem['msg']}" for problem in error.errors() if problem["loc"]]
        raise typer.BadParameter("; ".join(problems)) from None


def as_column(name: str | None) -> str | int | None:
    """A column's name, or its number from 0."""
    return int(name) if name is not None and name.isdigit() else name
