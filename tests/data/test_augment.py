"""Random changes of training images against references written by hand, and Pillow's plain use."""

import io
import math
import random
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance, ImageOps
from scipy.stats import binomtest, chisquare, ks_2samp, kstest
from sklearn.datasets import load_sample_image

from lotlip.data.augment import OPERATIONS, draw_box, rand_augment, train_transform
from lotlip.data.decoding import scaled_crop
from lotlip.data.images import eval_transform, open_encoded, open_rgb
from lotlip.errors import DataError
from lotlip.params import Augment

MANY = 50_000_000
MEAN, STD = (0.5, 0.4, 0.3), (0.5, 0.25, 0.2)
GREY = (10, 120, 230)
STRENGTH = 0.3  # of magnitude 9 in 30
UNSIGNED = ("identity", "posterize", "solarize", "autocontrast", "equalize")


def photo(width: int, height: int) -> Image.Image:
    return Image.fromarray(load_sample_image("china.jpg")).resize((width, height), Image.Resampling.LANCZOS)


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format=kind, **options)
    return buffer.getvalue()


# --- crops


def slow_box(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """torchvision's RandomResizedCrop.get_params in its own order and names (i, j, h, w), by another generator."""
    for _ in range(10):
        target_area = width * height * rng.uniform(scale[0], scale[1])
        aspect_ratio = np.exp(rng.uniform(np.log(ratio[0]), np.log(ratio[1])))
        w = round(math.sqrt(target_area * aspect_ratio))
        h = round(math.sqrt(target_area / aspect_ratio))
        if 0 < w <= width and 0 < h <= height:
            i = int(rng.integers(0, height - h + 1))
            j = int(rng.integers(0, width - w + 1))
            return j, i, w, h
    in_ratio = width / height
    if in_ratio < min(ratio):
        w = width
        h = round(w / min(ratio))
    elif in_ratio > max(ratio):
        h = height
        w = round(h * max(ratio))
    else:
        w, h = width, height
    return (width - w) // 2, (height - h) // 2, w, h


@pytest.mark.parametrize("size", [(640, 427), (300, 300), (120, 1000), (1000, 90)])
@pytest.mark.parametrize("scale", [(0.08, 1.0), (0.9, 1.0)])
def test_boxes_are_distributed_as_torchvisions(size: tuple[int, int], scale: tuple[float, float]) -> None:
    ratio, rng, generator = (3 / 4, 4 / 3), random.Random(1), np.random.default_rng(2)
    ours = np.array([draw_box(*size, scale, ratio, rng) for _ in range(4000)])
    slow = np.array([slow_box(*size, scale, ratio, generator) for _ in range(4000)])
    for column in range(4):
        assert ks_2samp(ours[:, column], slow[:, column], method="asymp").pvalue > 1e-3
    assert ks_2samp(ours[:, 2] * ours[:, 3], slow[:, 2] * slow[:, 3], method="asymp").pvalue > 1e-3
    assert ks_2samp(ours[:, 2] / ours[:, 3], slow[:, 2] / slow[:, 3], method="asymp").pvalue > 1e-3
    assert (ours[:, :2] >= 0).all()
    assert (ours[:, :2] + ours[:, 2:] <= size).all()


def test_area_and_aspect_are_uniform_where_every_box_fits() -> None:
    rng, scale, ratio = random.Random(3), (0.1, 0.3), (0.5, 2.0)
    boxes = np.array([draw_box(4000, 4000, scale, ratio, rng) for _ in range(4000)], dtype=float)
    area, aspect = boxes[:, 2] * boxes[:, 3] / 4000**2, np.log(boxes[:, 2] / boxes[:, 3])
    assert kstest(area, "uniform", args=(0.1, 0.2)).pvalue > 1e-3
    assert kstest(aspect, "uniform", args=(-math.log(2), 2 * math.log(2))).pvalue > 1e-3


@pytest.mark.parametrize(
    ("size", "box"),
    [((100, 1000), (0, 433, 100, 133)), ((1000, 90), (440, 0, 120, 90)), ((100, 90), (0, 0, 100, 90))],
)
def test_where_nothing_fits_the_largest_centred_crop(size: tuple[int, int], box: tuple[int, int, int, int]) -> None:
    ratio = (0.75, 4 / 3)
    whole = (1.2, 1.2)  # more than there is: no draw fits
    assert draw_box(*size, whole, ratio, random.Random(0)) == box
    assert slow_box(*size, whole, ratio, np.random.default_rng(0)) == box


def test_a_full_crop_is_cut_out_and_resized_by_pillow() -> None:
    image = photo(500, 400)
    augment = Augment(scale=(0.3, 0.6))
    left, top, width, height = draw_box(500, 400, augment.scale, augment.ratio, random.Random(5))
    square = image.crop((left, top, left + width, top + height)).resize((96, 96), Image.Resampling.BICUBIC)
    found = train_transform(encode(image, "PNG"), MANY, 96, MEAN, STD, augment, "full", random.Random(5))
    assert np.array_equal(found.numpy(), eval_transform(square, 96, MEAN, STD).numpy())


def test_a_scaled_crop_has_the_same_box() -> None:
    data, augment = encode(photo(1200, 900), "JPEG", quality=90), Augment(scale=(0.5, 0.8))
    box = draw_box(1200, 900, augment.scale, augment.ratio, random.Random(6))
    square = Image.fromarray(scaled_crop(open_encoded(data, MANY), box, (96, 96)))
    found = train_transform(data, MANY, 96, MEAN, STD, augment, "scaled", random.Random(6))
    assert np.array_equal(found.numpy(), eval_transform(square, 96, MEAN, STD).numpy())
    full = train_transform(data, MANY, 96, MEAN, STD, augment, "full", random.Random(6))
    assert np.abs((found - full).numpy()).mean() < 0.05  # of a range of 2 to 5; the box begins up to 7 pixels earlier


# --- flips


def test_flips_are_as_frequent_as_asked() -> None:
    image = photo(40, 40)
    data, augment = encode(image, "PNG"), Augment(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.3)
    plain = eval_transform(image, 40, MEAN, STD).numpy()
    flips = 0
    for seed in range(400):
        found = train_transform(data, MANY, 40, MEAN, STD, augment, "full", random.Random(seed)).numpy()
        flipped = not np.array_equal(found, plain)
        assert np.array_equal(found, plain[:, :, ::-1] if flipped else plain)
        flips += flipped
    assert binomtest(flips, 400, 0.3).pvalue > 1e-3


# --- RandAugment


def drawing(name: str, sign: int) -> random.Random:
    """A generator that draws the operation `name`, with `sign` next."""
    for seed in range(10_000):
        rng = random.Random(seed)
        if rng.choice(OPERATIONS) == name and rng.choice((1, -1)) == sign:
            return random.Random(seed)
    raise AssertionError(f"{name} is never drawn")


def shifted(pixels: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """Moved right by `columns` (left if negative), `GREY` in what is left free."""
    result = np.full_like(pixels, GREY)
    width = pixels.shape[1]
    result[:, max(0, columns) : width + min(0, columns)] = pixels[:, max(0, -columns) : width - max(0, columns)]
    return result


def turned(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return pixels.transpose(1, 0, 2)


def sheared(image: Image.Image, slope: float) -> NDArray[np.uint8]:
    """Row y moved by `slope * (y + 1/2)` pixels to the left, linear between neighbours, in floating point."""
    pixels = np.asarray(image).astype(float)
    height, width, _ = pixels.shape
    result = np.empty_like(pixels)
    for y in range(height):
        at = np.arange(width) + slope * (y + 0.5)
        for channel in range(3):
            line = np.interp(at, np.arange(width), pixels[y, :, channel])
            result[y, :, channel] = np.where((at + 0.5 < 0) | (at + 0.5 >= width), GREY[channel], line)
    return result


Reference = Callable[[Image.Image, float], NDArray[np.uint8]]
REFERENCES: dict[str, Reference] = {
    "identity": lambda image, m: np.asarray(image),
    "shear_x": lambda image, m: sheared(image, 0.3 * m),
    "shear_y": lambda image, m: turned(sheared(image.transpose(Image.Transpose.TRANSPOSE), 0.3 * m)),
    "translate_x": lambda image, m: shifted(np.asarray(image), int(150 / 331 * image.width * m)),
    "translate_y": lambda image, m: turned(shifted(turned(np.asarray(image)), int(150 / 331 * image.height * m))),
    "rotate": lambda image, m: np.asarray(image.rotate(30 * m, Image.Resampling.BILINEAR, fillcolor=GREY)),
    "brightness": lambda image, m: (np.asarray(image) * (1 + 0.9 * m)).clip(0, 255),
    "color": lambda image, m: np.asarray(ImageEnhance.Color(image).enhance(1 + 0.9 * m)),
    "contrast": lambda image, m: np.asarray(ImageEnhance.Contrast(image).enhance(1 + 0.9 * m)),
    "sharpness": lambda image, m: np.asarray(ImageEnhance.Sharpness(image).enhance(1 + 0.9 * m)),
    "posterize": lambda image, m: np.asarray(image) & 0b1111_1110,  # 8 - round(4 x 0.3) = 7 bits
    "solarize": lambda image, m: np.where(np.asarray(image) < 178.5, image, 255 - np.asarray(image)),
    "autocontrast": lambda image, m: np.asarray(ImageOps.autocontrast(image)),
    "equalize": lambda image, m: np.asarray(ImageOps.equalize(image)),
}


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_its_reference(name: str, sign: int) -> None:
    image = photo(120, 90)
    found = rand_augment(image, Augment(num_ops=1, magnitude=9), GREY, drawing(name, sign))
    strength = STRENGTH if name in UNSIGNED else sign * STRENGTH
    difference = np.asarray(found).astype(float) - REFERENCES[name](image, strength)
    tolerance = 1.0 if name in ("shear_x", "shear_y", "brightness") else 0.0  # references that round otherwise
    border = (difference != 0).any(axis=2) & (np.abs(difference) > tolerance).any(axis=2)
    assert border.mean() < (0.01 if name.startswith("shear") else 1e-9)  # Pillow's edge: one pixel a line at most


@pytest.mark.parametrize(("magnitude", "bits"), [(0, 8), (3, 8), (4, 7), (11, 7), (12, 6), (20, 5), (30, 4)])
def test_posterize_keeps_as_many_bits_as_torchvision(magnitude: int, bits: int) -> None:
    image = photo(60, 40)
    found = rand_augment(image, Augment(num_ops=1, magnitude=magnitude), GREY, drawing("posterize", 1))
    assert np.array_equal(np.asarray(found), np.asarray(image) & (0xFF << (8 - bits) & 0xFF))


def test_every_operation_is_as_likely_and_both_signs_are() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(40, 200, (24, 24, 3), dtype=np.uint8))
    augment = Augment(num_ops=1, magnitude=30)
    rng, counts = random.Random(9), Counter[bytes]()
    for _ in range(3000):
        counts[rand_augment(image, augment, GREY, rng).tobytes()] += 1
    # 9 signed operations show two results each, 5 others one.
    assert len(counts) == 2 * 9 + 5
    expected = [3000 / 14 if count > 160 else 3000 / 28 for count in counts.values()]
    assert sum(expected) == pytest.approx(3000)
    assert chisquare(list(counts.values()), expected).pvalue > 1e-3


def test_operations_follow_each_other() -> None:
    image, augment = photo(64, 64), Augment(num_ops=3, magnitude=12)
    rng, again = random.Random(4), random.Random(4)
    expected = image
    for _ in range(3):
        expected = rand_augment(expected, augment.model_copy(update={"num_ops": 1}), GREY, again)
    assert rand_augment(image, augment, GREY, rng).tobytes() == expected.tobytes()


# --- the whole


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("decode", ["full", "scaled"])
def test_a_seed_determines_the_result(kind: str, decode: str) -> None:
    data = encode(photo(640, 480), kind)
    augment = Augment(scale=(0.5, 1.0), flip=0.5, num_ops=2)

    def draw(seed: int) -> bytes:
        rng = random.Random(seed)
        return train_transform(data, MANY, 64, MEAN, STD, augment, decode, rng).numpy().tobytes()  # type: ignore[arg-type]

    backwards = {seed: draw(seed) for seed in reversed(range(6))}
    assert [draw(seed) for seed in range(6)] == [backwards[seed] for seed in range(6)]
    assert len(set(backwards.values())) == 6


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_without_augmentation_full_decoding_is_the_evaluation_transform(kind: str) -> None:
    data, rng = encode(photo(300, 200), kind), random.Random(0)
    state = rng.getstate()
    expected = eval_transform(open_rgb(data, MANY), 64, MEAN, STD).numpy()
    assert np.array_equal(train_transform(data, MANY, 64, MEAN, STD, None, "full", rng).numpy(), expected)
    scaled = train_transform(data, MANY, 64, MEAN, STD, None, "scaled", rng).numpy()
    assert np.array_equal(scaled, expected) == (kind != "JPEG")
    assert rng.getstate() == state


@pytest.mark.parametrize("decode", ["full", "scaled"])
def test_unfit_bytes_have_a_reason(decode: str) -> None:
    data = encode(photo(300, 200), "JPEG")
    for bad, limit, reason in ((b"<html>", MANY, "not an image"), (data[:-900], MANY, "damaged"), (data, 999, "300 x")):
        with pytest.raises(DataError, match=reason):
            train_transform(bad, limit, 64, MEAN, STD, Augment(), decode, random.Random(0))  # type: ignore[arg-type]
