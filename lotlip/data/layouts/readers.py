"""All layouts by name."""

from collections.abc import Iterator
from pathlib import Path

from lotlip.data.layouts.datasets import read_dataset
from lotlip.data.layouts.entries import Entry, Found, Reader
from lotlip.data.layouts.long_sets import read_dci, read_docci, read_iiw, read_sharegpt4v, read_urban1k
from lotlip.data.layouts.own_sets import read_csv, read_jsonl
from lotlip.data.layouts.short_sets import karpathy, read_imagenet
from lotlip.errors import DataError

LAYOUTS: dict[str, Reader] = {
    "manifest": read_dataset,
    "jsonl": read_jsonl,
    "csv": read_csv,
    "iiw": read_iiw,
    "dci": read_dci,
    "sharegpt4v": read_sharegpt4v,
    "urban1k": read_urban1k,
    "docci": read_docci,
    "coco": karpathy("dataset_coco.json"),
    "flickr30k": karpathy("dataset_flickr30k.json"),
    "imagenet": read_imagenet,
}


def read_layout(name: str, path: Path) -> Iterator[Entry]:
    """The entries of `path`, which lies in the layout of that name (one of `LAYOUTS`), in the set's order.

    No image is read.

    Raises:
        DataError: nothing of that layout is there, or an entry lacks what it must have; the message says which.
    """
    if name not in LAYOUTS:
        raise DataError(f"Format {name!r} is unknown; expected one of {', '.join(LAYOUTS)}.")
    if not path.exists():
        raise DataError(f"{path} does not exist: give the folder or file of a set in the format {name!r}.")
    return _all_or_error(LAYOUTS[name](path))


def _all_or_error(found: Iterator[Found]) -> Iterator[Entry]:
    for one in found:
        if isinstance(one, DataError):
            raise one
        yield one
