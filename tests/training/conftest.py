from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.training.tiny_training import Project


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """With another number sums are added up in another order, and results differ in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)
