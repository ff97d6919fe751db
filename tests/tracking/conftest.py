"""An empty database, made once."""

from pathlib import Path

import pytest

from tests.tracking.servers import template_database


@pytest.fixture(scope="session")
def empty_database() -> Path:
    return template_database()
