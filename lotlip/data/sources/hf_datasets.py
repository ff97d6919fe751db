"""Hugging Face `datasets` folders on disk: image bytes and captions read from their Arrow files, nothing else.

No feature is decoded and nothing is looked up: an image is the bytes that the row itself holds.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from lotlip.data.sources.candidates import Candidate
from lotlip.errors import DataError
from lotlip.params import HfDatasetSource
from lotlip.records import read_json, sha256_bytes
from lotlip.storage.copies import local_path

_AT_ONCE = 64  # rows read from the Arrow files at a time


def find_rows(source: HfDatasetSource) -> Iterator[Candidate]:
    """Yield a candidate for every row, in order; its key comes from the image's bytes and the caption.

    A caption column may hold a text or a list of texts, of which the first counts.

    Raises:
        DataError: the folder is no saved dataset, the split is not in it, or a column is missing or of another kind.
    """
    folder = _split_folder(source)
    from datasets import Dataset

    try:
        dataset = Dataset.load_from_disk(str(folder), keep_in_memory=False).with_format("arrow")
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder} cannot be read as a saved dataset ({error}): copy it again.") from error
    if not len(dataset):
        raise DataError(f"{folder} has no rows.")
    columns = [source.image_column, source.caption_column, *([source.url_column] if source.url_column else [])]
    _check_columns(folder, dataset[:1].schema, source)
    dataset = dataset.select_columns(list(dict.fromkeys(columns)))
    start = 0
    for batch in dataset.iter(batch_size=_AT_ONCE):
        images = batch.column(source.image_column).to_pylist()
        captions = _texts(batch.column(source.caption_column))
        urls = _texts(batch.column(source.url_column)) if source.url_column else [None] * len(images)
        for i, (image, caption, url) in enumerate(zip(images, captions, urls, strict=True), start):
            yield _candidate(image, caption, url, partial(_read, dataset, i, source.image_column))
        start += len(images)


def _split_folder(source: HfDatasetSource) -> Path:
    folder = local_path(source.path)
    if (folder / "dataset_dict.json").is_file():
        splits = read_json(folder / "dataset_dict.json").get("splits", [])
        if source.split in splits:
            return folder / str(source.split)
        raise DataError(f"{source.path} has no split {source.split!r}: set `split` to one of {', '.join(splits)}.")
    if not (folder / "state.json").is_file():
        raise DataError(f"{source.path} holds no dataset: expected a folder that `save_to_disk` wrote.")
    if source.split is not None:
        raise DataError(f"{source.path} is a dataset without splits: remove `split` {source.split!r}.")
    return folder


def _check_columns(folder: Path, schema: Any, source: HfDatasetSource) -> None:
    import pyarrow as pa

    for column in filter(None, (source.image_column, source.caption_column, source.url_column)):
        if column not in schema.names:
            raise DataError(f"{folder} has no column {column!r}; it has {', '.join(schema.names)}.")
    kind = schema.field(source.image_column).type
    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        raise DataError(f"{folder}: column {source.image_column!r} holds {kind}; expected images (bytes and path).")
    for column in filter(None, (source.caption_column, source.url_column)):
        kind = schema.field(column).type
        item = kind.value_type if pa.types.is_list(kind) or pa.types.is_large_list(kind) else kind
        if not (pa.types.is_string(item) or pa.types.is_large_string(item)):
            raise DataError(f"{folder}: column {column!r} holds {kind}; expected a text or a list of texts.")


def _texts(column: Any) -> list[bytes | None]:
    """The text of each row, or the first of its list, as bytes: they may be no UTF-8."""
    import pyarrow as pa

    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        lists = column.cast(pa.large_list(pa.large_binary())).to_pylist()
        return [texts[0] if texts else None for texts in lists]
    texts: list[bytes | None] = column.cast(pa.large_binary()).to_pylist()
    return texts


def _candidate(image: dict[str, Any] | None, caption: bytes | None, url: bytes | None, read: Any) -> Candidate:
    data = (image or {}).get("bytes")
    problem = None
    if data is None:
        problem = "no image" if not (image or {}).get("path") else "image is a path: save the dataset with its bytes"
    elif not (caption or b"").strip():
        problem = "no caption"
    try:
        text = caption.decode() if caption is not None else None
    except UnicodeDecodeError:
        text, problem = None, problem or "caption is not UTF-8"
    shown = url.decode("utf-8", "backslashreplace").strip() if url is not None else None
    path = str((image or {}).get("path") or "").encode("utf-8", "backslashreplace")
    content = sha256_bytes(data).encode() if data is not None else b"path " + path
    return Candidate((b"row", content, caption or b""), shown, text, read, problem)


def _read(dataset: Any, row: int, column: str) -> bytes:
    data: bytes = dataset[row].column(column)[0].as_py()["bytes"]
    return data
