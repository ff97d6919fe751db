"""The database appears whole or not at all, and what is wrong with a store is said."""

import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from lotlip.tracking import TrackingError, default_uri
from lotlip.tracking.store import connect, ensure_database
from tests.tracking.servers import free_port, wait_for


@pytest.mark.server
def test_a_killed_creation_leaves_no_half_database(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-m", "lotlip.tracking", "prepare"], cwd=tmp_path)
    wait_for(lambda: list(tmp_path.glob(".mlflow.db.*.tmp")), 120, "the first table")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "mlflow.db").exists()
    ensure_database(tmp_path)
    assert [path.name for path in tmp_path.glob("*mlflow.db*")] == ["mlflow.db"]
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("select count(*) from alembic_version").fetchall() == [(1,)]


def test_a_server_that_is_away_is_named_without_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:hunter2@127.0.0.1:{free_port()}")
    with pytest.raises(TrackingError, match=r"http://\*\*\*@127.0.0.1:\d+ does not answer: start it") as error:
        connect(tmp_path, "lotlip")
    assert "hunter2" not in str(error.value)


def test_a_database_of_another_version_is_refused(tmp_path: Path, empty_database: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(empty_database.read_bytes())
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("update alembic_version set version_num = 'older'")
    with pytest.raises(TrackingError, match="out-of-date database schema"):
        connect(tmp_path, "lotlip")


def test_the_default_store_lies_in_the_project(tmp_path: Path) -> None:
    assert default_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"


def test_importing_tracking_is_cheap() -> None:
    code = "import sys, lotlip.tracking; print(sorted({'mlflow', 'torch', 'pandas'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
