"""Reading evaluation sets: `set.json`, `samples.jsonl` and the images, whatever they were made from."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from lotlip.errors import DataError
from lotlip.records import read_json

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
        DataError: a file or an image is missing, a row is not what its task needs, the set is empty, or its
            counts differ from `set.json`.
    """
    header = read_json(folder / "set.json")
    rows = _read_rows(folder / "samples.jsonl", header["task"], len(header["classes"]))
    texts = [(i, text) for i, row in enumerate(rows) for text in row.get("texts", ())]
    found = {"num_images": len(rows), "num_texts": len(texts)}
    promised = {name: header[name] for name in found}
    if found != promised or not rows:
        raise DataError(f"{folder}/samples.jsonl holds {found}; set.json says {promised}. {_again(folder)}")
    images = tuple(folder / row["image"] for row in rows)
    missing = [image for image in images if not image.is_file()]
    if missing:
        raise DataError(
            f"{len(missing)} of {len(images)} images of {folder} are missing, first {missing[0].name}. {_again(folder)}"
        )
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


def _read_rows(path: Path, task: Task, num_classes: int) -> list[dict[str, Any]]:
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        raise DataError(f"{path} is missing. {_again(path.parent)}") from None
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            if task == "classification":
                good = 0 <= row["label"] < num_classes
            else:
                good = bool(row["texts"]) and all(isinstance(text, str) for text in row["texts"])
        except (ValueError, KeyError, TypeError):
            good = False
        if not good or not isinstance(row.get("image"), str):
            wanted = f"'label' below {num_classes}" if task == "classification" else "a list 'texts'"
            raise DataError(f"{path}, line {number}: expected an object with 'image' and {wanted}, got {line[:80]}")
        rows.append(row)
    return rows


def _again(folder: Path) -> str:
    return f"Write the set again: `dvc repro -f evalset@{folder.name}`."
