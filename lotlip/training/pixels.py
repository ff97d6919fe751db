"""Pixels of training images, made in one way for towers that learn, locked towers and their cached features."""

import random

from torch import Tensor

from lotlip.data.augment import train_transform
from lotlip.data.loading.image_reader import ImageReader
from lotlip.data.loading.pixels import PixelSource
from lotlip.model.image_tower import ImageSettings
from lotlip.model.processor import MAX_PIXELS
from lotlip.params import Decode, Train


def pixel_decode(settings: Train, *, locked: bool) -> Decode:
    """How images are decoded; a locked tower without augmentation sees just what evaluation shows it."""
    return "full" if locked and settings.augment is None else settings.decode


def pixel_source(reader: ImageReader, image: ImageSettings, settings: Train, *, locked: bool) -> PixelSource:
    """Pixels of any image at any visit, by `train.augment`, `train.decode` and `train.seed`.

    Args:
        reader: of the encoded images.
        image: size, mean and deviation that the tower wants.
        settings: the section `train`.
        locked: whether the image tower is.
    """
    decode = pixel_decode(settings, locked=locked)

    def transform(data: bytes, rng: random.Random) -> Tensor:
        return train_transform(data, MAX_PIXELS, image.size, image.mean, image.std, settings.augment, decode, rng)

    return PixelSource(reader, transform, settings.seed)
