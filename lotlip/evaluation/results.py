"""What the stages reported, read back for the comparison."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lotlip.errors import DataError
from lotlip.params import Params
from lotlip.records import read_json

Report = dict[str, Any]
Curve = list[dict[str, float]]


@dataclass(frozen=True)
class Results:
    """The reports of everything that params.yaml names, in its order, by name; checkpoints are in `evaluate` alone."""

    params: Params
    download: dict[str, Report]
    recaption: dict[str, Report]
    validate: Report
    quality: Report
    evalset: dict[str, Report]
    train: dict[str, Report]
    curves: dict[str, Curve]
    evaluate: dict[str, Report]


def read_results(params: Params, reports: Path) -> Results:
    """Read the reports of every source, captioner, evaluation set, method and checkpoint of `params`.

    Raises:
        DataError: one is missing, or was made with other evaluation sets; the message names the stage to run.
    """
    results = Results(
        params=params,
        download=_read_all(reports, "download", params.sources),
        recaption=_read_all(reports, "recaption", params.captioners),
        validate=_read(reports / "validate" / "summary.json", "validate"),
        quality=_read(reports / "quality" / "summary.json", "quality"),
        evalset=_read_all(reports, "evalset", params.evalsets),
        train=_read_all(reports, "train", params.methods),
        curves={name: _read_curve(reports / "train" / f"{name}.csv", name) for name in params.methods},
        evaluate={
            **_read_all(reports, "evaluate", params.methods),
            **_read_all(reports, "evaluate", params.checkpoints, "evaluate_checkpoint"),
        },
    )
    for model, by_set in results.evaluate.items():
        missing = [name for name in params.evalsets if name not in by_set]
        if missing:
            stage = "evaluate" if model in params.methods else "evaluate_checkpoint"
            raise DataError(
                f"{reports}/evaluate/{model}.json has no results on {', '.join(missing)}: it was made "
                f"with other evaluation sets. Run `dvc repro {stage}@{model}`."
            )
    return results


def _read_all(reports: Path, folder: str, names: Iterable[str], stage: str | None = None) -> dict[str, Report]:
    return {name: _read(reports / folder / f"{name}.json", f"{stage or folder}@{name}") for name in names}


def _read(path: Path, stage: str) -> Report:
    if not path.is_file():
        raise DataError(f"{path} is missing: run `dvc repro {stage}`.")
    report: Report = read_json(path)
    return report


def _read_curve(path: Path, method: str) -> Curve:
    if not path.is_file():
        raise DataError(f"{path} is missing: run `dvc repro train@{method}`.")
    with path.open(newline="") as file:
        try:
            return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
        except (ValueError, TypeError) as error:
            raise DataError(f"{path} is not a training curve ({error}): run `dvc repro -f train@{method}`.") from None
