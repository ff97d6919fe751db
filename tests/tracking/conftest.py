"""An empty database, made once: MLflow's migrations take seconds."""

from pathlib import Path

import pytest

from lotlip.tracking.store import ensure_database


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("database")
    ensure_database(folder)
    return folder / "mlflow.db"
