"""The quarantine: what was rejected and why, a table an image shard."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from lotlip.data.manifest import Manifest, Shard, describe_file, write_manifest
from lotlip.records import publish_folder

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("key", "subject", "reason")


def write_quarantine(
    shards: dict[str, Shard],
    tables: dict[str, "pd.DataFrame"],
    reasons: dict[str, "pd.DataFrame"],
    out: Path,
    root: str | None = None,
) -> Manifest:
    """Write `key, subject, reason` of everything rejected, ordered by subject, sample and reason.

    Args:
        shards: the image shards by name; each gets a table, empty where nothing was rejected.
        tables: by subject ("image", "raw", captioners), with columns `shard` and `key`.
        reasons: by subject, boolean, rows of the table by reasons.
        out: the folder, replaced as a whole.
        root: place in S3 where the tables go; None: they stay in `out`.
    """
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = [_rejected_rows(name, tables[name], reasons[name]) for name in tables]
    rejected = pd.concat(found, ignore_index=True)
    schema = pa.schema([(name, pa.string()) for name in COLUMNS])
    entries = []
    with publish_folder(out) as staging:
        for shard in shards.values():
            rows = rejected.loc[rejected["shard"] == shard.name, list(COLUMNS)]
            table = pa.Table.from_pandas(rows, schema, preserve_index=False).replace_schema_metadata(None)
            pq.write_table(table, staging / f"{shard.name}.parquet")
            file = describe_file(staging, f"{shard.name}.parquet")
            entries.append(Shard(shard.name, len(rows), {"table": file}, shard.files["tar"].sha256))
        written = write_manifest(staging, "quarantine", entries, root)
    return replace(written, folder=out)


def _rejected_rows(subject: str, table: "pd.DataFrame", reasons: "pd.DataFrame") -> "pd.DataFrame":
    rows, columns = reasons.to_numpy().nonzero()
    names = list(reasons.columns)
    found = table[["shard", "key"]].iloc[rows]
    return found.assign(subject=subject, reason=[names[int(i)] for i in columns]).drop_duplicates()
