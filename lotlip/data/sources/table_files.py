"""Table files: TSV, CSV, JSON lines and parquet, one file or a folder of parts, read as raw cells row by row.

Cells stay bytes here, so that a row that is not UTF-8 can be told apart from its neighbours.
"""

import gzip
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

from lotlip.data.csv_rows import csv_rows
from lotlip.errors import DataError
from lotlip.params import Column, TableFormat
from lotlip.records import content_key, sha256_file

Wanted = Column | tuple[str, ...]  # a name, a number from 0, or names of which the first that is there counts

FORMATS: dict[str, TableFormat] = {
    ".tsv": "tsv",
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",  # as YFCC15M's: an object a line
    ".parquet": "parquet",
}
_BOM = b"\xef\xbb\xbf"
_LOOKED_AT = 100  # first lines of a JSONL file, whose keys are its columns
_SHOWN = 1000  # bytes of a line that is no JSON


class Record(NamedTuple):
    """The wanted cells of one row, None where there is no value; `problem` says why the row is none.

    Of a line that is no JSON object the first cell holds the beginning.
    """

    cells: tuple[bytes | None, ...]
    problem: str | None = None


def find_files(path: Path, format: TableFormat | None = None) -> tuple[TableFormat, list[Path]]:
    """The format of a table and its files: the file itself, or the parts in a folder, by name.

    Without a format, the ends of the files' names say it (`.gz` after it is looked through).

    Raises:
        DataError: nothing is there, the format is unknown, or parts of several formats lie together.
    """
    if path.is_file():
        found = format or _format_of(path)
        if found is None:
            raise DataError(f"Table {path}: its name does not say its format; set `format` or end it in {_endings()}.")
        return found, [path]
    if not path.is_dir():
        raise DataError(f"Table {path} is missing: check `path` in params.yaml, or the TABLE of the command.")
    parts = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
    by_format = {part: _format_of(part) for part in parts}
    formats = {each for each in by_format.values() if each is not None and format in (None, each)}
    if len(formats) != 1:
        held = ", ".join(sorted(formats)) or "no file that ends in " + _endings()
        raise DataError(f"Table folder {path} holds {held}; expected parts of one format (set `format` to choose).")
    chosen = formats.pop()
    return chosen, [part for part in parts if by_format[part] == chosen]


def fingerprint(path: Path, format: TableFormat | None = None) -> str:
    """Hex SHA-256 of a table: of the file, or of the hashes of all parts.

    Raises:
        DataError: as `find_files`.
    """
    hashes = [sha256_file(file) for file in find_files(path, format)[1]]
    return hashes[0] if path.is_file() else content_key(hashes)


def read_cells(
    path: Path, format: TableFormat | None, texts: Sequence[Wanted], values: Sequence[Wanted] = ()
) -> Iterator[Record]:
    """Yield the rows of a table in order, with the columns `texts`, then `values`; blank lines are no rows.

    Numbers in typed formats come as text, the shortest that reads back as the same number.

    Raises:
        DataError: a file is missing or unreadable, a column does not exist or is of a kind that cannot be read, or
            columns are given both by name and by number.
    """
    columns = (*texts, *values)
    if len({isinstance(column, int) for column in columns}) > 1:
        shown = ", ".join(map(repr, columns))
        raise DataError(
            f"Table {path}: the columns {shown} mix names with numbers; give all by name (the file has a header) "
            "or all by number (it has none)."
        )
    found, files = find_files(path, format)
    for file in files:
        if found == "parquet":
            yield from _parquet_records(file, columns, len(texts))
        elif found == "jsonl":
            yield from _json_records(file, columns)
        else:
            rows = _tsv_rows(file) if found == "tsv" else _csv_rows(file)
            yield from _text_records(file, rows, columns)


def _format_of(path: Path) -> TableFormat | None:
    name = path.name.lower().removesuffix(".gz")
    return FORMATS.get(Path(name).suffix)


def _endings() -> str:
    return ", ".join(FORMATS)


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb") as file:
            yield file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"Table {path} cannot be unpacked ({error}): it is truncated or damaged.") from None


def _lines(path: Path) -> Iterator[bytes]:
    with _opened(path) as file:
        for number, line in enumerate(file):
            if text := line.removeprefix(_BOM if number == 0 else b"").rstrip(b"\r\n"):
                yield text


def _tsv_rows(path: Path) -> Iterator[list[bytes]]:
    # Quotes mean nothing in the TSV files of this field (CC3M): captions hold single ones.
    return (line.split(b"\t") for line in _lines(path))


