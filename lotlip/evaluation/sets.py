"""Reading evaluation sets: `set.json`, `samples.jsonl` and the images, whatever they were made from."""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from lotlip.data.evalset_files import images_root, inside, write_again
from lotlip.errors import DataError
from lotlip.records import read_json, sha256_file

Task = Literal["retrieval", "classification"]


@dataclass(frozen=True)
class EvalSet:
    """A read set. Text t belongs to image `image_of_text[t]`; `labels` has an entry an image for classes."""

    name: str
    task: Task
    images: tuple[Path, ...]
    texts: tuple[str, ...]
    image_of_text: tuple[int, ...]
    labels: tuple[int, ...]
    classes: tuple[str, ...]
    templates: tuple[str, ...]


def read_evalset(folder: Path) -> EvalSet:
    """Read a set and check it.

    Raises:
        DataError: a file or an image is missing, `set.json` is damaged, an image of a published set has changed, a row
            is not what its task needs, the set is empty, or its counts differ from `set.json`.
    """
    header = _read_header(folder)
    rows = _read_rows(folder / "samples.jsonl", header["task"], len(header["classes"]))
    texts = [(i, text) for i, row in enumerate(rows) for text in row.get("texts", ())]
    found = {"num_images": len(rows), "num_texts": len(texts)}
    promised = {name: header[name] for name in found}
    if found != promised or not rows:
        raise DataError(f"{folder}/samples.jsonl holds {found}; set.json says {promised}. {write_again(folder)}")
    images = _find_images(folder, images_root(folder, header), rows)
    return EvalSet(
        name=folder.name,
        task=header["task"],
        images=images,
        texts=tuple(text for _, text in texts),
        image_of_text=tuple(i for i, _ in texts),
        labels=tuple(row["label"] for row in rows if "label" in row),
        classes=tuple(header["classes"]),
        templates=tuple(header["templates"]),
    )


def _read_header(folder: Path) -> dict[str, Any]:
    header = read_json(folder / "set.json")
    kinds = {"classes": list, "templates": list, "num_images": int, "num_texts": int}
    is_whole = isinstance(header, dict) and header.get("task") in get_args(Task)
    is_whole = is_whole and all(isinstance(header.get(name), kind) for name, kind in kinds.items())
    if not is_whole or not all(isinstance(text, str) for text in (*header["classes"], *header["templates"])):
        raise DataError(f"{folder}/set.json is not what an evaluation set's has to be: {write_again(folder)}")
    found: dict[str, Any] = header
    return found


def _read_rows(path: Path, task: Task, num_classes: int) -> list[dict[str, Any]]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        raise DataError(f"{path} is missing. {write_again(path.parent)}") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if task == "classification":
                good = type(row["label"]) is int and 0 <= row["label"] < num_classes
            else:
                texts = row["texts"]
                good = isinstance(texts, list) and bool(texts) and all(isinstance(text, str) for text in texts)
        except (ValueError, KeyError, TypeError, RecursionError):  # neither JSON nor UTF-8, or another object
            good = False
        if not good or not isinstance(row.get("image"), str):
            wanted = f"'label' below {num_classes}" if task == "classification" else "a list 'texts'"
            found = line[:80].decode(errors="replace")
            raise DataError(f"{path}, line {number}: expected an object with 'image' and {wanted}, got {found}")
        rows.append(row)
    return rows


def _find_images(folder: Path, root: Path, rows: list[dict[str, Any]]) -> tuple[Path, ...]:
    """The images of the rows; those of a published set, which anyone may change, must still have their SHA-256."""
    images = tuple(inside(root, row["image"]) for row in rows)
    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        is_there = list(pool.map(Path.is_file, images))
        missing = [image for image, there in zip(images, is_there, strict=True) if not there]
        if missing:
            raise DataError(
                f"{len(missing)} of {len(images)} images of {folder} are missing below {root}, first "
                f"{missing[0].relative_to(root)}. Bring them back. {write_again(folder)}"
            )
        pinned = [(image, row["sha256"]) for image, row in zip(images, rows, strict=True) if "sha256" in row]
        found = pool.map(sha256_file, (image for image, _ in pinned))
        changed = [image for (image, wanted), sha256 in zip(pinned, found, strict=True) if sha256 != wanted]
    if changed:
        raise DataError(
            f"{len(changed)} of {len(images)} images of {folder} have changed since then, first {changed[0]}. "
            f"Bring the old ones back, or write the set with the new ones: `dvc repro evalset@{folder.name}`."
        )
    return images
