"""The flow on a real Prefect server and a real DVC project."""

import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("prefect_server")]


def run(**parameters: Any) -> Any:
    from flows.pipeline import pipeline

    return pipeline(track=False, return_state=True, **parameters)


def runs(project: Path) -> list[str]:
    log = project / "runs.log"
    return sorted(log.read_text().split()) if log.exists() else []


def task_runs(state: Any) -> dict[str, Any]:
    """Task runs of a flow run by name, from the server."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId

    chosen = FlowRunFilter(id=FlowRunFilterId(any_=[state.state_details.flow_run_id]))
    with get_client(sync_client=True) as client:
        return {found.name: found for found in client.read_task_runs(flow_run_filter=chosen)}


def artifact(key: str) -> Any:
    from prefect.artifacts import Artifact

    return Artifact.get(key)


def wait_for_log(state: Any, line: str) -> None:
    """Prefect sends logs every few seconds."""
    deadline = time.monotonic() + 60
    while line not in log_lines(state):
        assert time.monotonic() < deadline, log_lines(state)
        time.sleep(0.5)


def log_lines(state: Any) -> list[str]:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

    chosen = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[state.state_details.flow_run_id]))
    with get_client(sync_client=True) as client:
        return [log.message for log in client.read_logs(log_filter=chosen)]


def test_every_stage_is_a_task_with_its_log_and_metrics(project: Path) -> None:
    state = run()
    assert state.is_completed(), state.message
    assert state.message == "4 stages: 4 completed"
    assert runs(project) == ["download", "report", "train@lit", "train@lotlip"]
    tasks = task_runs(state)
    assert set(tasks) == {"download", "train@lit", "train@lotlip", "report"}
    waited = {upstream.id for items in tasks["report"].task_inputs.values() for upstream in items}
    assert {tasks["train@lit"].id, tasks["train@lotlip"].id} <= waited
    wait_for_log(state, "train@lotlip at work")
    assert '"long/i2t_r1"' in artifact("metrics-train-lotlip").data
    assert "47.1234" in artifact("metrics-train-lotlip").data
    assert "| lotlip | 47 |" in artifact("comparison").data

    again = run()
    assert again.message == "4 stages: 4 unchanged"
    assert len(runs(project)) == 4
    assert {found.state.name for found in task_runs(again).values()} == {"Unchanged"}


def test_only_what_changed_runs(project: Path) -> None:
    assert run(targets=["train@lit"]).message == "2 stages: 2 completed"
    (project / "raw.txt").write_text("two")
    assert run(targets=["train@lit"]).message == "2 stages: 2 completed"
    assert runs(project) == ["download", "download", "train@lit", "train@lit"]


def test_a_stage_that_fails_once_is_tried_again(project: Path) -> None:
    (project / "break-download").write_text("1")
    state = run(targets=["download"])
    assert state.is_completed(), state.message
    assert runs(project) == ["download", "download"]
    assert task_runs(state)["download"].run_count == 2


def test_a_stage_that_keeps_failing_fails_the_flow_with_its_log(project: Path) -> None:
    (project / "break-train@lit").write_text("99")
    state = run()
    assert state.is_failed()
    assert "train@lit failed with exit status" in state.message
    assert "train@lit has no memory left" in state.message
    assert runs(project).count("train@lit") == 2
    assert "report" not in runs(project)


def test_the_second_of_two_runs_is_refused(project: Path) -> None:
    from flows.repro import only_run

    with only_run(project):
        state = run()
    assert state.is_failed()
    assert "another pipeline run (process" in state.message
    assert runs(project) == []


def test_the_state_is_tracked_at_the_end(project: Path) -> None:
    from flows.pipeline import pipeline

    state = pipeline(targets=["download"], return_state=True)
    assert state.message == "1 stages: 1 completed"
    assert task_runs(state)["track"].state.is_completed()
    with sqlite3.connect(project / "mlflow.db") as database:
        names = database.execute("select name from runs").fetchall()
    assert any(name.startswith("pipeline ") for (name,) in names)


def test_a_dead_tracking_server_is_no_failure(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.pipeline import pipeline

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    state = pipeline(targets=["download"], return_state=True)
    assert state.is_completed()
    assert state.message.endswith("not tracked: run `lotlip track`")
