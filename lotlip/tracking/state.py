"""A pipeline state as files tell it: dvc.lock, params.yaml and the reports that dvc.lock vouches for."""

import csv
import hashlib
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lotlip.errors import DataError
from lotlip.params import Params
from lotlip.records import content_key, read_json, sha256_bytes, sha256_file
from lotlip.tracking.redact import flat_metrics, metric_name, redacted

PARAMS_FILE = "params.yaml"
HOW_TO_RESTORE = "`dvc checkout` or `dvc repro` brings it back"
_REPORTS = {
    "download": "reports/download/{}.json",
    "recaption": "reports/recaption/{}.json",
    "validate": "reports/validate/summary.json",
    "quality": "reports/quality/summary.json",
    "evalset": "reports/evalset/{}.json",
}


@dataclass(frozen=True)
class StageRecord:
    """One stage of dvc.lock. `deps` and `outs` map paths to hashes as DVC writes them (`md5:...`)."""

    name: str
    params: dict[str, Any]
    deps: dict[str, str]
    outs: dict[str, str]
    entry: dict[str, Any]

    @property
    def instance(self) -> str:
        """`lotlip` of `train@lotlip`."""
        return self.name.partition("@")[2]

    @property
    def report(self) -> str | None:
        """Where a data stage's JSON report lies; None for the other stages."""
        report = _REPORTS.get(self.name.partition("@")[0])
        return report.format(self.instance) if report else None


@dataclass
class PipelineState:
    """`key` is the SHA-256 of dvc.lock.

    `warnings` says what could not be read, and why; `notes` what else is worth telling.
    """

    root: Path
    key: str
    stages: dict[str, StageRecord]
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def instances(self, stage: str) -> list[str]:
        """The instances of a foreach stage, in dvc.lock's order."""
        return [record.instance for name, record in self.stages.items() if name.startswith(f"{stage}@")]

    def file(self, stage: str, path: str) -> Path | None:
        """An output file of a stage, or None (with a warning) unless it is as DVC recorded it."""
        record, full = self.stages.get(stage), self.root / path
        if record is None or not full.is_file():
            self.warn(f"{path} is missing ({HOW_TO_RESTORE})")
            return None
        wanted = record.outs.get(path)
        if wanted and wanted != f"md5:{hashlib.md5(full.read_bytes(), usedforsecurity=False).hexdigest()}":
            self.warn(f"{path} is not the one in dvc.lock (`dvc repro` first)")
            return None
        return full

    def metrics(self, stage: str, path: str) -> dict[str, float]:
        """The numbers of a stage's JSON report; empty (with a warning) when it cannot be trusted."""
        report = self.file(stage, path)
        return flat_metrics(read_json(report)) if report else {}

    def curve(self, stage: str, path: str) -> list[tuple[int, dict[str, float]]]:
        """Rows (step, metrics) of a training curve."""
        table = self.file(stage, path)
        return read_curve(table) if table else []

    def warn(self, warning: str) -> None:
        """Add a warning, once."""
        if warning not in self.warnings:
            self.warnings.append(warning)


def read_state(root: Path) -> PipelineState:
    """Read `root/dvc.lock`.

    Raises:
        DataError: it is missing or not a lock file.
    """
    try:
        content = (root / "dvc.lock").read_bytes()
        stages = yaml.safe_load(content)["stages"]
    except FileNotFoundError:
        raise DataError(f"{root / 'dvc.lock'} is missing: run `dvc repro` first.") from None
    except (yaml.YAMLError, TypeError, KeyError):
        raise DataError(f"{root / 'dvc.lock'} is not a DVC lock file: run `dvc repro` again.") from None
    records = {name: _stage_record(name, entry) for name, entry in stages.items()}
    return PipelineState(root, sha256_bytes(content), records)


def read_curve(path: Path) -> list[tuple[int, dict[str, float]]]:
    """Rows (step, metrics) of a curve CSV with a `step` column; empty cells are left out."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [
        (
            int(float(row["step"])),
            {metric_name(name): float(cell) for name, cell in row.items() if name != "step" and cell},
        )
        for row in rows
    ]


def dataset_digests(root: Path, params: Params) -> dict[str, str]:
    """SHA-256 of the manifest of every dataset that training reads, by folder; absent ones are left out."""
    folders = [f"data/images/{name}" for name in params.sources]
    folders += [f"data/captions/{name}" for name in params.captioners] + ["data/quarantine"]
    manifests = {folder: root / folder / "manifest.json" for folder in folders}
    return {folder: sha256_file(path) for folder, path in manifests.items() if path.is_file()}


def training_key(root: Path, method: str, params: Params, workspace: str) -> str:
    """What identifies a training in this workspace: its settings and the data it reads."""
    return content_key(
        {
            "workspace": workspace,
            "train": redacted(params.train.model_dump(mode="json")),
            "method": params.methods[method].model_dump(mode="json"),
            "data": dataset_digests(root, params),
        }
    )


def git_tags(root: Path) -> dict[str, str]:
    """Commit, branch and whether tracked files differ from it; empty outside a git repository."""
    commit = _git(root, "rev-parse", "HEAD")
    if not commit:
        return {}
    return {
        "mlflow.source.git.commit": commit,
        "mlflow.source.git.branch": _git(root, "rev-parse", "--abbrev-ref", "HEAD"),
        "mlflow.source.git.dirty": "true" if _git(root, "diff", "--stat", "HEAD") else "false",
    }


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _stage_record(name: str, entry: dict[str, Any]) -> StageRecord:
    return StageRecord(
        name,
        entry.get("params", {}).get(PARAMS_FILE, {}),
        {item["path"]: _hash(item) for item in entry.get("deps", [])},
        {item["path"]: _hash(item) for item in entry.get("outs", [])},
        entry,
    )


def _hash(item: dict[str, Any]) -> str:
    kind = item.get("hash", "md5")
    return f"{kind}:{item.get(kind, '')}"
