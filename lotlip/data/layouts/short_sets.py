"""Published sets of short texts and of classes: MSCOCO and Flickr30k in Karpathy's splits, ImageNet."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lotlip.data.layouts.entries import IMAGE_ENDINGS, Entry, Found, Reader, as_list, as_text, each, read_json_file
from lotlip.errors import DataError

TEXTS_AN_IMAGE = 5  # of MSCOCO and Flickr30k; a few images of MSCOCO have more, which nobody scores
_WORDNET_ID = re.compile(r"n\d{8}")


def karpathy(default: str) -> Reader:
    """A reader of the test split of a Karpathy-split JSON, five texts an image; `default` is its file's name."""

    def read(path: Path) -> Iterator[Found]:
        file = path / default if path.is_dir() else path
        record = read_json_file(file)
        images = as_list(record.get("images") if isinstance(record, dict) else None, f"{file}: `images`")
        is_empty = True
        for found in each(((f"{file}, image {number}", row) for number, row in enumerate(images)), make):
            is_empty = False
            yield found
        if is_empty:
            raise DataError(f"{file}: none of {len(images)} images has `split` test; expected a Karpathy-split JSON.")

    def make(where: str, row: Any) -> Entry | None:
        if as_text(row, "split", where) != "test":
            return None
        folder = as_text(row, "filepath", where) if row.get("filepath") else ""
        name = "/".join(part for part in (folder, as_text(row, "filename", where)) if part)
        sentences = as_list(row.get("sentences"), f"{where}: `sentences`")
        return Entry(name, tuple(as_text(sentence, "raw", where) for sentence in sentences[:TEXTS_AN_IMAGE]))

    return read


def read_imagenet(path: Path) -> Iterator[Found]:
    """Class folders named by WordNet id, or a folder `val` of them; the id is the label."""
    prefix = "val/" if (path / "val").is_dir() else ""
    top = path / prefix
    inside = sorted(folder for folder in top.glob("[!.]*") if folder.is_dir())
    folders = [folder for folder in inside if _WORDNET_ID.fullmatch(folder.name)]
    if not folders:
        raise DataError(
            f"{top} holds no class folder such as n01440764/: sort the validation images into one a class, named by "
            "WordNet id."
        )
    for folder in inside:
        if folder not in folders:
            yield DataError(f"{folder} is named by no WordNet id, which is n and 8 digits: take it out, or rename it.")
    for folder in folders:
        for file in sorted(folder.glob("[!.]*")):  # macOS leaves files with a dot in front
            if file.suffix.lower() in IMAGE_ENDINGS:
                yield Entry(f"{prefix}{folder.name}/{file.name}", (), folder.name)
