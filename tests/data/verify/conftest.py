"""A whole dataset of images, and captions of it."""

from pathlib import Path

import pytest

from lotlip.data.manifest import read_manifest
from tests.data.datasets import write_captions, write_images


@pytest.fixture
def images(tmp_path: Path) -> Path:
    return write_images(tmp_path / "data/images/s").folder


@pytest.fixture
def captions(images: Path) -> Path:
    return write_captions(images.parents[1] / "captions/llava", read_manifest(images)).folder
