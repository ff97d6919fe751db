"""Making evaluation sets: from rendered scenes, the held-out share of a source, or a published set."""

import json
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from lotlip.data.loading.samples import is_held_out
from lotlip.data.manifest import read_manifest
from lotlip.data.shards import ShardReader, encode_png
from lotlip.errors import DataError
from lotlip.evaluation.folder_check import FolderCheck
from lotlip.evaluation.public_sets import imagenet_classes, imagenet_templates
from lotlip.params import ScenesEvalset
from lotlip.records import publish_folder, sha256_bytes, sha256_file, write_json, write_text
from lotlip.sample import scenes
from lotlip.text.subcaptions import normalize_long, split_sub_captions


@dataclass(frozen=True)
class Item:
    """One image, encoded under its file name, with its texts (retrieval) or its class (classification)."""

    name: str
    image: bytes
    texts: tuple[str, ...] = ()
    label: int | None = None


def scene_items(params: ScenesEvalset) -> Iterator[Item]:
    """Rendered scenes with what `params.texts` asks for.

    `reference`: one long description an image, split into sub-captions and joined by ". ", as every long set
    is; `short`: five captions an image; `classes`: the index of the main object's class.
    """
    for index in range(params.num_images):
        scene = scenes.make_scene(params.seed, index)
        name = sha256_bytes(f"{params.seed}/{index}".encode())[:20] + ".png"
        image = encode_png(scenes.render(scene))
        if params.texts == "reference":
            yield Item(name, image, texts=(normalize_long(scenes.reference_description(scene)),))
        elif params.texts == "short":
            yield Item(name, image, texts=scenes.short_captions(scene))
        else:
            yield Item(name, image, label=scenes.class_label(scene))


def held_out_items(folder: Path, share: float) -> Iterator[Item]:
    """The held-out samples of an image folder with their raw captions; an empty caption gives no text.

    Raises:
        DataError: the manifest or a shard is missing or damaged.
    """
    manifest = read_manifest(folder, "images")
    for shard in manifest.shards:
        with ShardReader(manifest.path(shard, "tar"), shard.files["tar"].sha256) as reader:
            for key in reader.keys:
                if is_held_out(key, share):
                    caption = " ".join(reader.caption(key).split())
                    image = reader.image(key)
                    yield Item(f"{key}.{_extension(image)}", image, texts=(caption,) if caption else ())


def write_evalset(folder: Path, texts: str, items: Iterable[Item]) -> dict[str, float | int]:
    """Write a set, whole or not at all, and return its report.

    An image without any text cannot be a retrieval query: it is left out and counted.

    Args:
        folder: becomes the set; what was there is replaced.
        texts: `reference`, `short`, `raw` (retrieval) or `classes` (classification).
        items: the images; their names must differ.

    Returns:
        `num_images`, `num_texts`, `num_skipped_without_text`, `num_duplicate_texts` (equal to a text of
        another image, so a tie no model can win), and the means `sub_captions_per_text` and
        `characters_per_text`; for classes `num_classes` and `num_classes_present` in place of text counts.

    Raises:
        DataError: nothing is left to evaluate on, or two items share a name.
    """
    is_classes = texts == "classes"
    rows: list[dict[str, Any]] = []
    num_skipped = 0
    names: set[str] = set()
    with publish_folder(folder) as staging:
        (staging / "images").mkdir()
        for item in items:
            if item.label is None and not item.texts:
                num_skipped += 1
                continue
            if item.name in names:
                raise DataError(f"{folder}: two images are called {item.name}; names must be unique in a set.")
            names.add(item.name)
            (staging / "images" / item.name).write_bytes(item.image)
            target = {"label": item.label} if is_classes else {"texts": list(item.texts)}
            rows.append({"image": f"images/{item.name}", **target})
        _refuse_empty(folder, rows, num_skipped)
        classes = scenes.CLASS_NAMES if is_classes else ()
        _write_rows(staging, rows, texts, texts == "reference", classes, scenes.CLASS_TEMPLATES)
    return _class_report(rows, len(scenes.CLASS_NAMES)) if is_classes else _text_report(rows, num_skipped)


