"""What tests of evaluation share."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.evaluation import tiny_sets


@pytest.fixture
def tiny(tmp_path: Path) -> Callable[[str], Path]:
    """Writes the tiny copy of a set."""

    def write(name: str) -> Path:
        tiny_sets.WRITERS[name](tmp_path / "set")
        return tmp_path / "set"

    return write
