"""Images of training: decoded in full or scaled, changed at random where wanted, and normalised.

All that is random comes from the caller's generator, seeded by sample and epoch, so that neither workers nor their
order change a result.
"""

import math
import random
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image, ImageEnhance, ImageOps
from torch import Tensor

from lotlip.data.decoding import Box, scaled_centre, scaled_crop, upright_size
from lotlip.data.images import eval_transform, load_rgb, normalise, open_encoded
from lotlip.params import Augment, Decode

Colour = tuple[int, int, int]
Change = Callable[[Image.Image, float, Colour], Image.Image]

CROP_ATTEMPTS = 10  # torchvision's
MAX_MAGNITUDE = 30  # torchvision's 31 bins, from 0


def train_transform(
    data: bytes,
    max_pixels: int,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    augment: Augment | None,
    decode: Decode,
    rng: random.Random,
) -> Tensor:
    """An encoded image as model input for training.

    Without `augment` this is the evaluation transform: bit by bit by "full", at 40 dB PSNR or more by "scaled".

    Args:
        data: bytes of a file in any readable format.
        max_pixels: larger images are refused before they are decoded.
        size: side of the square in pixels.
        mean: per channel, of values in [0, 1].
        std: per channel, of values in [0, 1].
        augment: random changes, or None.
        decode: "scaled" decodes and resizes JPEG faster, see `scaled_crop`; other formats are always done in full.
        rng: of this sample in this epoch; drawn from only if there is `augment`.

    Returns:
        float32 [3, size, size].

    Raises:
        DataError: not an image, too large, or damaged.
    """
    image = open_encoded(data, max_pixels)
    scaled = decode == "scaled" and image.format in ("JPEG", "MPO")
    if augment is None:
        if scaled:
            return normalise(scaled_centre(image, size), mean, std)
        return eval_transform(load_rgb(image), size, mean, std)
    square = _random_crop(image, size, augment, scaled, rng)
    if rng.random() < augment.flip:
        square = square.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    red, green, blue = (round(255 * value) for value in mean)
    return normalise(np.asarray(rand_augment(square, augment, (red, green, blue), rng)), mean, std)


def draw_box(
    width: int, height: int, scale: tuple[float, float], ratio: tuple[float, float], rng: random.Random
) -> Box:
    """Draw a crop: its share of the area uniformly, its width / height uniformly by logarithm, then its place.

    After ten draws that do not fit, the largest centred crop whose aspect ratio is in range.

    Args:
        width: of the image in pixels.
        height: of the image in pixels.
        scale: least and greatest share of the area.
        ratio: least and greatest width / height.
        rng: what to draw from.

    Source: torchvision's RandomResizedCrop.get_params.
    """
    for _ in range(CROP_ATTEMPTS):
        area = width * height * rng.uniform(*scale)
        aspect = math.exp(rng.uniform(math.log(ratio[0]), math.log(ratio[1])))
        crop_width, crop_height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            left, top = rng.randint(0, width - crop_width), rng.randint(0, height - crop_height)
            return left, top, crop_width, crop_height
    aspect = min(max(width / height, ratio[0]), ratio[1])
    crop_width = min(width, max(1, round(height * aspect)))
    crop_height = min(height, max(1, round(width / aspect)))
    return (width - crop_width) // 2, (height - crop_height) // 2, crop_width, crop_height


def rand_augment(image: Image.Image, augment: Augment, fill: Colour, rng: random.Random) -> Image.Image:
    """Apply `augment.num_ops` operations drawn at random, with repetition, at `augment.magnitude`.

    Operations and their strengths are torchvision's RandAugment (arXiv:1909.13719); as in timm, what is moved is
    interpolated bilinearly, and `fill` shows where nothing is left.
    """
    strength = augment.magnitude / MAX_MAGNITUDE
    for _ in range(augment.num_ops):
        name = rng.choice(OPERATIONS)
        if name in _SIGNED:
            image = _SIGNED[name](image, strength * rng.choice((1, -1)), fill)
        else:
            image = _UNSIGNED[name](image, strength, fill)
    return image


def _random_crop(image: Image.Image, size: int, augment: Augment, scaled: bool, rng: random.Random) -> Image.Image:
    if scaled:
        box = draw_box(*upright_size(image), augment.scale, augment.ratio, rng)
        return Image.fromarray(scaled_crop(image, box, (size, size)))
    whole = load_rgb(image)
    left, top, width, height = draw_box(*whole.size, augment.scale, augment.ratio, rng)
    crop = whole.crop((left, top, left + width, top + height))
    return crop.resize((size, size), Image.Resampling.BICUBIC)


def _affine(image: Image.Image, coefficients: Sequence[float], fill: Colour) -> Image.Image:
    """Each pixel (x, y) comes from (ax + by + c, dx + ey + f)."""
    return image.transform(image.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BILINEAR, fillcolor=fill)


def _shift(length: int, strength: float) -> int:
    return int(150 / 331 * length * strength)


# Strengths are -1 to 1 here, and 0 to 1 below.
_SIGNED: dict[str, Change] = {
    "shear_x": lambda image, m, fill: _affine(image, (1, 0.3 * m, 0, 0, 1, 0), fill),
    "shear_y": lambda image, m, fill: _affine(image, (1, 0, 0, 0.3 * m, 1, 0), fill),
    "translate_x": lambda image, m, fill: _affine(image, (1, 0, -_shift(image.width, m), 0, 1, 0), fill),
    "translate_y": lambda image, m, fill: _affine(image, (1, 0, 0, 0, 1, -_shift(image.height, m)), fill),
    "rotate": lambda image, m, fill: image.rotate(30 * m, Image.Resampling.BILINEAR, fillcolor=fill),
    "brightness": lambda image, m, _: ImageEnhance.Brightness(image).enhance(1 + 0.9 * m),
    "color": lambda image, m, _: ImageEnhance.Color(image).enhance(1 + 0.9 * m),
    "contrast": lambda image, m, _: ImageEnhance.Contrast(image).enhance(1 + 0.9 * m),
    "sharpness": lambda image, m, _: ImageEnhance.Sharpness(image).enhance(1 + 0.9 * m),
}
_UNSIGNED: dict[str, Change] = {
    "identity": lambda image, m, _: image,
    "posterize": lambda image, m, _: ImageOps.posterize(image, 8 - round(4 * m)),
    "solarize": lambda image, m, _: ImageOps.solarize(image, math.ceil(255 * (1 - m))),
    "autocontrast": lambda image, m, _: ImageOps.autocontrast(image),
    "equalize": lambda image, m, _: ImageOps.equalize(image),
}
OPERATIONS = (*_SIGNED, *_UNSIGNED)
