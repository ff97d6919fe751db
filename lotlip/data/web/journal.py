"""The journal of an unfinished shard: what is fetched survives a kill at any moment.

Two files grow side by side: image bytes, and one JSON line a row saying where its bytes lie. A row counts
when its line is whole and the bytes have the hash it names; anything after the first row that does not is
cut off and fetched again.
"""

import json
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from lotlip.data.packing import Item
from lotlip.data.tables import COLUMNS, Row
from lotlip.records import sha256_bytes


class Journal:
    """Items of one shard in the order in which they arrived, readable by key. Threads may add at the same time."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._paths = (folder / f"{name}.rows.jsonl", folder / f"{name}.images.bin")
        self._lines = self._paths[0].open("a+b")
        self._images = self._paths[1].open("a+b")
        self._adding = threading.Lock()
        self._end = 0  # of the image bytes
        self._entries: dict[str, tuple[Row, str, int, int]] = {}
        self._load()

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def __iter__(self) -> Iterator[Row]:
        return (row for row, *_ in self._entries.values())

    def add(self, item: Item) -> None:
        """Append an item: its bytes first, then the line that makes them count."""
        row = {name: getattr(item.row, name) for name in COLUMNS}
        with self._adding:
            self._images.write(item.data)
            self._images.flush()
            place = {"extension": item.extension, "offset": self._end, "size": len(item.data)}
            self._lines.write(json.dumps({"row": row, **place}).encode() + b"\n")
            self._lines.flush()
            self._entries[item.row.key] = (item.row, item.extension, self._end, len(item.data))
            self._end += len(item.data)

    def item(self, key: str) -> Item:
        """The item of that key."""
        row, extension, offset, size = self._entries[key]
        return Item(row, self._read(offset, size), extension)

    def close(self) -> None:
        self._lines.close()
        self._images.close()

    def remove(self) -> None:
        """Close and delete the journal: its shard is finished."""
        self.close()
        for path in self._paths:
            path.unlink(missing_ok=True)

    def _load(self) -> None:
        valid_lines, valid_images = 0, 0
        self._lines.seek(0)
        for line in self._lines:
            if not self._take(line):
                break
            valid_lines += len(line)
            _, _, offset, size = next(reversed(self._entries.values()))
            valid_images = offset + size
        self._lines.truncate(valid_lines)
        self._images.truncate(valid_images)
        self._end = valid_images

    def _take(self, line: bytes) -> bool:
        try:
            record = json.loads(line)
            row = Row(**record["row"])
            place = (str(record["extension"]), int(record["offset"]), int(record["size"]))
        except (ValueError, KeyError, TypeError):
            return False
        if not line.endswith(b"\n") or (row.sha256 and sha256_bytes(self._read(*place[1:])) != row.sha256):
            return False
        self._entries[row.key] = (row, *place)
        return True

    def _read(self, offset: int, size: int) -> bytes:
        return os.pread(self._images.fileno(), size, offset)
