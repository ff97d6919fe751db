"""Inputs of the captioning tests: small pictures, image shards that hold them, a captioner's settings."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lotlip.data.manifest import Manifest, Shard, describe_file, write_manifest
from lotlip.data.shards import write_tar
from lotlip.params import TransformersCaptioner
from tests.captioning.tiny import TEMPLATE

MAX_PIXELS = 1_000_000


def make_pictures(count: int, seed: int = 0) -> list[Image.Image]:
    """Random RGB pictures of different sizes."""
    rng = np.random.default_rng(seed)
    sizes = [(30 + 3 * i % 17, 34 + 5 * i % 13) for i in range(count)]
    return [Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes]


def encode_png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def write_images(folder: Path, name: str, shards: list[list[bytes]]) -> Manifest:
    """Image shards `<name>-00000.tar`, ... of encoded images; keys are `<name>-<shard>-<index>`."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for number, images in enumerate(shards):
        shard = f"{name}-{number:05d}"
        samples = [
            {"__key__": f"{name}-{number}-{i}", "png": data, "txt": f"raw {i}", "json": {"width": 1}}
            for i, data in enumerate(images)
        ]
        write_tar(folder / f"{shard}.tar", samples)
        entries.append(Shard(shard, len(images), {"tar": describe_file(folder, f"{shard}.tar")}))
    return write_manifest(folder, "images", entries)


def captioner_params(checkpoint: Path | str, **changes: Any) -> TransformersCaptioner:
    """Settings of a captioner over `checkpoint`, with `changes`."""
    values: dict[str, Any] = {
        "kind": "transformers",
        "checkpoint": str(checkpoint),
        "revision": None,
        "prompt": "Describe the image in detail",
        "template": TEMPLATE,
        "dtype": "float32",
        "device": "cpu",
        "batch_size": 4,
        "max_new_tokens": 12,
        "do_sample": False,
        "temperature": 1.0,
        "top_p": 1.0,
        "seed": 0,
        "retry_temperature": None,
        "max_failed_share": 1.0,  # random weights often write nothing
    }
    return TransformersCaptioner(**{**values, **changes})
