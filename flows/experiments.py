"""DVC experiments in clones of the project: the folder that people work in stays as it is, clones work side by side.

A clone has this project's DVC cache, and the experiments made in it are fetched into this project's git.
"""

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flows.repro import StageError, run_lines
from lotlip.errors import LotlipError, ParamsError
from lotlip.evaluation.poster.runs import Run
from lotlip.overlays import apply_overlays
from lotlip.params import Params, entry, load_params
from lotlip.records import read_json, write_text

DVC = (sys.executable, "-m", "dvc")
# What a result depends on.
CODE = (".dvc", "ablations.yaml", "conf", "dvc.lock", "dvc.yaml", "flows", "lotlip", "params.yaml", "stages")
OF_METHODS = ("train@", "evaluate@", "report")  # stages that follow from the methods there are
OnLine = Callable[[str], object]


class CommitError(LotlipError):
    """There is nothing that an experiment could be traced to."""


@dataclass(frozen=True)
class Experiment:
    """Methods trained with one seed and evaluated, all else as in the commit and its overlays."""

    name: str
    seed: int
    methods: tuple[str, ...]
    overlays: tuple[Path, ...]


def committed(root: Path) -> str:
    """The commit that the project at `root` is at.

    Raises:
        CommitError: there is none, or something that results depend on differs from it.
    """
    try:
        commit = _git(root, "rev-parse", "HEAD")
        changed = _git(root, "status", "--porcelain", "--", *CODE).splitlines()
    except StageError as error:
        raise CommitError(f"{root.resolve()} is no git repository with a commit ({error}).") from None
    if changed:
        raise CommitError(
            f"{len(changed)} changed files, first {changed[0].split()[-1]}: experiments are made of commits, so that "
            "they can be traced. Commit the changes, or take them back (`git stash`)."
        )
    return commit


def open_clone(root: Path, folder: Path, commit: str) -> None:
    """Make `folder` a clone of the project at `root`, at that commit, with its DVC cache; `.work` in it stays.

    No other process may be at work in it (`only_run`).

    Raises:
        StageError: git or DVC refused; the message has their words.
    """
    if not (folder / ".git").is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        _git(root, "clone", "--quiet", "--no-checkout", str(root.resolve()), str(folder.resolve()))
    _git(folder, "fetch", "--quiet", str(root.resolve()), commit)  # by its path of today, which `origin` may not be
    _git(folder, "checkout", "--quiet", "--force", "--detach", commit)
    (folder / ".dvc" / "tmp" / "rwlock").unlink(missing_ok=True)  # of a DVC that was killed, maybe while it wrote it
    local = root / ".dvc" / "config.local"
    if local.is_file():
        write_text(folder / ".dvc" / "config.local", local.read_text())
    cache = _output([*DVC, "cache", "dir"], root)
    _output([*DVC, "cache", "dir", "--local", cache], folder)


def make_data(folder: Path, overlays: Sequence[Path], methods: Sequence[str], on_line: OnLine) -> None:
    """Bring everything that training and evaluation read up to date in the clone `folder`; other clones restore it.

    Raises:
        StageError: a stage failed.
        ParamsError: an overlay is missing or does not fit, one of the `methods` is in none of them, or a path leads to
            nothing from a clone.
    """
    _apply(folder, overlays, methods)
    _check_paths(folder)
    run_lines([*DVC, "repro", "validate", "quality", "evalset"], folder, on_line, "the data")


def run_experiment(root: Path, folder: Path, experiment: Experiment, on_line: OnLine, threads: int) -> list[Run]:
    """Run an experiment in the clone `folder`, and fetch it into the git of `root`.

    A run that was killed goes on where it was: DVC has the stages that were finished, training has its checkpoints.

    Returns:
        One for each method, and behind them one for each of the project's checkpoints, without a seed and training.

    Raises:
        StageError: a stage failed; the message has the end of its log.
        ParamsError: an overlay is missing or does not fit, or a method is in none of them.
    """
    commit = _git(folder, "rev-parse", "HEAD")
    _git(folder, "checkout", "--quiet", "--force", commit)
    _choose_methods(folder, experiment)
    environment = {"LOTLIP_LIVE_TRACKING": "0", "OMP_NUM_THREADS": str(threads)}
    reference = f"refs/exps/{commit[:2]}/{commit[2:]}/{experiment.name}"
    _git(folder, "update-ref", "-d", reference)  # DVC's --force would replace it, but run all stages again, too
    command = [*DVC, "exp", "run", "--name", experiment.name, "--set-param", f"train.seed={experiment.seed}"]
    run_lines(command, folder, on_line, experiment.name, environment)
    _git(root, "fetch", "--quiet", str(folder.resolve()), f"+{reference}:{reference}")
    params = load_params(folder / "params.yaml")
    made_of: dict[str, Any] = {"experiment": experiment.name, "commit": commit}
    lock = (folder / "dvc.lock").read_text()
    trained = [
        _trained(folder, params, method, made_of | {"data": data_hashes(lock, method)}) for method in experiment.methods
    ]
    measured = [
        Run(
            method=name,
            seed=None,
            settings={"checkpoint": checkpoint.model_dump(mode="json")},
            data=data_hashes(lock),
            evaluate=_evaluated(folder, name),
            **made_of,
        )
        for name, checkpoint in params.checkpoints.items()
    ]
    return trained + measured


