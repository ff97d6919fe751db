"""JPEG to a 224-pixel square, as training does it: ours against Pillow's full decode and bicubic resize.

The pictures are scikit-learn's two photos, enlarged, with the noise of a camera (standard deviation 3 of 255), saved
at quality 90 with 4:2:0 chroma. PSNR is that of our square to Pillow's. One thread.
"""

import io
import math
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from sys import path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_image

path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.timing import compare, save
from lotlip.data.augment import train_transform
from lotlip.data.decoding import scaled_centre
from lotlip.data.images import open_encoded
from lotlip.params import Augment, Decode

SIZE, REPEATS, ROUNDS = 224, 10, 9
MAX_PIXELS = 100_000_000
HALF = (0.5, 0.5, 0.5)
SETTINGS: dict[str, tuple[Augment | None, Decode]] = {
    "scaled": (None, "scaled"),
    "full": (None, "full"),
    "scaled_crop": (Augment(), "scaled"),
    "scaled_rand_augment": (Augment(scale=(0.08, 1.0), flip=0.5, num_ops=2), "scaled"),
    "full_rand_augment": (Augment(scale=(0.08, 1.0), flip=0.5, num_ops=2), "full"),
}


def photo(name: str, width: int, height: int) -> bytes:
    image = Image.fromarray(load_sample_image(f"{name}.jpg")).resize((width, height), Image.Resampling.LANCZOS)
    noise = np.random.default_rng(0).normal(0, 3, (height, width, 3))
    buffer = io.BytesIO()
    Image.fromarray((np.asarray(image) + noise).round().clip(0, 255).astype(np.uint8)).save(
        buffer, "JPEG", quality=90, subsampling="4:2:0"
    )
    return buffer.getvalue()


def ours(data: bytes) -> NDArray[np.uint8]:
    return scaled_centre(open_encoded(data, MAX_PIXELS), SIZE)


def pillow(data: bytes) -> NDArray[np.uint8]:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    short = min(image.size)
    image = image.resize((SIZE * image.width // short, SIZE * image.height // short), Image.Resampling.BICUBIC)
    left, top = round((image.width - SIZE) / 2), round((image.height - SIZE) / 2)
    return np.asarray(image.crop((left, top, left + SIZE, top + SIZE)))


def psnr(data: bytes) -> float:
    error = np.square(ours(data).astype(float) - pillow(data)).mean()
    return round(10 * math.log10(255**2 / error), 1)


def all_of(way: Callable[[bytes], NDArray[np.uint8]], files: list[bytes]) -> None:
    for data in files:
        way(data)


def transform_all(files: list[bytes], setting: str) -> None:
    augment, decode = SETTINGS[setting]
    for i, data in enumerate(files):
        train_transform(data, MAX_PIXELS, SIZE, HALF, HALF, augment, decode, random.Random(i))


def measure(width: int, height: int) -> dict[str, object]:
    files = [photo(name, width, height) for name in ("china", "flower")] * REPEATS
    times = compare({way.__name__: partial(all_of, way, files) for way in (ours, pillow)}, ROUNDS)
    transforms = compare({name: partial(transform_all, files, name) for name in SETTINGS}, ROUNDS)
    return {
        "ours_ms": _milliseconds(times["ours_s"], files),
        "pillow_ms": _milliseconds(times["pillow_s"], files),
        "pillow_ratio": times["pillow_ratio"],
        "psnr_db": min(psnr(data) for data in files[:2]),
        "to_tensor_ms": {name: _milliseconds(transforms[f"{name}_s"], files) for name in SETTINGS},
    }


def main() -> None:
    torch.set_num_threads(1)
    for width, height in ((1024, 768), (500, 400)):
        save(f"decode_{width}x{height}", measure(width, height))


def _milliseconds(seconds: float, files: list[bytes]) -> float:
    """An image's share."""
    return round(1000 * seconds / len(files), 2)


if __name__ == "__main__":
    main()
