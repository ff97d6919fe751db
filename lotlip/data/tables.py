"""Tables beside the shards: one parquet row for every requested sample, whatever became of it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lotlip.data.manifest import Manifest, Shard
from lotlip.errors import DataError
from lotlip.records import atomic_path, sha256_file

Status = Literal["success", "failed_to_download", "failed_to_decode", "rejected"]
STATUSES: tuple[Status, ...] = ("success", "failed_to_download", "failed_to_decode", "rejected")
# What `reasons` of a captions table may name, joined by commas (lotlip.captioning.quality says when).
CAPTION_REASONS = ("truncated", "repetition", "refusal", "language")
FILTERED = "filtered: "  # the error of a row that a filter of its source left out begins so; its column comes next
COLUMNS = ("key", "url", "status", "error", "caption", "width", "height", "sha256", "phash", "format")


@dataclass(frozen=True, slots=True)
class Row:
    """One requested sample. `error` is `class` or `class: detail`; sizes in pixels; hashes in hex.

    `url` is where the image came from: for a folder of images, its path in there. `format` is jpg, png or webp.
    """

    key: str
    url: str | None
    status: Status
    error: str | None = None
    caption: str | None = None
    width: int | None = None
    height: int | None = None
    sha256: str | None = None
    phash: str | None = None
    format: str | None = None


def error_class(error: str) -> str:
    """What an error is counted under: its text up to the first colon; of a filter, up to the column's name."""
    if error.startswith(FILTERED):
        return FILTERED + error.removeprefix(FILTERED).partition(":")[0]
    return "repeats an earlier row" if error.startswith("repeats row ") else error.partition(":")[0]


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write the table of an image shard, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"width": pa.int32(), "height": pa.int32()}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in COLUMNS])
    with atomic_path(path) as temporary:
        pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows], schema=schema), temporary)


def read_rows(path: Path) -> list[Row]:
    """Read what `write_rows` wrote.

    Raises:
        DataError: missing, unreadable, or with other columns.
    """
    return [Row(**record) for record in read_records(path, COLUMNS)]


def column_names(path: Path) -> list[str]:
    """Names of a parquet file's columns.

    Raises:
        DataError: missing or unreadable.
    """
    import pyarrow.parquet as pq

    with _readable(path):
        return list(pq.read_schema(path).names)


def read_records(path: Path, columns: Iterable[str]) -> list[dict[str, Any]]:
    """The named columns of a parquet file, a mapping a row.

    Raises:
        DataError: missing, unreadable, or without one of the columns (the message lists what there is).
    """
    import pyarrow.parquet as pq

    wanted, names = list(columns), column_names(path)
    if missing := [name for name in wanted if name not in names]:
        raise DataError(f"Table {path} has no column {', '.join(missing)}; it has {', '.join(names)}.")
    with _readable(path):
        records: list[dict[str, Any]] = pq.read_table(path, columns=wanted, partitioning=None).to_pylist()
    return records


def read_table(manifest: Manifest, shard: Shard, columns: Iterable[str]) -> list[dict[str, Any]]:
    """The named columns of a shard's table, its hash checked against the manifest first.

    Raises:
        DataError: the file is missing, is not the one the manifest names, or lacks a column.
    """
    path = manifest.path(shard, "table")
    with _readable(path):
        found = sha256_file(path)
    if found != shard.files["table"].sha256:
        raise DataError(
            f"Table {path} has another sha256 than its manifest says: the file is damaged or was changed. "
            "Remove it and run `dvc checkout` or its stage again."
        )
    return read_records(path, columns)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except FileNotFoundError:
        raise DataError(f"Table {path} is missing: run `dvc checkout` or its stage again.") from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"Table {path} is not readable as parquet ({error}): run its stage again.") from error
