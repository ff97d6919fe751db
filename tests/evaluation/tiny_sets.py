"""Tiny copies of the published sets, with their real file names and structures; every image differs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def picture(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    grid = np.random.default_rng(shade).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(grid).resize((40, 30)).save(path, format="JPEG")


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))
    return path


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


THINGS = ("red circle", "blue star", "green heart", "yellow square")  # words that the tiny model knows


def sharegpt4v(root: Path) -> list[str]:
    """Three entries of two of SA-1B's archives."""
    images = ["sa_000000/images/sa_545504.jpg", "sa_000000/images/sa_1.jpg", "sa_000001/images/sa_12.jpg"]
    rows = []
    for i, image in enumerate(images):
        turns = [
            {"from": "human", "value": "What do you see?\n<image>"},
            {"from": "gpt", "value": f"In {i}. A dog.\nSky"},
        ]
        rows.append({"id": image[:-4], "image": image, "conversations": turns})
        picture(root / image, 20 * i)
    write_json(root / "share4v_sam_10k.json", rows)
    return images


def dci(root: Path) -> list[str]:
    """Four images; the splits name them in another order than the folder."""
    folder = root / "densely_captioned_images"
    for i in range(4):
        texts = {"short_caption": f"A {THINGS[i]}.", "extra_caption": f"Big {THINGS[i]}. Left."}
        row = {"image": f"sa_{i}.jpg", **texts}
        write_json(folder / "annotations" / f"sa_{i}.json", {**row, "mask_data": {}})
        write_json(folder / "complete" / f"sa_{i}.json", {"image": "another"})
        picture(folder / "photos" / f"sa_{i}.jpg", 20 * i)
    write_json(
        folder / "splits.json", {"train": ["sa_2.json", "sa_0.json"], "valid": ["sa_3.json"], "test": ["sa_1.json"]}
    )
    return [f"densely_captioned_images/photos/sa_{i}.jpg" for i in (2, 0, 3, 1)]


def iiw(root: Path) -> list[str]:
    rows = {
        "DOCCI_Test": [{"image": "test_00731", "IIW": "First. One.", "DOCCI": "x"}, {"image": "test_2", "IIW": "Two"}],
        "IIW-400": [{"image/key": "aar_test_04600", "IIW": "Third.", "IIW-P5B": "x"}],
        "DCI_Test": [{"image": "sa_1545038.jpg", "ex_id": "sa_1545038.json", "IIW": "Fourth\nline."}],
    }
    for split, of_split in rows.items():
        write_lines(root / split / "data.jsonl", of_split)
    images = ["docci/test_00731.jpg", "docci/test_2.jpg", "docci_aar/aar_test_04600.jpg", "dci/sa_1545038.jpg"]
    for i, image in enumerate(images):
        picture(root / image, 20 * i)
    return images


def urban1k(root: Path) -> list[str]:
    (root / "caption").mkdir(parents=True)
    for i in (1, 2, 10):
        (root / "caption" / f"{i}.txt").write_text(f"Street {i}. A car.\nanother line\n")
        picture(root / "image" / f"{i}.jpg", 20 * i)
    return [f"image/{i}.jpg" for i in (1, 2, 10)]


def docci(root: Path) -> list[str]:
    rows = []
    for i, split in enumerate(["train", "test", "qual_dev", "test", "qual_test", "test"]):
        name = f"{split}_{i:05}"
        rows.append(
            {"example_id": name, "split": split, "image_file": f"{name}.jpg", "description": f"A cat {i}. Ears."}
        )
        picture(root / "images" / f"{name}.jpg", 20 * i)
    write_lines(root / "docci_descriptions.jsonlines", rows)
    return [f"images/test_{i:05}.jpg" for i in (1, 3, 5)]


def coco(root: Path) -> list[str]:
    """Three test images; the second has six captions, of which five count."""
    images = []
    for i, split in enumerate(["test", "restval", "test", "val", "test"]):
        folder = "train2014" if split == "restval" else "val2014"
        name = f"COCO_{folder}_{i:012}.jpg"
        sentences = [{"raw": f"A dog {i} {k} .", "tokens": ["a"], "imgid": i} for k in range(6 if i == 2 else 5)]
        images.append({"filepath": folder, "filename": name, "split": split, "imgid": i, "sentences": sentences})
        picture(root / folder / name, 20 * i)
    write_json(root / "dataset_coco.json", {"images": images, "dataset": "coco"})
    return [f"val2014/COCO_val2014_{i:012}.jpg" for i in (0, 2, 4)]


def flickr30k(root: Path) -> list[str]:
    images = []
    for i, split in enumerate(["test", "train", "test", "test"]):
        sentences = [{"raw": f"People {i}. Row {k}.", "tokens": ["p"]} for k in range(5)]
        images.append({"filename": f"100{i}.jpg", "split": split, "sentences": sentences, "sentids": [0]})
        picture(root / "flickr30k-images" / f"100{i}.jpg", 20 * i)
    write_json(root / "dataset_flickr30k.json", {"images": images, "dataset": "flickr30k"})
    return [f"flickr30k-images/100{i}.jpg" for i in (0, 2, 3)]


def imagenet(root: Path) -> list[str]:
    """Five images of three classes: tench (0), goldfish (1) and toilet paper (999)."""
    images = [
        "val/n01440764/ILSVRC2012_val_00000293.JPEG",
        "val/n01440764/ILSVRC2012_val_00002138.JPEG",
        "val/n01443537/ILSVRC2012_val_00000236.JPEG",
        "val/n15075141/ILSVRC2012_val_00000199.JPEG",
        "val/n15075141/ILSVRC2012_val_00000374.JPEG",
    ]
    for i, image in enumerate(images):
        picture(root / image, 20 * i)
    return images


def jsonl(root: Path) -> list[str]:
    rows = [{"image": "a.jpg", "text": "One. Two."}, {"image": "b.jpg", "texts": ["Three", "Four"]}]
    rows.append({"image": "a.jpg", "text": "Five"})
    write_lines(root / "mine.jsonl", rows)
    picture(root / "a.jpg", 1)
    picture(root / "b.jpg", 2)
    return ["a.jpg", "b.jpg"]


def csv(root: Path) -> list[str]:
    picture(root / "a.jpg", 1)
    picture(root / "b.jpg", 2)
    (root / "mine.csv").write_text('image,text\na.jpg,"One. Two."\nb.jpg,Three\nb.jpg,Four\na.jpg,Five\n')
    return ["a.jpg", "b.jpg"]


WRITERS: dict[str, Callable[[Path], list[str]]] = {
    "sharegpt4v_1k": sharegpt4v,
    "sharegpt4v_10k": sharegpt4v,
    "dci": dci,
    "iiw": iiw,
    "urban1k": urban1k,
    "docci": docci,
    "coco": coco,
    "flickr30k": flickr30k,
    "imagenet": imagenet,
    "jsonl": jsonl,
    "csv": csv,
}
