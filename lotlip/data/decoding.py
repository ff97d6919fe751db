"""JPEG for training: decoded no larger than a crop needs, and resized by PyTorch's vectorised bicubic kernel.

A JPEG decoder can give 1/2, 1/4 or 1/8 of the size for less work, and PyTorch resizes bytes several times as fast
as Pillow by the same filter. Together they differ from the evaluation transform by less than JPEG itself does.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image

from lotlip.data.images import centre, load_rgb, shortest_to

Box = tuple[int, int, int, int]  # left, top, width, height: whole pixels of the upright image in full size

MARGIN = 1.5  # decoded sides per wanted side: >= 42 dB in every picture measured, and 31 dB at 1.0


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Width and height once the EXIF orientation is applied; `image` is a JPEG, decoded or not."""
    return image.size[::-1] if _orientation(image) >= 5 else image.size


def scaled_centre(image: Image.Image, size: int) -> NDArray[np.uint8]:
    """The centre crop of the evaluation transform, scaled: uint8 [size, size, 3]. See `scaled_crop`."""
    width, height = upright_size(image)
    target = shortest_to(width, height, size)
    left, top = (centre(side, size) for side in target)
    return scaled_crop(image, (0, 0, width, height), target)[top : top + size, left : left + size]


def scaled_crop(image: Image.Image, box: Box, target: tuple[int, int]) -> NDArray[np.uint8]:
    """A crop resized to `target`, from as few decoded pixels as keep it at 40 dB PSNR of the full decode.

    At 1/2, 1/4 or 1/8 of the size the box begins at a whole decoded pixel, so up to 7 pixels further left or up.
    Pixels outside the box do not count, as in torchvision's RandomResizedCrop. PyTorch's kernels with and without
    AVX give the same bytes.

    Args:
        image: a JPEG from `open_encoded`, not decoded yet.
        box: what to cut out, inside the upright image.
        target: width and height in pixels.

    Returns:
        uint8 RGB [height, width, 3].

    Raises:
        DataError: damaged.
    """
    left, top, width, height = box
    divisor = _divisor(image, min(width / target[0], height / target[1]))
    if divisor > 1:
        image.draft(None, (image.width // divisor, image.height // divisor))
    columns = slice(left // divisor, left // divisor + math.ceil(width / divisor))
    rows = slice(top // divisor, top // divisor + math.ceil(height / divisor))
    window = np.array(load_rgb(image))[rows, columns]
    return _resize(window, (width / divisor, height / divisor), target)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # as in `load_rgb`, which shows such an image as it is
        return 1


def _divisor(image: Image.Image, reduction: float) -> int:
    """How many times smaller to decode; a turned image only by what divides it, or its edges would shift."""
    turned = _orientation(image) != 1
    for divisor in (8, 4, 2):
        if divisor * MARGIN <= reduction and not (turned and (image.width % divisor or image.height % divisor)):
            return divisor
    return 1


def _resize(pixels_HWC: NDArray[np.uint8], extent: tuple[float, float], target: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize the first `extent` (width, height) of the pixels, the last ones of which may count in part."""
    # Rounding must not cost the last row: a little more than the scale, and what is beyond the target is cut off.
    scale = [wanted / side * (1 + 1e-9) for wanted, side in zip(target[::-1], extent[::-1], strict=True)]
    pixels_BCHW = torch.from_numpy(pixels_HWC).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(pixels_BCHW, scale_factor=scale, mode="bicubic", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()[: target[1], : target[0]]
