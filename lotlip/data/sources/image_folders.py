"""Image folders: a tree of images with their captions beside them.

A caption is the file `<name>.txt` beside the image `<name>.<extension>`, or a row of a table `captions` or `metadata`
(.csv, .tsv, .jsonl, .parquet) with a column `file_name`, relative to the table's own folder, as Hugging Face's
ImageFolder has it. Where both are there, the table's counts. Hidden files are not looked at, links that lead out of
the folder are not followed.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

from lotlip.data.sources.candidates import Candidate
from lotlip.data.sources.requests import decode
from lotlip.data.sources.table_files import read_cells
from lotlip.errors import DataError
from lotlip.params import ImageFolderSource
from lotlip.storage.copies import local_path

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp")
TABLE_NAMES = ("captions", "metadata")
TABLE_ENDINGS = (".csv", ".tsv", ".jsonl", ".parquet")
CAPTION_COLUMNS = ("caption", "text")  # where the source names none
_MAX_TEXT = 1 << 20  # bytes of a caption file; a longer one is no caption


def find_images(source: ImageFolderSource, max_bytes: int) -> Iterator[Candidate]:
    """Yield a candidate for every image, every caption without one, and every link to a folder, by path.

    Raises:
        DataError: the folder is missing or holds neither images nor captions, or a table is not readable.
    """
    folder = local_path(source.path)
    if not folder.is_dir():
        raise DataError(f"Image folder {source.path} is missing: check `path` of the source in params.yaml.")
    root = folder.resolve()
    tree = _walk(root)
    if not (tree.images or tree.texts or tree.tables):
        raise DataError(
            f"{source.path} holds no images ({', '.join(IMAGE_ENDINGS)}): check `path` of the source in params.yaml."
        )
    rows = _read_tables(root, tree, source.caption_column)
    paths = sorted({*tree.images, *rows, *_lonely_texts(tree)} | set(tree.links))
    for path in paths:
        if path in tree.links:
            yield _candidate(root, path, None, max_bytes, "linked folder is not followed")
            continue
        captions = rows.get(path) or [_sidecar(root, path, tree)]
        for caption, problem in captions:
            yield _candidate(root, path, caption, max_bytes, problem or _file_problem(root, path, caption))


@dataclass
class _Tree:
    """What lies in the folder, by relative path; `texts` are caption files by their path without ending."""

    images: set[str] = field(default_factory=set)
    texts: dict[str, str] = field(default_factory=dict)
    tables: list[str] = field(default_factory=list)
    links: set[str] = field(default_factory=set)


Captions = dict[str, list[tuple[bytes | None, str | None]]]  # (caption, problem) of each row, by image path


def _walk(root: Path) -> _Tree:
    tree = _Tree()
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if not name.startswith("."))
        here = os.path.relpath(folder, root)
        tree.links.update(_join(here, name) for name in names if (Path(folder) / name).is_symlink())
        for name in sorted(file for file in files if not file.startswith(".")):
            stem, ending = os.path.splitext(name)  # noqa: PTH122 - plain strings: names may be no UTF-8
            path = _join(here, name)
            if ending.lower() in IMAGE_ENDINGS:
                tree.images.add(path)
            elif ending.lower() == ".txt":
                tree.texts[_join(here, stem)] = path
            elif stem in TABLE_NAMES and ending in TABLE_ENDINGS:
                tree.tables.append(path)
    return tree


def _read_tables(root: Path, tree: _Tree, caption_column: str | None) -> Captions:
    rows: Captions = {}
    for table in tree.tables:
        if not _is_inside(root, table):
            raise DataError(f"{root / table} is a link that leaves the image folder: copy the table there.")
        folder = str(PurePosixPath(table).parent)
        for record in read_cells(root / table, None, ["file_name", caption_column or CAPTION_COLUMNS]):
            name, caption = os.fsdecode(record.cells[0] or b""), record.cells[1]
            problem = record.problem or _name_problem(name)
            path = f"{table}: {name}" if problem else _join(folder, str(PurePosixPath(name)))
            rows.setdefault(path, []).append((caption, problem))
    return rows


def _name_problem(name: str) -> str | None:
    if not name.strip():
        return "file_name is missing"
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name or "\0" in name:
        return "file_name leaves the folder"
    return None


def _lonely_texts(tree: _Tree) -> set[str]:
    """Caption files without an image of their name."""
    with_image = {os.path.splitext(path)[0] for path in tree.images}  # noqa: PTH122
    return {path for stem, path in tree.texts.items() if stem not in with_image}


def _sidecar(root: Path, path: str, tree: _Tree) -> tuple[bytes | None, str | None]:
    """Caption and problem of an image without a row, or of a caption file without an image."""
    is_image = path in tree.images
    text = tree.texts.get(os.path.splitext(path)[0])  # noqa: PTH122
    if text is None:
        return None, None
    if not _is_inside(root, text):
        return None, "caption is a link that leaves the folder"
    try:
        if (root / text).stat().st_size > _MAX_TEXT:
            return None, f"caption is too long: more than {_MAX_TEXT} bytes"
        return (root / text).read_bytes().strip(), None if is_image else "no image"
    except OSError as error:
        return None, f"caption cannot be read: {error.strerror}"


def _file_problem(root: Path, path: str, caption: bytes | None) -> str | None:
    if not os.path.lexists(root / path):
        return "no image"
    if not _is_inside(root, path):
        return "image is a link that leaves the folder"
    if not (root / path).is_file():
        return "no image"
    return None if (caption or b"").strip() else "no caption"


def _candidate(root: Path, path: str, caption: bytes | None, max_bytes: int, problem: str | None) -> Candidate:
    text = decode(caption) if caption is not None else None
    if problem is None and text is None:
        problem = "caption is not UTF-8"
    name = os.fsencode(path)
    shown = name.decode("utf-8", "backslashreplace")
    return Candidate((b"file", name), shown, text, partial(_read, root / path, max_bytes), problem)


def _read(path: Path, max_bytes: int) -> bytes:
    try:
        if (size := path.stat().st_size) > max_bytes:
            raise DataError(f"file too large: {size} bytes, more than {max_bytes}")
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"file cannot be read: {error.strerror}") from None


def _is_inside(root: Path, path: str) -> bool:
    return Path(os.path.realpath(root / path)).is_relative_to(root)


def _join(folder: str, name: str) -> str:
    return name if folder == "." else f"{folder}/{name}"
