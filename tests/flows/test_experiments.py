"""Experiments in clones: real git, real DVC, and stages that write down what they were run with."""

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.experiments import CommitError, Experiment, committed, make_data, open_clone, run_experiment
from flows.repro import StageError
from lotlip.errors import ParamsError
from lotlip.evaluation.poster.runs import Run, read_runs, record_runs
from lotlip.records import read_json

PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"
GRAPH = """
stages:
  validate:
    cmd: PYTHON stage.py data data/images.txt
    outs: [data/images.txt]
  quality: {cmd: PYTHON stage.py data quality.txt, outs: [quality.txt]}
  evalset: {cmd: PYTHON stage.py data data/evalset.txt, outs: [data/evalset.txt]}
  train:
    foreach: ${methods}
    do:
      cmd: PYTHON stage.py train ${key}
      deps: [stage.py, data/images.txt]
      params: [train, "methods.${key}"]
      metrics: ["reports/train/${key}.json"]
  evaluate_checkpoint:
    foreach: ${checkpoints}
    do:
      cmd: PYTHON stage.py elsewhere ${key}
      deps: [stage.py, data/evalset.txt]
      metrics: ["reports/evaluate/${key}.json"]
  evaluate:
    foreach: ${methods}
    do:
      cmd: PYTHON stage.py evaluate ${key}
      deps: ["reports/train/${key}.json", data/evalset.txt]
      metrics: ["reports/evaluate/${key}.json"]
"""
# Loss is the seed, recall ten times the corner tokens and the seed; each training is counted outside of the clones.
STAGE = """
import json, os, pathlib, sys, time, yaml
kind, name = sys.argv[1:]
params = yaml.safe_load(open("params.yaml"))
if kind == "data":
    if pathlib.Path(os.environ["COUNTS"], "wait-data").exists():
        print("data waits", flush=True)
        time.sleep(600)
    pathlib.Path("data").mkdir(exist_ok=True)
    pathlib.Path(name).write_text(name)
    sys.exit()
if kind == "elsewhere":
    pathlib.Path("reports/evaluate").mkdir(parents=True, exist_ok=True)
    pathlib.Path("reports/evaluate", f"{name}.json").write_text('{"long": {"i2t_r1": 77}}')
    sys.exit()
out = pathlib.Path("reports") / kind / f"{name}.json"
out.parent.mkdir(parents=True, exist_ok=True)
seed, corners = params["train"]["seed"], params["methods"][name].get("corner_tokens", 0)
if kind == "train":
    counts = pathlib.Path(os.environ["COUNTS"])
    if (counts / f"break-{name}-{seed}").exists():
        sys.exit(f"{name} has no memory left")
    if (counts / f"wait-{name}-{seed}").exists():
        print(f"{name} waits", flush=True)
        time.sleep(600)
    with (counts / "trained").open("a") as log:
        log.write(f"{name} {seed}\\n")
out.write_text(json.dumps({"loss": seed} if kind == "train" else {"long": {"i2t_r1": 10 * corners + seed}}))
"""
OVERLAY = {"methods": {"corners_1": {"num_long": 1, "corner_tokens": 1}, "corners_4": {"corner_tokens": 4}}}


def git(folder: Path, *arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, check=True).stdout


