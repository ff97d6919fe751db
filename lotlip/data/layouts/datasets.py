"""Image and captions folders of this project."""

from collections.abc import Iterator
from pathlib import Path

from lotlip.data.layouts.entries import Entry, read_json_file
from lotlip.data.manifest import read_manifest
from lotlip.data.tables import read_table
from lotlip.errors import DataError


def read_dataset(path: Path) -> Iterator[Entry]:
    """Raw captions of an image folder, long texts of a captions folder; failed ones are left out, images are not.

    Raises:
        DataError: the manifest is missing or of another kind, or a table is missing or damaged.
    """
    folder = path.parent if path.name == "manifest.json" else path
    record = read_json_file(folder / "manifest.json")
    kind = record.get("kind") if isinstance(record, dict) else None
    if kind not in ("images", "captions"):
        raise DataError(f"{folder}/manifest.json is of kind {kind!r}; expected 'images' or 'captions'.")
    manifest = read_manifest(folder, kind)
    for shard in manifest.shards:
        if kind == "images":
            for record in read_table(manifest, shard, ("key", "status", "caption")):
                if record["status"] == "success":
                    yield Entry(record["key"], (record["caption"],) if record["caption"] else ())
        else:
            texts: dict[str, list[str]] = {}
            for record in read_table(manifest, shard, ("key", "kind", "text", "failure")):
                of_image = texts.setdefault(record["key"], [])
                if record["kind"] == "long" and record["failure"] is None and record["text"]:
                    of_image.append(record["text"])
            yield from (Entry(key, tuple(of_image)) for key, of_image in texts.items())
