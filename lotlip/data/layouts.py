"""Images with their texts as the published evaluation sets lay them out, and as this project does.

Every reader yields an `Entry` an image, in the order of the set, and reads no image.

Source: METHOD.md "Evaluation sets".
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lotlip.data.manifest import read_manifest
from lotlip.data.tables import read_table
from lotlip.errors import DataError

IIW_SPLITS = {"DOCCI_Test": "docci", "IIW-400": "docci_aar", "DCI_Test": "dci"}  # and their folders of images
IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
TEXTS_AN_IMAGE = 5  # of MSCOCO and Flickr30k; a few images of MSCOCO have more, which nobody scores


@dataclass(frozen=True, slots=True)
class Entry:
    """An image, as its set names it, and its texts."""

    image: str
    texts: tuple[str, ...]


def read_layout(name: str, path: Path) -> Iterator[Entry]:
    """The entries of `path`, which lies in the layout of that name (one of `LAYOUTS`).

    Raises:
        DataError: nothing of that layout is there, or an entry lacks what it must have; the message says which.
    """
    if name not in LAYOUTS:
        raise DataError(f"Format {name!r} is unknown; expected one of {', '.join(LAYOUTS)}.")
    if not path.exists():
        raise DataError(f"{path} does not exist: give the folder or file of a set in the format {name!r}.")
    return LAYOUTS[name](path)


def _manifest(path: Path) -> Iterator[Entry]:
    """Raw captions of an image folder, long texts of a captions folder; failed ones are left out, images are not."""
    folder = path.parent if path.name == "manifest.json" else path
    record = _json(folder / "manifest.json")
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


def _jsonl(path: Path) -> Iterator[Entry]:
    """Objects with `texts`, one a line: a file, or a folder with samples.jsonl (an evaluation set)."""
    for where, row in _lines(path / "samples.jsonl" if path.is_dir() else path):
        texts = row.get("texts", [])
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise DataError(f"{where}: `texts` must be a list of strings, got {_short(texts)}.")
        yield Entry(str(row.get("image", "")), tuple(texts))


def _iiw(path: Path) -> Iterator[Entry]:
    """Three files <split>/data.jsonl in a folder, or one such file."""
    splits = {path.parent.name: path} if path.is_file() else {name: path / name / "data.jsonl" for name in IIW_SPLITS}
    for split, file in splits.items():
        for where, row in _lines(file):
            image = _text(row, "image" if "image" in row else "image/key", where)
            name = image if image.lower().endswith(IMAGE_ENDINGS) else f"{image}.jpg"
            yield Entry(f"{IIW_SPLITS.get(split, split)}/{name}", (_text(row, "IIW", where),))


def _dci(path: Path) -> Iterator[Entry]:
    """`densely_captioned_images/` (or its parent): all splits together; short caption, newline, extra caption."""
    folder = path.parent if path.is_file() else path
    if not (folder / "splits.json").is_file() and (folder / "densely_captioned_images").is_dir():
        folder /= "densely_captioned_images"
    splits = _json(folder / "splits.json")
    if not isinstance(splits, dict) or not all(isinstance(names, list) for names in splits.values()):
        raise DataError(f"{folder}/splits.json: expected lists of annotation files by split, got {_short(splits)}.")
    for name in (name for names in splits.values() for name in names):
        where = folder / "annotations" / str(name)
        row = _json(where)
        text = f"{_text(row, 'short_caption', where)}\n{_text(row, 'extra_caption', where)}"
        yield Entry(f"photos/{_text(row, 'image', where)}", (text,))


def _sharegpt4v(path: Path) -> Iterator[Entry]:
    """A JSON list (share4v_sam_10k.json); the second turn of the conversation is the caption."""
    file = path / "share4v_sam_10k.json" if path.is_dir() else path
    for number, row in enumerate(_list(_json(file), file)):
        where = f"{file}, entry {number}"
        turns = row.get("conversations") if isinstance(row, dict) else None
        if not isinstance(turns, list) or len(turns) < 2 or not isinstance(turns[1], dict):
            raise DataError(f"{where}: expected `conversations` with two turns, got {_short(row)}.")
        yield Entry(_text(row, "image", where), (_text(turns[1], "value", where),))


def _urban1k(path: Path) -> Iterator[Entry]:
    """image/<id>.jpg and caption/<id>.txt, of which the first line counts."""
    files = sorted((path / "caption").glob("*.txt"), key=lambda file: (len(file.stem), file.stem))
    if not files:
        raise DataError(f"{path}/caption holds no .txt file: expected image/<id>.jpg and caption/<id>.txt.")
    for file in files:
        try:
            first = file.read_bytes().split(b"\n", 1)[0].decode("utf-8-sig").strip()
        except UnicodeDecodeError as error:
            raise DataError(f"{file} is not UTF-8 ({error}).") from None
        yield Entry(f"image/{file.stem}.jpg", (first,) if first else ())


def _karpathy(default: str) -> Callable[[Path], Iterator[Entry]]:
    """The test split of a Karpathy-split JSON, five texts an image."""

    def read(path: Path) -> Iterator[Entry]:
        file = path / default if path.is_dir() else path
        record = _json(file)
        images = _list(record.get("images") if isinstance(record, dict) else None, f"{file}: `images`")
        found = [(i, row) for i, row in enumerate(images) if isinstance(row, dict) and row.get("split") == "test"]
        if not found:
            raise DataError(f"{file}: none of {len(images)} images has `split` test; expected a Karpathy-split JSON.")
        for number, row in found:
            where = f"{file}, image {number}"
            name = "/".join(part for part in (row.get("filepath"), _text(row, "filename", where)) if part)
            sentences = _list(row.get("sentences"), f"{where}: `sentences`")
            yield Entry(name, tuple(_text(sentence, "raw", where) for sentence in sentences[:TEXTS_AN_IMAGE]))

    return read


LAYOUTS: dict[str, Callable[[Path], Iterator[Entry]]] = {
    "manifest": _manifest,
    "jsonl": _jsonl,
    "iiw": _iiw,
    "dci": _dci,
    "sharegpt4v": _sharegpt4v,
    "urban1k": _urban1k,
    "coco": _karpathy("dataset_coco.json"),
    "flickr30k": _karpathy("dataset_flickr30k.json"),
}


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except NotADirectoryError:
        raise DataError(f"{path.parent} is a file; expected a folder with {path.name}.") from None
    except (FileNotFoundError, IsADirectoryError):
        raise DataError(f"{path} is missing: is this the right layout?") from None
    except ValueError as error:  # neither JSON nor UTF-8
        raise DataError(f"{path} is not JSON ({error}).") from None


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, object) of every line that is not blank."""
    if not path.is_file():
        raise DataError(f"{path} is missing: expected a file with a JSON object a line.")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}, line {number}"
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError:
                row = None
            if not isinstance(row, dict):
                raise DataError(f"{where}: expected a JSON object, got {_short(line.decode(errors='replace'))}.")
            yield where, row


def _list(value: Any, where: Any) -> Sequence[Any]:
    if not isinstance(value, list):
        raise DataError(f"{where}: expected a list, got {_short(value)}.")
    return value


def _text(row: Any, key: str, where: Any) -> str:
    value = row.get(key) if isinstance(row, dict) else None
    if not isinstance(value, str):
        raise DataError(f"{where}: expected a text under {key!r}, got {_short(row)}.")
    return value


def _short(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