def _csv_rows(path: Path) -> Iterator[list[bytes]]:
    import io

    with _opened(path) as file:
        text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="")
        for _, cells in csv_rows(path, text, "Mend the quotes there, or use format tsv."):
            yield [cell.encode("utf-8", "surrogateescape") for cell in cells]


def _text_records(path: Path, rows: Iterator[list[bytes]], columns: Sequence[Wanted]) -> Iterator[Record]:
    first = next(rows, None)
    if first is None:
        return
    if isinstance(columns[0], int):
        rows, names = chain([first], rows), [str(number) for number in range(len(first))]
    else:
        names = [name.decode("utf-8", "replace").strip() for name in first]
    places = [_place(column, names, path) for column in columns]
    for cells in rows:
        if max(places) < len(cells):
            yield Record(tuple(cells[i] for i in places))
        else:
            known = tuple(cells[i] if i < len(cells) else None for i in places)
            yield Record(known, f"too few columns: {len(cells)}, expected {max(places) + 1}")


def _json_records(path: Path, columns: Sequence[Wanted]) -> Iterator[Record]:
    rows = ((line, _json_object(line)) for line in _lines(path) if line.strip())
    first = list(islice(rows, _LOOKED_AT))
    names = list(dict.fromkeys(name for _, row in first for name in row or {}))
    if not first:
        return
    if isinstance(columns[0], int):
        raise DataError(f"Table {path}: lines of JSON have no column numbers; its columns are {_shown(names)}.")
    keys = [names[_place(column, names, path)] for column in columns]
    for line, row in chain(first, rows):
        if row is None:
            yield Record((line[:_SHOWN], *[None] * (len(keys) - 1)), "line is no JSON object")
            continue
        nested = [key for key in keys if isinstance(row.get(key), list | dict)]
        cells = tuple(None if key in nested else _json_cell(row.get(key)) for key in keys)
        yield Record(cells, f"no text: {', '.join(nested)}" if nested else None)


def _json_object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _json_cell(value: Any) -> bytes | None:
    if value is None:
        return None
    text = value if isinstance(value, str) else json.dumps(value)
    try:
        return text.encode("utf-8", "surrogateescape")  # bytes that were no UTF-8 as they stood
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass")  # an escape \ud800: no UTF-8 either


def _parquet_records(path: Path, columns: Sequence[Wanted], num_texts: int) -> Iterator[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            schema = file.schema_arrow
            places = [_place(column, list(schema.names), path) for column in columns]
            for place in places[:num_texts]:
                _check_text(schema.field(place), path)
            wanted = [schema.names[place] for place in places]
            for batch in file.iter_batches(batch_size=8192, columns=wanted):
                cells = [_as_bytes(batch.column(name)) for name in wanted]
                yield from (Record(row) for row in zip(*cells, strict=True))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"Table {path} is not readable as parquet ({error}).") from error


def _as_bytes(column: Any) -> list[bytes | None]:
    import pyarrow as pa

    if not _is_text(column.type):
        column = column.cast(pa.large_string())
    cells: list[bytes | None] = column.cast(pa.large_binary()).to_pylist()
    return cells


def _is_text(kind: object) -> bool:
    return str(kind) in ("string", "large_string", "binary", "large_binary")


def _check_text(field: Any, path: Path) -> None:
    kind = field.type.value_type if str(field.type).startswith("dictionary") else field.type
    if not _is_text(kind) and str(kind) != "string_view":
        raise DataError(f"Table {path}: column {field.name!r} holds {field.type}; expected text.")


def _place(column: Wanted, names: list[str], path: Path) -> int:
    if isinstance(column, int):
        if 0 <= column < len(names):
            return column
        raise DataError(f"Table {path} has no column {column}: it has {len(names)}, numbered from 0.")
    choices = (column,) if isinstance(column, str) else column
    for name in choices:
        if name in names:
            return names.index(name)
    raise DataError(
        f"Table {path} has no column {' or '.join(map(repr, choices))}; it has {_shown(names)}. "
        "Name one of them (url_column, caption_column, ..., in params.yaml or as options of the command), or give the "
        "column's number from 0 if the file has no header."
    )


def _shown(names: list[str]) -> str:
    shown = ", ".join(name[:100] for name in names[:30])
    return f"{shown}, and {len(names) - 30} more" if len(names) > 30 else shown
