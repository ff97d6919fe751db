"""Where the images of an evaluation set lie: in its folder, or for a published set below the `root` in its set.json."""

import json
from pathlib import Path, PurePosixPath
from typing import Any

from lotlip.errors import DataError
from lotlip.records import read_json


def inside(root: Path, name: str) -> Path:
    """The file `name` of a set below `root`. Links below `root` may lead anywhere, a name may not.

    Raises:
        DataError: the name is empty, absolute, or climbs out with `..`.
    """
    path = PurePosixPath(name)
    if not name or "\0" in name or path.is_absolute() or ".." in path.parts:
        raise DataError(f"Image {name!r} is refused: expected a path below {root}, without `..`.")
    return root / path


def images_root(folder: Path, header: Any) -> Path:
    """The folder that the image names of a set are relative to; `header` is its parsed set.json."""
    root = header.get("root") if isinstance(header, dict) else None
    return Path(root) if isinstance(root, str) else folder


def evalset_images(folder: Path) -> list[Path]:
    """The images of a written evaluation set, in order; whether they are there is not looked at.

    Raises:
        DataError: `set.json` or `samples.jsonl` is missing or damaged, or an image lies outside the set.
    """
    root = images_root(folder, read_json(folder / "set.json"))
    path = folder / "samples.jsonl"
    try:
        return [inside(root, json.loads(line)["image"]) for line in path.read_text().splitlines()]
    except FileNotFoundError:
        raise DataError(f"{path} is missing. {write_again(folder)}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: a line is no object with 'image' ({error}). {write_again(folder)}") from None


def write_again(folder: Path) -> str:
    """What to do about a damaged set."""
    return f"Write the set again: `dvc repro -f evalset@{folder.name}`."
