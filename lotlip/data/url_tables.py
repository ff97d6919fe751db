"""URL tables: TSV, CSV and parquet files read as pairs of raw cells, one at a time.

Cells stay bytes here, so that a row that is not UTF-8 can be told apart from its neighbours.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lotlip.errors import DataError
from lotlip.params import UrlTableSource

_BOM = b"\xef\xbb\xbf"
_MAX_CELL = 1 << 24  # characters; beyond it a quote was left open


class Pair(NamedTuple):
    """URL and caption of one row as it stands; `problem` says why there is none."""

    url: bytes
    caption: bytes
    problem: str | None = None


def read_pairs(source: UrlTableSource) -> Iterator[Pair]:
    """Yield the pairs of a table in order; blank lines are no rows.

    Raises:
        DataError: the file is missing or unreadable, a column does not exist, or columns are given both by
            name and by number.
    """
    columns = (source.url_column, source.caption_column)
    if not source.path.is_file():
        raise DataError(f"Table {source.path} is missing: check `path` of the source in params.yaml.")
    if isinstance(columns[0], int) != isinstance(columns[1], int):
        raise DataError(
            f"Table {source.path}: url_column {columns[0]!r} and caption_column {columns[1]!r} mix a name "
            "with a number; give both by name (the file has a header) or both by number (it has none)."
        )
    if source.format == "parquet":
        return _parquet_pairs(source.path, columns)
    rows = _tsv_rows(source.path) if source.format == "tsv" else _csv_rows(source.path)
    return _text_pairs(source.path, rows, columns)


def _tsv_rows(path: Path) -> Iterator[list[bytes]]:
    # Quotes mean nothing in the TSV files of this field (CC3M): captions hold single ones.
    with path.open("rb") as file:
        for number, line in enumerate(file):
            if text := line.removeprefix(_BOM if number == 0 else b"").rstrip(b"\r\n"):
                yield text.split(b"\t")


def _csv_rows(path: Path) -> Iterator[list[bytes]]:
    csv.field_size_limit(_MAX_CELL)
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.reader(file, strict=True)  # a quote left open would swallow the rows after it
        try:
            for cells in reader:
                if cells:
                    yield [cell.encode("utf-8", "surrogateescape") for cell in cells]
        except csv.Error as error:
            raise DataError(
                f"Table {path}, line {reader.line_num}: {error}. Mend the quotes there, or use format tsv."
            ) from None


def _text_pairs(path: Path, rows: Iterator[list[bytes]], columns: tuple[str | int, str | int]) -> Iterator[Pair]:
    first = next(rows, None)
    if first is None:
        return
    if isinstance(columns[0], str):
        names = [name.decode("utf-8", "replace").strip() for name in first]
        url, caption = (_find(str(column), names, path) for column in columns)
    else:
        url, caption = (_within(int(column), len(first), path) for column in columns)
        yield _pick(first, url, caption)
    for cells in rows:
        yield _pick(cells, url, caption)


def _pick(cells: list[bytes], url: int, caption: int) -> Pair:
    if max(url, caption) < len(cells):
        return Pair(cells[url], cells[caption])
    known = [cells[i] if i < len(cells) else b"" for i in (url, caption)]
    return Pair(known[0], known[1], f"too few columns: {len(cells)}, expected {max(url, caption) + 1}")


def _parquet_pairs(path: Path, columns: tuple[str | int, str | int]) -> Iterator[Pair]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
            wanted = [_parquet_name(column, names, path) for column in columns]
            for name in wanted:
                _check_text(file.schema_arrow.field(name), path)
            for batch in file.iter_batches(batch_size=8192, columns=wanted):
                cells = [batch.column(name).cast(pa.large_binary()).to_pylist() for name in wanted]
                for url, caption in zip(*cells, strict=True):
                    yield Pair(url or b"", caption or b"")
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"Table {path} is not readable as parquet ({error}).") from error


def _parquet_name(column: str | int, names: list[str], path: Path) -> str:
    index = _within(column, len(names), path) if isinstance(column, int) else _find(column, names, path)
    return names[index]


def _check_text(field: object, path: Path) -> None:
    kind = str(getattr(field, "type", field))
    if not any(word in kind for word in ("string", "binary")):
        raise DataError(f"Table {path}: column {getattr(field, 'name', field)!r} holds {kind}; expected text.")


def _find(name: str, names: list[str], path: Path) -> int:
    if name in names:
        return names.index(name)
    shown = ", ".join(names[:30])
    raise DataError(
        f"Table {path} has no column {name!r}; it has {shown}. "
        "Name one of them in params.yaml, or give the column's number from 0 if the file has no header."
    )


def _within(index: int, num_columns: int, path: Path) -> int:
    if 0 <= index < num_columns:
        return index
    raise DataError(f"Table {path} has no column {index}: it has {num_columns}, numbered from 0.")