def write_public_set(folder: Path, check: FolderCheck, allow_missing: bool) -> dict[str, float | int]:
    """Write a published set whose images stay where they are: each row has its image's SHA-256, set.json the root.

    Args:
        folder: becomes the set; what was there is replaced.
        check: what lies in the set's folder.
        allow_missing: missing images are left out and counted; else they are an error.

    Returns:
        As `write_evalset`, and `num_missing_images`, `num_empty_texts`, `num_duplicate_images` (with the same bytes
        as an earlier one), and `num_set_images`, how many the whole set has.

    Raises:
        DataError: as `FolderCheck.refuse_problems`, or an image cannot be read.
    """
    check.refuse_problems(allow_missing)
    is_classes = check.spec.task == "classification"
    with ThreadPoolExecutor() as pool:  # hashing lets other threads run
        hashes = list(pool.map(sha256_file, (check.images_root / sample.image for sample in check.samples)))
    rows: list[dict[str, Any]] = [
        {"image": sample.image, "sha256": sha256}
        | ({"label": sample.label} if is_classes else {"texts": list(sample.texts)})
        for sample, sha256 in zip(check.samples, hashes, strict=True)
    ]
    classes = tuple(imagenet_classes().values()) if is_classes else ()
    with publish_folder(folder) as staging:
        root, texts = str(check.images_root), "classes" if is_classes else check.name
        _write_rows(staging, rows, texts, check.normalize_long, classes, imagenet_templates(), root)
    report = _class_report(rows, len(classes)) if is_classes else _text_report(rows, len(check.without_text))
    return {
        **report,
        "num_missing_images": len(check.missing_images),
        "num_empty_texts": check.num_empty_texts,
        "num_duplicate_images": len(hashes) - len(set(hashes)),
        "num_set_images": check.spec.num_images or len(rows),
    }


def _write_rows(
    folder: Path,
    rows: Sequence[dict[str, Any]],
    texts: str,
    normalize: bool,
    classes: Sequence[str],
    templates: Sequence[str],
    root: str | None = None,
) -> None:
    """samples.jsonl and set.json; `root` is where the images lie, None: in the folder itself."""
    write_text(folder / "samples.jsonl", "".join(f"{json.dumps(row)}\n" for row in rows))
    header = {
        "task": "classification" if classes else "retrieval",
        "texts": texts,
        "num_images": len(rows),
        "num_texts": sum(len(row.get("texts", ())) for row in rows),
        "classes": list(classes),
        "templates": list(templates) if classes else [],
        "normalize_long": normalize,
    }
    write_json(folder / "set.json", header if root is None else {**header, "root": root})


def _text_report(rows: list[dict[str, Any]], num_skipped: int) -> dict[str, float | int]:
    texts = [text for row in rows for text in row["texts"]]
    holders: dict[str, set[str]] = {}
    for row in rows:
        for text in row["texts"]:
            holders.setdefault(text, set()).add(row["image"])
    return {
        "num_images": len(rows),
        "num_texts": len(texts),
        "num_skipped_without_text": num_skipped,
        "num_duplicate_texts": sum(len(holders[text]) > 1 for text in texts),
        "sub_captions_per_text": round(fmean(len(split_sub_captions(text)) for text in texts), 4),
        "characters_per_text": round(fmean(len(text) for text in texts), 4),
    }


def _class_report(rows: list[dict[str, Any]], num_classes: int) -> dict[str, float | int]:
    return {
        "num_images": len(rows),
        "num_texts": 0,
        "num_classes": num_classes,
        "num_classes_present": len({row["label"] for row in rows}),
    }


def _refuse_empty(folder: Path, rows: list[dict[str, Any]], num_skipped: int) -> None:
    if not rows:
        raise DataError(
            f"{folder} would be empty ({num_skipped} images had no text): nothing to evaluate on. "
            "Give the set more images, or its source a larger held_out_share."
        )


def _extension(image: bytes) -> str:
    if image.startswith(b"\x89PNG"):
        return "png"
    return "webp" if image[8:12] == b"WEBP" else "jpg"
