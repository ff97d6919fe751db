"""Images: from encoded bytes that nobody vouches for to RGB pixels and model input."""

import io
import math
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from lotlip.data.shards import encode_png
from lotlip.errors import DataError
from lotlip.records import sha256_bytes

if TYPE_CHECKING:
    from torch import Tensor

READABLE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
KEPT_FORMATS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}  # others are re-encoded as PNG


@dataclass(frozen=True)
class Picture:
    """An image fit for a shard: its bytes, file extension, upright size in pixels and hashes (hex)."""

    data: bytes
    extension: str
    width: int
    height: int
    sha256: str
    phash: str


def open_rgb(data: bytes, max_pixels: int) -> Image.Image:
    """Decode `data` to an upright RGB image; transparent parts lie on white.

    The size in the header is checked before any pixel is decoded, so a decompression bomb costs nothing.

    Raises:
        DataError: not an image, larger than `max_pixels`, or damaged; the message is a short reason.
    """
    return load_rgb(open_encoded(data, max_pixels))


def open_encoded(data: bytes, max_pixels: int) -> Image.Image:
    """Read the header of `data`; no pixel is decoded yet.

    Raises:
        DataError: not an image, or larger than `max_pixels`.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=READABLE_FORMATS)
    except UnidentifiedImageError:
        raise DataError(f"not an image: none of {', '.join(READABLE_FORMATS)}") from None
    except Image.DecompressionBombError:
        raise DataError("image too large: beyond Pillow's own limit") from None
    except Exception as error:  # decoders raise nearly anything on hostile bytes
        raise DataError(f"damaged image: {error}") from None
    if image.width * image.height > max_pixels:
        raise DataError(f"image too large: {image.width} x {image.height}, more than {max_pixels} pixels")
    return image


def load_rgb(image: Image.Image) -> Image.Image:
    """The pixels of an image from `open_encoded`, upright and RGB.

    Raises:
        DataError: damaged.
    """
    return _flatten(_upright(_load(image)))


def check_image(data: bytes, max_pixels: int) -> Picture:
    """Decode `data` completely and describe it; formats that shards do not hold become PNG.

    Raises:
        DataError: as `open_rgb`.
    """
    decoded = _load(open_encoded(data, max_pixels))
    image = _flatten(_upright(decoded))
    extension = KEPT_FORMATS.get(decoded.format or "")
    if extension is None:
        extension, data = "png", encode_png(image)
    return Picture(data, extension, image.width, image.height, sha256_bytes(data), perceptual_hash(image))


def eval_transform(image: Image.Image, size: int, mean: Sequence[float], std: Sequence[float]) -> "Tensor":
    """An RGB image as model input: shortest side to `size` (bicubic), centre crop, scaled and normalised.

    Args:
        image: RGB, any size.
        size: side of the square in pixels.
        mean: per channel, of values in [0, 1].
        std: per channel, of values in [0, 1].

    Returns:
        float32 [3, size, size].

    Source: METHOD "Image tower"; rounding as torchvision's Resize and CenterCrop.
    """
    square = _crop_centre(_resize_shortest(image, size), size)
    return normalise(np.asarray(square), mean, std)


def normalise(pixels_HWC: NDArray[np.uint8], mean: Sequence[float], std: Sequence[float]) -> "Tensor":
    """Pixels of 0 to 255, [H, W, 3], as float32 [3, H, W]: scaled to [0, 1], less `mean`, by `std`."""
    import torch

    normal_CHW = pixels_HWC.transpose(2, 0, 1).astype(np.float32, order="C")  # once planar, the rest runs in place
    normal_CHW /= np.float32(255.0)
    normal_CHW -= np.asarray(mean, dtype=np.float32)[:, None, None]
    normal_CHW /= np.asarray(std, dtype=np.float32)[:, None, None]
    return torch.from_numpy(normal_CHW)


def shortest_to(width: int, height: int, size: int) -> tuple[int, int]:
    """Width and height once the shortest side is `size` pixels; the other is cut to a whole number."""
    other = int(size * max(width, height) / min(width, height))
    return (size, other) if width <= height else (other, size)


def centre(length: int, size: int) -> int:
    """Where `size` pixels from the middle of `length` begin; a half goes to the even side."""
    return round((length - size) / 2.0)


def perceptual_hash(image: Image.Image) -> str:
    """64-bit hash (16 hex digits) that small changes of size and coding leave nearly unchanged.

    The lowest 8 x 8 frequencies of the 32 x 32 grey image against their median, in integers, so that every
    machine finds the same bits.
    """
    grey = np.asarray(image.convert("L").resize((32, 32), Image.Resampling.LANCZOS), dtype=np.int64)
    angles = np.outer(np.arange(8), 2 * np.arange(32) + 1) * (math.pi / 64)
    basis = np.rint(1024 * np.cos(angles)).astype(np.int64)
    frequencies = (basis @ grey @ basis.T).ravel()
    median = np.sort(frequencies[1:])[31]  # the mean brightness, at 0, says nothing about the shape
    return np.packbits(frequencies > median).tobytes().hex()


def _load(image: Image.Image) -> Image.Image:
    try:
        image.load()
    except Exception as error:
        raise DataError(f"damaged image: {error}") from None
    return image


def _upright(image: Image.Image) -> Image.Image:
    with suppress(Exception):  # a damaged EXIF block says nothing against the pixels
        ImageOps.exif_transpose(image, in_place=True)
    return image


def _flatten(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits: convert("RGB") would clip instead of scale
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    layer = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _resize_shortest(image: Image.Image, size: int) -> Image.Image:
    target = shortest_to(image.width, image.height, size)
    return image if target == image.size else image.resize(target, Image.Resampling.BICUBIC)


def _crop_centre(image: Image.Image, size: int) -> Image.Image:
    left, top = centre(image.width, size), centre(image.height, size)
    return image.crop((left, top, left + size, top + size))