def data_hashes(lock: str, method: str | None = None) -> dict[str, str]:
    """DVC's hashes, by path in `data`, of the evaluation sets and of what a method was trained on.

    Args:
        lock: the text of dvc.lock after the run.
        method: None for a model that was not trained here.
    """
    stages = yaml.safe_load(lock)["stages"]
    files = [out for name, stage in stages.items() if name.startswith("evalset") for out in stage["outs"]]
    if method is not None:
        files += stages[f"train@{method}"]["deps"]
    return {file["path"]: file["md5"] for file in files if file["path"].startswith("data/")}


def track_experiment(folder: Path, name: str, uri: str, on_line: OnLine) -> None:
    """Log the state of the clone `folder` to the MLflow store at `uri`.

    Raises:
        StageError: the store did not take it.
    """
    command = [sys.executable, "-m", "lotlip.cli", "track", "--name", name]
    run_lines(command, folder, on_line, f"tracking of {name}", {"MLFLOW_TRACKING_URI": uri})


def _apply(folder: Path, overlays: Sequence[Path], methods: Sequence[str]) -> list[str]:
    """Give params.yaml the overlays, and return the names of all methods, among which `methods` must be."""
    target = folder / "params.yaml"
    apply_overlays([folder / overlay for overlay in overlays], [], target)
    there = load_params(target).methods
    for name in methods:
        entry(there, "method", name)
    return list(there)


def _check_paths(folder: Path) -> None:
    """What sources and evaluation sets are made from must be in the commit, or have an absolute path."""
    params = load_params(folder / "params.yaml")
    paths = {f"sources.{name}.path": source.path for name, source in params.sources.items()}
    paths |= {f"evalsets.{name}.path": evalset.path for name, evalset in params.evalsets.items()}
    for where, path in paths.items():
        is_made = isinstance(path, Path) and path.is_relative_to("data")  # by a stage
        if isinstance(path, Path) and not is_made and not (folder / path).exists():
            raise ParamsError(
                f"{where}: {path} is not in the commit, and experiments run in clones of it ({folder}): give an "
                "absolute path, or commit it."
            )


def _choose_methods(folder: Path, experiment: Experiment) -> None:
    """Give params.yaml the overlays and the experiment's methods alone, and dvc.lock no stages of others."""
    others = [
        name for name in _apply(folder, experiment.overlays, experiment.methods) if name not in experiment.methods
    ]
    apply_overlays([], [f"methods.{name}=null" for name in others], folder / "params.yaml")
    lock = folder / "dvc.lock"
    if lock.is_file():
        content = yaml.safe_load(lock.read_text())
        for name in [name for name in content["stages"] if name.startswith(OF_METHODS)]:
            del content["stages"][name]
        write_text(lock, yaml.safe_dump(content, sort_keys=False))


def _trained(folder: Path, params: Params, method: str, made_of: dict[str, Any]) -> Run:
    settings = params.train_settings(method)
    return Run(
        method=method,
        seed=settings.seed,
        settings={
            "method": params.methods[method].model_dump(mode="json", exclude={"train"}),
            "train": settings.model_dump(mode="json"),
        },
        train=read_json(folder / "reports" / "train" / f"{method}.json"),
        evaluate=_evaluated(folder, method),
        **made_of,
    )


def _evaluated(folder: Path, model: str) -> Any:
    return read_json(folder / "reports" / "evaluate" / f"{model}.json")


def _git(folder: Path, *arguments: str) -> str:
    return _output(["git", *arguments], folder)


def _output(command: Sequence[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise StageError(f"`{' '.join(command)}` failed in {folder}: {done.stderr.strip()}")
    return done.stdout.strip()