def commit_all(root: Path) -> None:
    git(root, "add", "-A")
    git(root, "-c", "user.name=t", "-c", "user.email=t@localhost", "commit", "-qm", "The project")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a commit, in which nothing ran."""
    root = tmp_path / "project"
    (root / "conf").mkdir(parents=True)
    (root / "params.yaml").write_text(PARAMS.read_text())
    (root / "dvc.yaml").write_text(GRAPH.replace("PYTHON", sys.executable))
    (root / "stage.py").write_text(STAGE)
    (root / "lotlip" / "sample").mkdir(parents=True)
    (root / "lotlip" / "sample" / "scenes.py").touch()  # what params.yaml makes its data from
    (root / "conf" / "more.yaml").write_text(yaml.safe_dump(OVERLAY))
    (root / ".gitignore").write_text("*.txt\n/reports/\n/.work/\n/mlflow.db\n/docs/\n")
    git(root, "init", "-q")
    subprocess.run([sys.executable, "-m", "dvc", "init", "-q"], cwd=root, check=True)
    commit_all(root)
    counts = tmp_path / "counts"
    counts.mkdir()
    monkeypatch.setenv("COUNTS", str(counts))
    return root


def experiment(name: str, seed: int, *methods: str) -> Experiment:
    return Experiment(name, seed, methods, (Path("conf/more.yaml"),))


def run(root: Path, what: Experiment) -> list[Run]:
    clone = root / ".work" / "sweep" / f"seed{what.seed}"
    open_clone(root, clone, committed(root))
    make_data(clone, what.overlays, what.methods, print)
    return run_experiment(root, clone, what, print, threads=1)


def trained(tmp_path: Path) -> list[str]:
    return (tmp_path / "counts" / "trained").read_text().splitlines()


def test_records_say_what_was_run_and_what_came_out(root: Path, tmp_path: Path) -> None:
    found = run(root, experiment("corners-seed3", 3, "lotlip", "corners_4"))
    assert [record.method for record in found] == ["lotlip", "corners_4"]
    assert [record.evaluate for record in found] == [{"long": {"i2t_r1": 23}}, {"long": {"i2t_r1": 43}}]
    assert {record.seed for record in found} == {3}
    assert {record.commit for record in found} == {git(root, "rev-parse", "HEAD").strip()}
    settings = found[1].settings
    assert settings["train"]["seed"] == 3
    assert settings["method"]["corner_tokens"] == 4
    assert settings["method"]["num_long"] == 0  # the default, which the overlay does not name
    assert found[1].train == {"loss": 3}
    files = ("data/evalset.txt", "data/images.txt")
    assert found[1].data == {name: hashlib.md5(name.encode()).hexdigest() for name in files}


def test_checkpoints_of_the_project_are_rows_without_a_seed(root: Path, tmp_path: Path) -> None:
    params = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(params.replace("checkpoints: {} ", "checkpoints: {clip_b16: {model: weights}} "))
    commit_all(root)
    found = run(root, experiment("one-seed1", 1, "lotlip"))
    assert [(record.method, record.seed) for record in found] == [("lotlip", 1), ("clip_b16", None)]
    assert list(found[1].data) == ["data/evalset.txt"]
    record_runs(tmp_path / "runs.jsonl", found)
    (checkpoint,) = read_runs(tmp_path / "runs.jsonl")["clip_b16"]
    assert (checkpoint.evaluate["long"]["i2t_r1"], checkpoint.experiment) == (77, "one-seed1")


def test_the_project_stays_as_it_is_and_knows_the_experiment(root: Path) -> None:
    before = (root / "params.yaml").read_text()
    run(root, experiment("corners-seed0", 0, "corners_1"))
    assert (root / "params.yaml").read_text() == before
    assert git(root, "status", "--porcelain") == ""
    assert not (root / "reports").exists()
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "exp", "list", "--name-only"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "corners-seed0" in done.stdout


def test_what_two_tables_share_is_trained_once_for_each_seed(root: Path, tmp_path: Path) -> None:
    run(root, experiment("one-seed0", 0, "lotlip", "corners_1"))
    found = run(root, experiment("two-seed0", 0, "corners_4", "lotlip"))
    assert trained(tmp_path) == ["lotlip 0", "corners_1 0", "corners_4 0"]
    assert [record.evaluate for record in found] == [{"long": {"i2t_r1": 40}}, {"long": {"i2t_r1": 20}}]
    run(root, experiment("one-seed1", 1, "lotlip"))
    assert trained(tmp_path)[-1] == "lotlip 1"


def test_after_a_failure_only_what_is_missing_is_trained(root: Path, tmp_path: Path) -> None:
    broken = tmp_path / "counts" / "break-corners_1-0"
    broken.touch()
    with pytest.raises(StageError, match="corners_1 has no memory left"):
        run(root, experiment("one-seed0", 0, "lotlip", "corners_1"))
    broken.unlink()
    run(root, experiment("one-seed0", 0, "lotlip", "corners_1"))
    assert sorted(trained(tmp_path)) == ["corners_1 0", "lotlip 0"]


def test_changed_files_are_refused(root: Path) -> None:
    assert committed(root) == git(root, "rev-parse", "HEAD").strip()
    (root / "params.yaml").write_text((root / "params.yaml").read_text().replace("epochs: 10", "epochs: 2"))
    with pytest.raises(CommitError, match=r"1 changed files, first params\.yaml: experiments are made of commits"):
        committed(root)


def test_without_a_commit_there_is_no_experiment(tmp_path: Path) -> None:
    with pytest.raises(CommitError, match="no git repository with a commit"):
        committed(tmp_path)


def test_an_unknown_method_is_named_before_data_are_made(root: Path) -> None:
    with pytest.raises(ParamsError, match=r"no method 'corners_5'.*did you mean 'corners_4'"):
        run(root, experiment("one-seed0", 0, "corners_5"))
    assert not (root / ".work" / "sweep" / "seed0" / "data" / "images.txt").exists()


def test_a_project_that_was_moved_goes_on_with_its_clones(root: Path, tmp_path: Path) -> None:
    open_clone(root, root / ".work" / "sweep" / "seed0", committed(root))
    moved = root.rename(tmp_path / "moved")
    (moved / "conf" / "more.yaml").write_text(yaml.safe_dump({**OVERLAY, "train": {"epochs": 2}}))
    commit_all(moved)
    clone = moved / ".work" / "sweep" / "seed0"
    open_clone(moved, clone, committed(moved))
    assert git(clone, "rev-parse", "HEAD") == git(moved, "rev-parse", "HEAD")


def test_what_git_says_is_passed_on(root: Path) -> None:
    clone = root / ".work" / "sweep" / "seed0"
    open_clone(root, clone, committed(root))
    (clone / ".git" / "index.lock").touch()  # as a killed git leaves it
    with pytest.raises(StageError, match=r"`git checkout .*index\.lock"):
        open_clone(root, clone, committed(root))


def test_what_a_killed_dvc_has_left_locked_is_free_again(root: Path) -> None:
    run(root, experiment("a", 0, "lit"))
    (root / ".work/sweep/seed0/.dvc/tmp/rwlock").write_text('{"read": {')
    assert [one.method for one in run(root, experiment("b", 0, "lit"))] == ["lit"]


def test_data_that_a_clone_does_not_have_are_refused(root: Path) -> None:
    evalset = {"kind": "published", "dataset": "dci", "path": "../data/dci"}
    (root / "conf" / "more.yaml").write_text(yaml.safe_dump({"evalsets": {"dci": evalset}}))
    commit_all(root)
    with pytest.raises(ParamsError, match=r"evalsets.dci.path: \.\./data/dci is not in the commit.*an absolute path"):
        run(root, experiment("one-seed0", 0, "lotlip"))


def test_reports_of_the_clone_are_its_own(root: Path) -> None:
    run(root, experiment("one-seed0", 0, "lotlip"))
    run(root, experiment("one-seed1", 1, "lotlip"))
    clones = root / ".work" / "sweep"
    assert read_json(clones / "seed0" / "reports" / "train" / "lotlip.json") == {"loss": 0}
    assert read_json(clones / "seed1" / "reports" / "train" / "lotlip.json") == {"loss": 1}
