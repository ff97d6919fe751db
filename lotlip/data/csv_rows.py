"""Rows of CSV files, in which a quote that was left open is an error with its line."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from lotlip.errors import DataError

_MAX_CELL = 1 << 24  # characters; beyond it a quote was left open


def csv_rows(path: Path, text: TextIO, remedy: str) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not empty, each with the number of its last line from 1.

    Args:
        path: the file's name, for errors.
        text: the file, opened with `newline=""`.
        remedy: what to do about a row that cannot be read.

    Raises:
        DataError: a quote is left open or stands in the middle of a cell, or a cell is longer than 2^24 characters.
    """
    csv.field_size_limit(_MAX_CELL)  # the module's, not the reader's: set wherever rows are read
    reader = csv.reader(text, strict=True)  # else an open quote swallows the rows after it
    try:
        for cells in reader:
            if cells:
                yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: {error}. {remedy}") from None
