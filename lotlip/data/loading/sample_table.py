"""Samples in a file that all processes map: memory holds what the system likes to keep of it, once for all of them.

The file is in the Arrow IPC format, a record batch for each image shard that has samples, in their order. `texts` of a
sample are its raw caption, its `num_long` long texts and its rewrites. Every row has a checksum, which is compared
whenever the row is used: to check the whole of a file that is larger than memory, again in each run, would take
longer than the start of a run may.
"""

import hashlib
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from lotlip.data.loading.samples import Sample
from lotlip.errors import DataError
from lotlip.records import atomic_path, read_json, write_json

# Offsets of 64 bits, so that no shard has too many texts.
_SCHEMA = pa.schema(
    [
        pa.field("key", pa.large_string(), nullable=False),
        pa.field("texts", pa.large_list(pa.field("text", pa.large_string(), nullable=False)), nullable=False),
        pa.field("num_long", pa.int32(), nullable=False),
        pa.field("checksum", pa.uint32(), nullable=False),
    ]
)
_MAX_OPEN = 32_000  # shards, a few kB each
_DAMAGES = (IndexError, TypeError, ValueError, OSError, pa.ArrowException)  # what reading a damaged file raises


class SampleTable:
    """Samples, shard by shard; reading one takes a few microseconds, wherever it lies.

    `shards`: how many samples each image shard has, by name, in order; none has 0.
    `starts`: index of each shard's first sample, and at last their number N, int64 [S + 1].
    `texts_hash`: hex SHA-256 over all samples in order.
    `counts`: whatever was counted when they were joined; `samples`, and of these `without_long` and `without_rewrite`.
    """

    def __init__(self, file: Any, about: Mapping[str, Any], name: str) -> None:
        """Of an Arrow file (pa.Buffer or pa.NativeFile) and what `_write` says about it; `name` is for messages."""
        self.shards: dict[str, int] = about["shards"]
        self.texts_hash: str = about["texts"]
        self.counts: dict[str, int] = about["counts"]
        self.starts = np.cumsum([0, *self.shards.values()], dtype=np.int64)
        self._names, self._name = list(self.shards), name
        reader = pa.ipc.open_file(file)
        self._rows = lru_cache(_MAX_OPEN)(lambda number: _Rows(reader.get_batch(number)))
        if reader.num_record_batches != len(self.shards) or reader.schema != _SCHEMA:
            raise ValueError("not the shards and columns that were written")

    @classmethod
    def open(cls, folder: Path) -> "SampleTable":
        """Map the table that `write_table` wrote into a folder.

        Raises:
            DataError: it is missing, or no complete table; the message is a short reason.
        """
        about, path = read_json(folder / "about.json"), folder / "samples.arrow"
        try:
            if path.stat().st_size != about["num_bytes"]:
                raise ValueError(f"it has {path.stat().st_size} bytes, {about['num_bytes']} were written")
            return cls(pa.memory_map(str(path)), about, str(path))
        except (KeyError, *_DAMAGES) as error:
            raise DataError(f"{path} is damaged ({error})") from None

    @classmethod
    def from_samples(cls, samples: Iterable[Sample]) -> "SampleTable":
        """A table in memory; samples of a shard follow each other.

        Raises:
            DataError: they do not.
        """
        sink = pa.BufferOutputStream()
        about = _write(sink, (list(of_shard) for _, of_shard in groupby(samples, lambda s: s.shard)), Counter())
        return cls(sink.getvalue(), about, "the table in memory")

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, index: int) -> Sample:
        return self.take(np.array([index]))[0]

    def __iter__(self) -> Iterator[Sample]:
        for start, stop in pairwise(self.starts.tolist()):
            yield from self.take(np.arange(start, stop))

    def take(self, indices: NDArray[np.int64]) -> list[Sample]:
        """The samples at these indices, each in [0, N).

        Raises:
            DataError: what the file holds is not what was written.
            IndexError: there is no such sample.
        """
        numbers = self.shard_of(indices)
        places = zip(numbers.tolist(), (indices - self.starts[numbers]).tolist(), strict=True)
        return [self._sample(number, row) for number, row in places]

    def shard_of(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        """Number of the shard of each of these samples, from 0.

        Raises:
            IndexError: there is no such sample.
        """
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(self):
            raise IndexError(f"samples {indices.min()} to {indices.max()} of {len(self)}")
        return np.searchsorted(self.starts, indices, side="right") - 1

    def keys(self, number: int) -> list[str]:
        """Keys of the samples of shard `number`, in order, not checked.

        Raises:
            DataError: they cannot be read.
        """
        try:
            return self._rows(number).keys()
        except _DAMAGES as error:
            raise self._damaged(number, error) from None

    def _sample(self, number: int, row: int) -> Sample:
        try:
            return self._rows(number).sample(self._names[number], row)
        except _DAMAGES as error:
            raise self._damaged(number, error) from None

    def _damaged(self, number: int, error: Exception) -> DataError:
        return DataError(
            f"{self._name} is damaged: samples of shard {self._names[number]} are not those that were written "
            f"({error}). Remove the folder it is in and run again: it is made anew. If this comes again, check the "
            "disk."
        )


class _Rows:
    """A shard's samples as bytes and the places of their ends; nothing is copied before a row is asked for."""

    def __init__(self, batch: Any) -> None:
        self._batch = batch  # keeps the memory
        key, texts, num_long, checksum = batch.columns
        self._key_ends, self._keys = _view(key, 1, "q"), _view(key, 2)
        self._list_ends = _view(texts, 1, "q")
        self._text_ends, self._texts = _view(texts.values, 1, "q"), _view(texts.values, 2)
        self._num_long, self._checksums = _view(num_long, 1, "i"), _view(checksum, 1, "I")

    def sample(self, shard: str, row: int) -> Sample:
        """Row `row` of shard `shard`; ValueError or IndexError if it is damaged."""
        key, ends, num_long = self._parts(row)
        if self._checksum(key, ends, num_long) != self._checksums[row]:
            raise ValueError("another checksum")
        raw, *texts = (str(self._texts[start:stop], "utf-8") for start, stop in pairwise(ends.tolist()))
        return Sample(shard, str(key, "utf-8"), raw, tuple(texts[:num_long]), tuple(texts[num_long:]))

    def keys(self) -> list[str]:
        """Of all rows."""
        return [str(self._keys[start:stop], "utf-8") for start, stop in pairwise(self._key_ends)]

    def checksums(self) -> list[int]:
        """CRC-32 of each row."""
        return [self._checksum(*self._parts(row)) for row in range(self._batch.num_rows)]

    def _parts(self, row: int) -> "tuple[memoryview[int], memoryview[int], int]":
        key = self._keys[self._key_ends[row] : self._key_ends[row + 1]]
        return key, self._text_ends[self._list_ends[row] : self._list_ends[row + 1] + 1], self._num_long[row]

    def _checksum(self, key: "memoryview[int]", ends: "memoryview[int]", num_long: int) -> int:
        """Over all that a row is, the ends of its texts too, so that no letter goes over to the next text unseen."""
        return zlib.crc32(self._texts[ends[0] : ends[-1]], zlib.crc32(ends, zlib.crc32(key, num_long)))


def write_table(folder: Path, shards: Iterable[Sequence[Sample]], counts: Counter[str]) -> None:
    """Write a table into a folder; memory holds one shard at a time.

    Args:
        folder: of the table alone.
        shards: samples of each image shard.
        counts: kept beside the table as they are when the last shard has come; `samples`, `without_long` and
            `without_rewrite` are added.

    Raises:
        DataError: a shard comes twice.
    """
    path = folder / "samples.arrow"
    with atomic_path(path) as temporary, pa.OSFile(str(temporary), "wb") as sink:
        about = _write(sink, shards, counts)
    write_json(folder / "about.json", {**about, "num_bytes": path.stat().st_size})


def _write(sink: Any, shards: Iterable[Sequence[Sample]], counts: Counter[str]) -> dict[str, Any]:
    sizes: dict[str, int] = {}
    digest = hashlib.sha256()
    counts.update(dict.fromkeys(("samples", "without_long", "without_rewrite"), 0))
    with pa.ipc.new_file(sink, _SCHEMA) as writer:
        for samples in filter(None, shards):
            name = samples[0].shard
            if name in sizes:
                raise DataError(f"Samples of shard {name!r} come in two places: shards need names of their own.")
            sizes[name] = len(samples)
            writer.write_batch(_batch(samples))
            for s in samples:
                digest.update(json.dumps([s.shard, s.key, s.raw, s.long, s.rewrites]).encode())
                counts["samples"] += 1
                counts["without_long"] += not s.long
                counts["without_rewrite"] += not s.rewrites
    return {"shards": sizes, "texts": digest.hexdigest(), "counts": dict(counts)}


def _batch(samples: Sequence[Sample]) -> Any:
    columns = [
        pa.array([s.key for s in samples], _SCHEMA.field("key").type),
        pa.array([(s.raw, *s.long, *s.rewrites) for s in samples], _SCHEMA.field("texts").type),
        pa.array([len(s.long) for s in samples], pa.int32()),
    ]
    without = pa.record_batch([*columns, pa.nulls(len(samples), pa.uint32())], schema=_SCHEMA)
    checksums = pa.array(_Rows(without).checksums(), pa.uint32())
    return pa.record_batch([*columns, checksums], schema=_SCHEMA)


def _view(array: Any, buffer: int, kind: Literal["B", "i", "I", "q"] = "B") -> "memoryview[int]":
    """A buffer of an Arrow array as numbers of a kind (struct's letters)."""
    found = array.buffers()[buffer]
    return memoryview(b"" if found is None else found).cast("B").cast(kind)
