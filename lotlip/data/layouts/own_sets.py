"""Sets of one's own: JSON lines or CSV that name an `image` and its `text` or `texts`."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from lotlip.data.csv_rows import csv_rows
from lotlip.data.layouts.entries import Entry, Found, MissingFile, each, json_object, read_lines, short
from lotlip.errors import DataError

_TEXT_COLUMN = re.compile(r"text(_?\d+)?")


def read_jsonl(path: Path) -> Iterator[Found]:
    """Objects with `texts` or one `text`, one a line: a file, or a folder with samples.jsonl (an evaluation set)."""

    def make(where: str, line: bytes) -> Entry:
        row = json_object(where, line)
        if "text" in row and "texts" in row:
            raise DataError(f"{where}: expected `text` or `texts`, got both: {short(row)}.")
        if not isinstance(row.get("text", ""), str):
            raise DataError(f"{where}: `text` must be a string, got {short(row['text'])}.")
        texts = row.get("texts", [row["text"]] if "text" in row else [])
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise DataError(f"{where}: `texts` must be a list of strings, got {short(texts)}.")
        image = row.get("image", "")
        if not isinstance(image, str):
            raise DataError(f"{where}: `image` must be a path, got {short(image)}.")
        return Entry(image, tuple(texts))

    yield from _merged(each(read_lines(_only(path, "samples.jsonl")), make))


def read_csv(path: Path) -> Iterator[Found]:
    """A header with `image` and `text`, or `text_1`, `text_2` ...; an image of several rows has the texts of all.

    `path` is the file, or a folder with samples.csv or no other CSV file. Empty cells are no texts.
    """
    file = _only(path, "samples.csv")
    # Bytes that are not UTF-8 come through as surrogates, so that their row can be named.
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        numbered = csv_rows(file, lines, "Mend the quotes there.")
        rows = ((f"{file}, line {number}", row) for number, row in numbered)
        _, header = next(rows, ("", []))
        columns = [number for number, name in enumerate(header) if _TEXT_COLUMN.fullmatch(name)]
        if "image" not in header or not columns:
            raise DataError(
                f"{file}: expected columns `image` and `text` (or text_1, text_2 ...), got {short(header)}."
            )
        image = header.index("image")

        def make(where: str, row: list[str]) -> Entry:
            if len(row) != len(header):
                raise DataError(f"{where}: expected {len(header)} cells, got {len(row)}: {short(row)}.")
            if any("\ud800" <= letter <= "\udfff" for cell in row for letter in cell):
                raise DataError(f"{where} is not UTF-8: {short(row)}.")
            return Entry(row[image], tuple(row[number] for number in columns if row[number]))

        yield from _merged(each(rows, make))


def _only(path: Path, default: str) -> Path:
    """A file, or in a folder the one of the default name or else the only one with its ending."""
    if not path.is_dir():
        return path
    files = sorted(path.glob(f"*{Path(default).suffix}"))
    if path / default in files:
        return path / default
    if not files:
        raise MissingFile(path / default, "no other file there ends so, either.")
    if len(files) > 1:
        raise DataError(f"{path} holds {len(files)} files such as {files[0].name}: give one, or call it {default}.")
    return files[0]


def _merged(found: Iterable[Found]) -> Iterator[Found]:
    """Rows of one image as one entry, at the place of the first; rows that name no image stay apart."""
    errors: list[DataError] = []
    texts: dict[str | int, list[str]] = {}
    for number, one in enumerate(found):
        if isinstance(one, DataError):
            errors.append(one)
        else:
            texts.setdefault(one.image or number, []).extend(one.texts)
    yield from errors
    yield from (Entry(key if isinstance(key, str) else "", tuple(of_image)) for key, of_image in texts.items())
