"""Runs of configurations with several seeds, as the sweep writes them: docs/results/runs.jsonl, one a line."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, FiniteFloat, ValidationError

from lotlip.errors import DataError
from lotlip.params.section import Section
from lotlip.records import write_text

_SAME_RESULT = ("seed", "num_workers", "checkpoints")  # may differ between runs that are averaged


class Run(Section):
    """One model measured on every evaluation set; a public checkpoint has no seed and no training.

    `data` is what it was trained and evaluated on, by path in `data`: DVC's hashes.
    """

    method: str
    seed: int | None
    experiment: str | None = None
    commit: str | None = None
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)
    data: dict[str, str]
    train: dict[str, Any] | None = None
    evaluate: dict[str, dict[str, int | FiniteFloat]]


Runs = Mapping[str, list[Run]]


def read_runs(path: Path) -> dict[str, list[Run]]:
    """Runs by method, in the order of the file.

    Raises:
        DataError: the file is missing or a line is no run; a method has two runs of one seed, or runs of other
            settings or metrics, which must not be averaged; runs were trained or measured on other data.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing: `make ablation NAME=corner_tokens` trains the models of a table.")
    runs: dict[str, list[Run]] = {}
    for run in read_lines(path):
        runs.setdefault(run.method, []).append(run)
    for method, group in runs.items():
        _check_same_settings(path, method, group)
        _check_same_metrics(path, method, group)
    _check_same_data(path, runs)
    return runs


def record_runs(path: Path, runs: Iterable[Run]) -> None:
    """Add runs to the file, in the place of those of the same method and seed, sorted by these two.

    Other seeds of a method stay: where their settings differ, `read_runs` says so.

    Raises:
        DataError: a line of the file is no run.
    """
    found = {_key(run): run for run in [*read_lines(path), *runs]}
    lines = (json.dumps(found[key].model_dump(mode="json"), sort_keys=True) for key in sorted(found))
    write_text(path, "".join(f"{line}\n" for line in lines))


def read_lines(path: Path) -> list[Run]:
    """The runs of the file as they stand there; none where it is missing.

    Raises:
        DataError: a line is no run, or the file is not UTF-8.
    """
    try:
        lines = path.read_text().splitlines() if path.is_file() else []
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 ({error}): bring it back from git, or run the sweep again.") from None
    return [_parse(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def flat_settings(run: Run) -> dict[str, Any]:
    """What determines a run but its seed, by dotted keys; a method's own `train` is in `train` already."""
    flat: dict[str, Any] = {}

    def add(values: Mapping[str, Any], prefix: str) -> None:
        for key, value in values.items():
            if isinstance(value, dict):
                add(value, f"{prefix}{key}.")
            else:
                flat[prefix + key] = value

    for section, values in run.settings.items():
        left_out = _SAME_RESULT if section == "train" else ("train",)
        add({key: value for key, value in values.items() if key not in left_out}, f"{section}.")
    return flat


def _key(run: Run) -> tuple[str, int]:
    """A public checkpoint has no seed, and comes first."""
    return run.method, -1 if run.seed is None else run.seed


def _parse(line: str, where: str) -> Run:
    try:
        return Run.model_validate_json(line)
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"])) or "the line"
        raise DataError(f"{where} is no run ({key}: {problem['msg']}): take it out, and run the sweep again.") from None


def _check_same_settings(path: Path, method: str, group: list[Run]) -> None:
    seeds = [run.seed for run in group]
    twice = sorted({str(seed) for seed in seeds if seeds.count(seed) > 1})
    if twice:
        raise DataError(f"{path}: {method} has two runs of seed {', '.join(twice)}: keep one.")
    if None in seeds and len(seeds) > 1:
        raise DataError(f"{path}: {method} has runs with and without a seed: give the checkpoint a name of its own.")
    first = flat_settings(group[0])
    for run in group[1:]:
        other = flat_settings(run)
        different = sorted(key for key in first | other if first.get(key) != other.get(key))
        if different:
            key = different[0]
            raise DataError(
                f"{path}: runs of {method} have other settings and cannot be averaged: {key} is {first.get(key)!r} "
                f"with seed {group[0].seed} and {other.get(key)!r} with seed {run.seed}"
                + (f" (also {', '.join(different[1:])})" if len(different) > 1 else "")
                + ": run the sweep again, which replaces what is out of date."
            )


def _check_same_metrics(path: Path, method: str, group: list[Run]) -> None:
    """A run without a set that the others have would be left out of their mean, not of the number of seeds."""
    first = _metric_names(group[0])
    for run in group[1:]:
        different = sorted(first ^ _metric_names(run))
        if different:
            raise DataError(
                f"{path}: runs of {method} have other metrics and cannot be averaged: only one of seed "
                f"{group[0].seed} and seed {run.seed} has {different[0]}: run the sweep again with both seeds."
            )


def _metric_names(run: Run) -> set[str]:
    return {f"{evalset}.{name}" for evalset, metrics in run.evaluate.items() for name in metrics}


def _check_same_data(path: Path, runs: Runs) -> None:
    """Runs of an earlier, smaller sweep have equal settings: those of the data are not theirs."""
    seen: dict[str, tuple[str, Run]] = {}
    for run in (run for group in runs.values() for run in group):
        for where, found in run.data.items():
            expected, first = seen.setdefault(where, (found, run))
            if found != expected:
                raise DataError(
                    f"{path}: {run.method} (seed {run.seed}) has other {where} than {first.method} (seed {first.seed}) "
                    f"({found[:10]}, {expected[:10]}): run the sweep again, or take out the lines that no table needs."
                )
