"""A sweep on a real Prefect server: experiments as tasks, and the file of runs."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from tests.flows.test_experiments import commit_all, root, trained  # noqa: F401  (a fixture)
from tests.flows.test_pipeline import task_runs
from tests.flows.test_servers import Process
from tests.tracking.servers import template_database

pytestmark = [pytest.mark.server, pytest.mark.usefixtures("prefect_server")]

TABLES = {
    "main_results": {"LoTLIP": "lotlip"},
    "corner_tokens": {"0": "lit_long", "1 mask": "corners_1", "2 mask": "lotlip"},
    "sub_captions": {3: "lotlip"},
    "token_limit": {128: "lotlip"},
    "texts": {"raw": "lit"},
    "captioners": {"three": "lotlip"},
}


@pytest.fixture
def project(root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """The project with a file of tables; the current folder."""
    tables = {name: {"title": name, "rows": rows} for name, rows in TABLES.items()}
    content = {"seeds": [0, 1], "overlays": ["conf/more.yaml"], "tables": tables}
    (root / "ablations.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    commit_all(root)
    (root / "mlflow.db").write_bytes(template_database().read_bytes())
    monkeypatch.chdir(root)
    return root


def run(*tables: str) -> Any:
    from flows.sweep import sweep

    return sweep(list(tables), [0, 1], 1, False, return_state=True)


def runs(project: Path) -> list[tuple[str, int, float]]:
    lines = (project / "docs" / "results" / "runs.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    return [(one["method"], one["seed"], one["evaluate"]["long"]["i2t_r1"]) for one in found]


@pytest.mark.parametrize("seeds", [("-1",), ("0", "1", "0")])
def test_seeds_that_cannot_be(seeds: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.sweep import main

    monkeypatch.setattr(sys, "argv", ["sweep", "corner_tokens", "--seeds", *seeds])
    with pytest.raises(SystemExit, match="2"):
        main()


def test_a_file_of_runs_that_cannot_be_added_to_is_said_before_the_work(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from flows.sweep import main

    (project / "docs" / "results").mkdir(parents=True)
    (project / "docs" / "results" / "runs.jsonl").write_text('{"method": "li')
    monkeypatch.setattr(sys, "argv", ["sweep", "corner_tokens"])
    assert main() == 1
    assert "runs.jsonl, line 1 is no run" in capsys.readouterr().err
    assert not (project / ".work" / "sweep").exists()


def test_each_table_and_seed_is_a_task_and_each_method_a_line(project: Path, tmp_path: Path) -> None:
    state = run("corner_tokens", "main_results")
    assert state.is_completed(), state.message
    assert state.message.startswith("4 experiments: ")
    names = {"corner_tokens-seed0", "corner_tokens-seed1", "main_results-seed0", "main_results-seed1"}
    assert set(task_runs(state)) == names
    assert runs(project) == [
        ("corners_1", 0, 10), ("corners_1", 1, 11),
        ("lit_long", 0, 0), ("lit_long", 1, 1),
        ("lotlip", 0, 20), ("lotlip", 1, 21),
    ]  # fmt: skip
    assert len(trained(tmp_path)) == 6  # lotlip stands in both tables


def test_a_failed_experiment_fails_the_sweep_and_the_others_go_on(project: Path, tmp_path: Path) -> None:
    (tmp_path / "counts" / "break-lit-1").touch()
    state = run("texts", "main_results")
    assert state.is_failed()
    assert state.message.startswith("1 of 4 experiments failed, first: ")
    assert "lit has no memory left" in state.message
    assert runs(project) == [("lit", 0, 0), ("lotlip", 0, 20), ("lotlip", 1, 21)]


@pytest.mark.parametrize(
    ("waits", "number"), [("lit-0", signal.SIGINT), ("lit-0", signal.SIGTERM), ("data", signal.SIGINT)]
)
def test_an_interrupted_sweep_ends_at_once_with_all_it_runs_and_goes_on(
    project: Path, tmp_path: Path, waits: str, number: int
) -> None:
    counts = tmp_path / "counts"
    (counts / f"wait-{waits}").touch()
    command = ("flows.sweep", "texts", "main_results", "--seeds", "0", "--no-track")
    sweep = Process(*command)
    sweep.wait_for(rf"({waits.removesuffix('-0')} waits)")
    children = psutil.Process(sweep.process.pid).children(recursive=True)
    assert sweep.stop(number) == 130
    assert any("interrupted: what is finished is kept, the same command goes on" in line for line in sweep.lines[-4:])
    assert not [line for line in sweep.lines if "refused" in line], "the server outlives its runs"
    gone, alive = psutil.wait_procs(children, 20)
    assert (len(gone) >= 3, alive) == (True, [])  # the server, DVC, its stage
    assert not (project / "docs" / "results" / "runs.jsonl").exists()
    (counts / f"wait-{waits}").unlink()
    subprocess.run([sys.executable, "-m", *command], check=True, capture_output=True)
    assert runs(project) == [("lit", 0, 0), ("lotlip", 0, 20)]
