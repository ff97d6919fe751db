"""Hand-made inputs: settings, tables, image folders and sidecars."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lotlip.data.manifest import Manifest, Shard, describe_file, write_manifest
from lotlip.data.packing import Item, pack_shard
from lotlip.data.tables import Row
from lotlip.params import Download, UrlTableSource
from lotlip.records import sha256_bytes


def settings(**changes: Any) -> Download:
    """Settings for fast tests on loopback."""
    values: dict[str, Any] = {
        "shard_size": 4,
        "concurrency": 8,
        "workers": None,
        "max_per_host": 8,
        "host_interval_s": 0.0,
        "max_connect_failures": 10,
        "connect_timeout_s": 5.0,
        "read_timeout_s": 10.0,
        "timeout_s": 10.0,
        "num_retries": 1,
        "user_agent": "lotlip-download",
        "respect_robots": False,
        "allow_private_hosts": True,
        "max_bytes": 200_000,
        "max_pixels": 1_000_000,
        "resize": None,
        "near_duplicate_bits": 4,
        "max_failed_share": 1.0,
    }
    return Download.model_validate({**values, **changes})


def tsv_source(path: Path, rows: list[tuple[str, str]], prefix: str = "") -> UrlTableSource:
    """A headerless `caption<TAB>url` file as CC3M's."""
    path.write_text("".join(f"{caption}\t{url}\n" for url, caption in rows), encoding="utf-8")
    return UrlTableSource(kind="url_table", path=path, format="tsv", url_column=1, caption_column=0, url_prefix=prefix)


def image_folder(folder: Path, shards: dict[str, list[Row]]) -> Manifest:
    """An image dataset whose successful rows have made-up image bytes, hashed where the row has no hash."""
    folder.mkdir(parents=True)
    made = []
    for name, rows in shards.items():
        items = [Item(row, (row.sha256 or row.key).encode(), "jpg") for row in rows]
        made.append(pack_shard(folder, name, items))
    return write_manifest(folder, "images", made)


def image_row(key: str, caption: str = "A dog.", sha256: str | None = None) -> Row:
    """A successful row."""
    return Row(key, None, "success", None, caption, 8, 8, sha256 or sha256_bytes(key.encode()), "0" * 16)


def sidecar(folder: Path, kind: Any, images: Manifest, rows: dict[str, list[dict[str, Any]]]) -> Manifest:
    """A captions or quarantine folder with a table for every image shard, empty where `rows` has none."""
    columns = {
        "captions": (
            "key",
            "kind",
            "text",
            "num_tokens",
            "finish_reason",
            "failure",
            "reasons",
            "attempts",
            "captioner",
        ),
        "quarantine": ("key", "subject", "reason"),
    }[kind]
    folder.mkdir(parents=True)
    shards = []
    for shard in images.shards:
        records = [{name: row.get(name) for name in columns} for row in rows.get(shard.name, [])]
        types = {"num_tokens": pa.int32(), "attempts": pa.int32()}
        schema = pa.schema([(name, types.get(name, pa.string())) for name in columns])
        pq.write_table(pa.Table.from_pylist(records, schema=schema), folder / f"{shard.name}.parquet")
        files = {"table": describe_file(folder, f"{shard.name}.parquet")}
        shards.append(Shard(shard.name, len(records), files, of=shard.files["tar"].sha256))
    return write_manifest(folder, kind, shards)


def long_row(key: str, text: str, failure: str | None = None) -> dict[str, Any]:
    """A captioner's row."""
    return {
        "key": key,
        "kind": "long",
        "text": text,
        "failure": failure,
        "reasons": "",
        "attempts": 1,
        "finish_reason": "stop",
    }


def folder_bytes(folder: Path) -> dict[str, bytes]:
    """Every file of a folder by relative path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
