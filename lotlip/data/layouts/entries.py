"""What every layout gives, an `Entry` an image, and how its files are read.

A reader yields a row that cannot be read as the `DataError` that says so, and goes on: who wants all rows raises it,
who checks a folder collects it. It raises where nothing can be read at all.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from lotlip.errors import DataError

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True, slots=True)
class Entry:
    """An image, as its set names it, its texts, and for classification the name of its class."""

    image: str
    texts: tuple[str, ...]
    label: str | None = None


Found = Entry | DataError
Reader = Callable[[Path], Iterator[Found]]
T = TypeVar("T")


class MissingFile(DataError):
    """A file that the layout needs is not at `path`."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path} is missing: {why}")
        self.path = path


def each(rows: Iterable[tuple[str, T]], make: Callable[[str, T], Entry | None]) -> Iterator[Found]:
    """The entry of every (where, row); None leaves a row out, a `DataError` stands in its place."""
    for where, row in rows:
        try:
            entry = make(where, row)
        except DataError as error:
            yield error
        else:
            if entry is not None:
                yield entry


def read_json_file(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        MissingFile: it is not there.
        DataError: it is not JSON in UTF-8.
    """
    try:
        return json.loads(path.read_bytes())
    except NotADirectoryError:
        raise DataError(f"{path.parent} is a file; expected a folder with {path.name}.") from None
    except (FileNotFoundError, IsADirectoryError):
        raise MissingFile(path, "is this the right layout?") from None
    except (ValueError, RecursionError) as error:  # neither JSON nor UTF-8
        raise DataError(f"{path} is not JSON ({error}).") from None


def read_lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """(where, line) of every line that is not blank.

    Raises:
        MissingFile: the file is not there.
    """
    if not path.is_file():
        raise MissingFile(path, "expected a file with a JSON object a line.")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield f"{path}, line {number}", line


def json_object(where: str, line: bytes) -> dict[str, Any]:
    """The JSON object of a line.

    Raises:
        DataError: it is none.
    """
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected a JSON object, got {short(line.decode(errors='replace'))}.")
    return row


def as_list(value: Any, where: str) -> Sequence[Any]:
    """`value`, which must be a list.

    Raises:
        DataError: it is none.
    """
    if not isinstance(value, list):
        raise DataError(f"{where}: expected a list, got {short(value)}.")
    return value


def as_text(row: Any, key: str, where: str) -> str:
    """The text under `key` of a mapping.

    Raises:
        DataError: there is none.
    """
    value = row.get(key) if isinstance(row, dict) else None
    if not isinstance(value, str):
        raise DataError(f"{where}: expected a text under {key!r}, got {short(row)}.")
    return value


def short(value: Any) -> str:
    """A value as an error shows it."""
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
