"""Live tracking with real processes: training never waits, and nothing is lost."""

import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lotlip.params import Params, load_params
from lotlip.tracking import events_path, follow_training, track
from lotlip.tracking.follower import Tail
from lotlip.training.callbacks import EventLog
from tests.tracking.made_up_project import curve_row, make_project
from tests.tracking.servers import free_port, mlflow_server, wait_for

STEPS = 20


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("LOTLIP_LIVE_TRACKING", raising=False)
    root = make_project(tmp_path / "project", ("lotlip",), STEPS)
    shutil.rmtree(root / "models")  # models are test_log_state's matter
    (root / "models/lotlip").mkdir(parents=True)
    shutil.copy(empty_database, root)
    return root


def params(root: Path) -> Params:
    return load_params(root / "params.yaml")


def training(root: Path, first: int = 1, last: int = STEPS, pause_s: float = 0.0) -> None:
    """What training does as far as tracking can see: it writes events."""
    log = EventLog(events_path("lotlip", root))
    log.on_start(first - 1, STEPS)
    for step in range(first, last + 1):
        time.sleep(pause_s)
        log.on_log(step, {"step": step, **curve_row("lotlip", step)})


def failing_training(root: Path) -> None:
    with follow_training("lotlip", params(root), root, finish_timeout_s=120):
        training(root, last=5)
        raise ValueError("out of memory")


def losses(database: Path) -> list[tuple[str, int, float]]:
    sql = "select run_uuid, step, value from metrics where key = 'train/loss' order by run_uuid, step"
    return query(database, sql)


def query(database: Path, sql: str) -> list[Any]:
    with sqlite3.connect(database) as connection:
        return connection.execute(sql).fetchall()


@pytest.mark.server
def test_a_live_run_is_seen_while_training_and_adopted_afterwards(project: Path) -> None:
    database = project / "mlflow.db"
    with follow_training("lotlip", params(project), project, finish_timeout_s=120):
        training(project, last=5)
        wait_for(lambda: len(losses(database)) == 5, 120, "the live curve")
        assert query(database, "select name, status from runs") == [("lotlip (training)", "RUNNING")]
        log = EventLog(events_path("lotlip", project))
        for step in range(6, 13):  # the rest is what a dead server missed
            log.on_log(step, curve_row("lotlip", step))
    [(live, _, _), *_] = losses(database)
    names = {name for (name,) in query(database, "select distinct key from metrics")}
    assert names == {"train/epoch", "train/loss", "train/loss_raw", "train/logit_scale"}
    assert len(losses(database)) == 12
    summary = track(project)
    assert summary.adopted == ["lotlip"]
    assert [(run, step) for run, step, _ in losses(database)] == [(live, step) for step in range(1, STEPS + 1)]
    assert losses(database)[7][2] == pytest.approx(curve_row("lotlip", 8)["loss"], abs=1e-9)
    assert ("lotlip", "FINISHED") in query(database, "select name, status from runs")
    assert track(project).adopted == []
    assert len(losses(database)) == STEPS


@pytest.mark.server
def test_a_dead_server_neither_slows_training_nor_loses_anything(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, empty_database: Path
) -> None:
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    alone = timed(lambda: training(project, pause_s=0.05))
    followed_s: list[float] = []

    def followed() -> None:
        with follow_training("lotlip", params(project), project, finish_timeout_s=1.0):
            followed_s.append(timed(lambda: training(project, pause_s=0.05)))

    whole = timed(followed)
    assert followed_s[0] < 2 * alone + 1
    assert whole < followed_s[0] + 4
    with pytest.raises(Exception, match="does not answer: start it"):
        track(project)
    server = tmp_path / "server"
    server.mkdir()
    shutil.copy(empty_database, server)
    with mlflow_server(server, port):
        first = track(project)
        assert "lotlip" in first.created
        assert [step for _, step, _ in losses(server / "mlflow.db")] == list(range(1, STEPS + 1))
        counts = row_counts(server / "mlflow.db")
        again = track(project)
        assert (again.created, again.updated) == ([], [])
        assert row_counts(server / "mlflow.db") == counts


@pytest.mark.server
def test_a_failed_training_is_marked_and_a_resumed_one_goes_on_in_the_same_run(project: Path) -> None:
    database = project / "mlflow.db"
    with pytest.raises(ValueError, match="out of memory"):
        failing_training(project)
    assert query(database, "select status from runs") == [("FAILED",)]
    with follow_training("lotlip", params(project), project, finish_timeout_s=120):
        training(project, first=4)  # from the checkpoint after step 3
    assert query(database, "select status from runs") == [("FINISHED",)]
    assert [step for _, step, _ in losses(database)] == list(range(1, STEPS + 1))


@pytest.mark.server
def test_the_follower_ends_when_training_is_killed(project: Path) -> None:
    code = f"""
import os, signal
from pathlib import Path
from lotlip.params import load_params
from lotlip.tracking import events_path, follow_training
from lotlip.training.callbacks import EventLog
root = Path({str(project)!r})
with follow_training("lotlip", load_params(root / "params.yaml"), root):
    log = EventLog(events_path("lotlip", root))
    log.on_start(0, 9)
    log.on_log(1, {{"loss": 5.0}})
    os.kill(os.getpid(), signal.SIGKILL)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -9
    database = project / "mlflow.db"
    ended = "select status from runs where status != 'RUNNING'"
    wait_for(lambda: query(database, ended) == [("KILLED",)], 120, "the end of the follower")
    assert len(losses(database)) == 1


def test_nothing_starts_when_switched_off(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOTLIP_LIVE_TRACKING", "0")
    with follow_training("lotlip", params(project), project):
        training(project, last=2)
    assert not events_path("lotlip", project).with_suffix(".follow.log").exists()


def test_a_half_written_line_and_an_older_file_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text('{"step": 99}\n')
    tail = Tail(path, stale_inode=path.stat().st_ino)
    assert tail.events() == []
    new = tmp_path / "new"
    new.write_text('{"step": 1}\n{"ste')
    new.replace(path)
    assert tail.events() == [{"step": 1}]
    assert tail.events() == []
    with path.open("a") as file:
        file.write('p": 2}\n')
    assert tail.events() == [{"step": 2}]


def row_counts(database: Path) -> list[Any]:
    tables = ("runs", "metrics", "params", "tags", "inputs", "logged_models")
    return [query(database, f"select count(*) from {table}") for table in tables]


def timed(work: Any) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start
