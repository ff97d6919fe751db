"""Scaled decoding: as close to Pillow's full decode and bicubic resize as 40 dB, whatever the JPEG and its size."""

import io
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_sample_image

from lotlip.data.decoding import scaled_centre, scaled_crop, upright_size
from lotlip.data.images import open_encoded, open_rgb
from lotlip.errors import DataError
from tests.data.fault_server import bomb

MANY = 50_000_000
BICUBIC = Image.Resampling.BICUBIC


def photo(name: str, width: int, height: int) -> Image.Image:
    """A real photo, enlarged, with the noise that a camera would have given it at that size."""
    image = Image.fromarray(load_sample_image(f"{name}.jpg")).resize((width, height), Image.Resampling.LANCZOS)
    noise = np.random.default_rng(0).normal(0, 3, (height, width, 3))
    return Image.fromarray((np.asarray(image) + noise).round().clip(0, 255).astype(np.uint8))


def encode(image: Image.Image, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", **{"quality": 90, **options})
    return buffer.getvalue()


def psnr(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    error = float(np.square(first.astype(float) - second.astype(float)).mean())
    return 10 * math.log10(255**2 / error) if error else math.inf


def full_centre(data: bytes, size: int) -> NDArray[np.uint8]:
    """By hand: decoded in full, shortest side to `size`, centre cut out."""
    image = open_rgb(data, MANY)
    width, height = image.size
    short = min(width, height)
    image = image.resize((int(size * width / short), int(size * height / short)), BICUBIC)
    left, top = round((image.width - size) / 2), round((image.height - size) / 2)
    return np.asarray(image)[top : top + size, left : left + size]


@pytest.mark.parametrize("name", ["china", "flower"])
@pytest.mark.parametrize(
    ("width", "height"),
    [(1024, 768), (500, 400), (97, 131), (673, 681), (1030, 771), (789, 1101), (1401, 1347), (2691, 2750), (64, 300)],
)
def test_a_scaled_centre_crop_is_within_40_db_of_the_full_one(name: str, width: int, height: int) -> None:
    data = encode(photo(name, width, height))
    square = scaled_centre(open_encoded(data, MANY), 224)
    assert (square.shape, square.dtype) == ((224, 224, 3), np.uint8)
    assert psnr(square, full_centre(data, 224)) >= 40


def test_without_a_smaller_scale_every_pixel_is_within_one_level() -> None:
    data = encode(photo("china", 500, 400))
    difference = scaled_centre(open_encoded(data, MANY), 224).astype(int) - full_centre(data, 224)
    assert abs(difference).max() <= 1


@pytest.mark.parametrize("size", [(1200, 900), (1203, 901)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_upright(size: tuple[int, int], orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(photo("flower", *size), exif=exif)
    image = open_encoded(data, MANY)
    assert upright_size(image) == open_rgb(data, MANY).size
    assert psnr(scaled_centre(image, 160), full_centre(data, 160)) >= 40


@pytest.mark.parametrize("mode", ["L", "CMYK"])
def test_other_modes_become_rgb(mode: str) -> None:
    data = encode(photo("china", 1000, 800).convert(mode))
    assert psnr(scaled_centre(open_encoded(data, MANY), 160), full_centre(data, 160)) >= 40


@pytest.mark.parametrize("options", [{"progressive": True}, {"subsampling": 0}, {"quality": 40}])
def test_other_ways_to_write_jpeg(options: dict[str, object]) -> None:
    data = encode(photo("china", 1000, 800), **options)
    assert psnr(scaled_centre(open_encoded(data, MANY), 160), full_centre(data, 160)) >= 40


def test_a_stereo_jpeg_counts_with_its_first_picture() -> None:
    first, second = photo("china", 1000, 800), photo("flower", 1000, 800)
    buffer = io.BytesIO()
    first.save(buffer, format="MPO", save_all=True, append_images=[second], quality=90)
    assert psnr(scaled_centre(open_encoded(buffer.getvalue(), MANY), 160), full_centre(buffer.getvalue(), 160)) >= 40


def test_a_processor_without_vector_instructions_finds_the_same_bytes(tmp_path: Path) -> None:
    data = encode(photo("china", 1000, 751))
    (tmp_path / "photo.jpg").write_bytes(data)
    program = (
        "import sys, torch; from pathlib import Path; from lotlip.data.images import open_encoded\n"
        "from lotlip.data.decoding import scaled_centre\n"
        "assert torch.backends.cpu.get_cpu_capability() == 'DEFAULT'\n"
        f"image = open_encoded(Path('photo.jpg').read_bytes(), {MANY})\n"
        "sys.stdout.buffer.write(scaled_centre(image, 160).tobytes())"
    )
    variables = {**os.environ, "ATEN_CPU_CAPABILITY": "default", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=variables, capture_output=True, check=True, timeout=100
    )
    assert done.stdout == scaled_centre(open_encoded(data, MANY), 160).tobytes()


def test_a_crop_is_the_cut_out_part_resized() -> None:
    data = encode(photo("china", 900, 700))
    left, top, width, height = 101, 53, 313, 297  # too small a part to be decoded at half the size
    crop = open_rgb(data, MANY).crop((left, top, left + width, top + height))
    expected = np.asarray(crop.resize((224, 160), BICUBIC))
    found = scaled_crop(open_encoded(data, MANY), (left, top, width, height), (224, 160))
    assert abs(found.astype(int) - expected).max() <= 1


@pytest.mark.parametrize("corner", [(0, 0), (3, 5), (6, 2), (399, 201)])
def test_a_scaled_crop_begins_at_a_whole_decoded_pixel(corner: tuple[int, int]) -> None:
    data = encode(photo("flower", 1300, 1001))
    width, height = 901, 800
    left, top = (side // 4 * 4 for side in corner)
    crop = open_rgb(data, MANY).crop((left, top, left + width, top + height))
    expected = np.asarray(crop.resize((128, 128), BICUBIC))
    found = scaled_crop(open_encoded(data, MANY), (*corner, width, height), (128, 128))
    assert psnr(found, expected) >= 40


def test_a_crop_is_decoded_at_the_scale_that_leaves_enough_of_it() -> None:
    data = encode(photo("flower", 1600, 1200))
    for side, decoded in ((1200, (400, 300)), (400, (800, 600)), (250, (1600, 1200))):
        image = open_encoded(data, MANY)
        scaled_crop(image, (0, 0, side, side), (128, 128))
        assert image.size == decoded


def test_damaged_and_oversized_jpegs_are_refused() -> None:
    data = encode(photo("china", 1000, 800))
    with pytest.raises(DataError, match="damaged image"):
        scaled_centre(open_encoded(data[: len(data) // 2], MANY), 224)
    with pytest.raises(DataError, match="image too large: 1000 x 800"):
        open_encoded(data, 799_999)
    with pytest.raises(DataError, match="image too large"):
        open_encoded(bomb(60_000, 60_000), MANY)
