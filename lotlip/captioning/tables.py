"""The sidecar table of captions: its columns, and bytes that depend on nothing but its rows."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from lotlip.captioning.captioner import Kind
from lotlip.captioning.quality import Written
from lotlip.records import atomic_path

Row = dict[str, Any]
COLUMNS = ("key", "kind", "text", "num_tokens", "finish_reason", "failure", "reasons", "attempts", "captioner")


def make_row(key: str, kind: Kind, written: Written, identity: str) -> Row:
    """One row: the sample's key, the caption (empty where it failed), what is wrong with it, and who wrote it.

    `reasons` are the rules of `lotlip.captioning.quality` that it breaks, joined by commas, empty where there are none.
    """
    checked = {"reasons": ",".join(written.reasons), "attempts": written.attempts}
    return {"key": key, "kind": kind, **asdict(written.caption), **checked, "captioner": identity}


def write_captions(path: Path, rows: list[Row]) -> None:
    """Write rows as parquet, atomically. Equal rows give equal bytes (under one version of pyarrow)."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {"num_tokens": pa.int32(), "attempts": pa.int32()}
    schema = pa.schema([pa.field(name, types.get(name, pa.string())) for name in COLUMNS])
    with atomic_path(path) as temporary:
        pq.write_table(
            pa.Table.from_pylist(rows, schema=schema),
            temporary,
            compression="zstd",
            row_group_size=100_000,
            version="2.6",
            write_statistics=False,
        )


def read_captions(path: Path) -> list[Row]:
    """The rows of a captions table, in order."""
    import pyarrow.parquet as pq

    rows: list[Row] = pq.read_table(path).to_pylist()
    return rows


def count_rows(path: Path) -> int:
    """The number of rows of a captions table, read from its footer."""
    import pyarrow.parquet as pq

    return int(pq.read_metadata(path).num_rows)
