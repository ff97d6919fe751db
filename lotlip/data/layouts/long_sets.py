"""Published sets of long texts: ShareGPT4V, DCI, IIW, Urban1k, DOCCI; one text an image."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lotlip.data.layouts.entries import (
    IMAGE_ENDINGS,
    Entry,
    Found,
    MissingFile,
    as_list,
    as_text,
    each,
    json_object,
    read_json_file,
    read_lines,
    short,
)
from lotlip.errors import DataError

IIW_SPLITS = {"DOCCI_Test": "docci", "IIW-400": "docci_aar", "DCI_Test": "dci"}  # and their folders of images


def read_sharegpt4v(path: Path) -> Iterator[Found]:
    """A JSON list (share4v_sam_10k.json); the second turn of the conversation is the caption."""
    file = path / "share4v_sam_10k.json" if path.is_dir() else path

    def make(where: str, row: Any) -> Entry:
        turns = row.get("conversations") if isinstance(row, dict) else None
        if not isinstance(turns, list) or len(turns) < 2 or not isinstance(turns[1], dict):
            raise DataError(f"{where}: expected `conversations` with two turns, got {short(row)}.")
        return Entry(as_text(row, "image", where), (as_text(turns[1], "value", where),))

    rows = as_list(read_json_file(file), str(file))
    yield from each(((f"{file}, entry {number}", row) for number, row in enumerate(rows)), make)


def read_dci(path: Path) -> Iterator[Found]:
    """`densely_captioned_images/` (or its parent): all splits together; short caption, newline, extra caption."""
    folder = path.parent if path.is_file() else path
    if not (folder / "splits.json").is_file() and (path.is_dir() and path.name != "densely_captioned_images"):
        folder /= "densely_captioned_images"
    splits = read_json_file(folder / "splits.json")
    if not isinstance(splits, dict) or not all(isinstance(names, list) for names in splits.values()):
        raise DataError(f"{folder}/splits.json: expected lists of annotation files by split, got {short(splits)}.")

    def make(where: str, name: Any) -> Entry:
        if not isinstance(name, str) or Path(name).name != name or not name.isprintable():
            raise DataError(f"{folder}/splits.json: expected the name of a file in annotations/, got {short(name)}.")
        row = read_json_file(folder / "annotations" / name)
        text = f"{as_text(row, 'short_caption', where)}\n{as_text(row, 'extra_caption', where)}"
        return Entry(f"photos/{as_text(row, 'image', where)}", (text,))

    names = [name for of_split in splits.values() for name in of_split]
    yield from each(((str(folder / "annotations" / str(name)), name) for name in names), make)


def read_iiw(path: Path) -> Iterator[Found]:
    """Three files <split>/data.jsonl in a folder, or one such file."""
    splits = {path.parent.name: path} if path.is_file() else {name: path / name / "data.jsonl" for name in IIW_SPLITS}
    for split, file in splits.items():
        folder = IIW_SPLITS.get(split, split)

        def make(where: str, line: bytes, folder: str = folder) -> Entry:
            row = json_object(where, line)
            image = as_text(row, "image" if "image" in row else "image/key", where)
            name = image if image.lower().endswith(IMAGE_ENDINGS) else f"{image}.jpg"
            return Entry(f"{folder}/{name}", (as_text(row, "IIW", where),))

        is_empty = True
        try:
            for found in each(read_lines(file), make):
                is_empty = False
                yield found
        except MissingFile as error:  # the other splits can still be read
            yield error
        else:
            if is_empty:
                yield DataError(f"{file} is empty: expected a JSON object a line.")


def read_urban1k(path: Path) -> Iterator[Found]:
    """image/<id>.jpg and caption/<id>.txt, of which the first line counts; an empty one is no text."""
    # macOS leaves files with a dot in front.
    captions = {file.stem: file for file in (path / "caption").glob("[!.]*.txt")}
    if not captions:
        raise DataError(f"{path}/caption holds no .txt file: expected image/<id>.jpg and caption/<id>.txt.")
    images = {file.stem: file.name for file in (path / "image").glob("[!.]*") if file.suffix.lower() in IMAGE_ENDINGS}

    def make(where: str, stem: str) -> Entry:
        if not stem.isprintable():
            raise DataError(f"{path}: expected names of files in UTF-8, got {short(stem)}.")
        if stem not in captions:
            raise MissingFile(Path(where), f"expected the caption of image/{images[stem]}.")
        try:
            first = captions[stem].read_bytes().split(b"\n", 1)[0].decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise DataError(f"{where} is not UTF-8 ({error}).") from None
        return Entry(f"image/{images.get(stem, f'{stem}.jpg')}", (first,) if first else ())

    stems = sorted(captions.keys() | images.keys(), key=lambda stem: (len(stem), stem))
    yield from each(((str(path / "caption" / f"{stem}.txt"), stem) for stem in stems), make)


def read_docci(path: Path) -> Iterator[Found]:
    """docci_descriptions.jsonlines, of which the split `test` counts, and images/."""
    file = path / "docci_descriptions.jsonlines" if path.is_dir() else path
    num_rows = num_test = 0

    def make(where: str, line: bytes) -> Entry | None:
        nonlocal num_rows, num_test
        row = json_object(where, line)
        num_rows += 1
        if as_text(row, "split", where) != "test":
            return None
        num_test += 1
        return Entry(f"images/{as_text(row, 'image_file', where)}", (as_text(row, "description", where),))

    yield from each(read_lines(file), make)
    if not num_test:
        raise DataError(f"{file}: none of {num_rows} rows has `split` test; expected DOCCI's descriptions.")
