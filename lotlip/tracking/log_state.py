"""`lotlip track`: log a pipeline state from its files; a second time adds nothing.

One parent run a state (sha256 of dvc.lock), under it one run a method, with the curve that was followed live
where there was one, one run a checkpoint that was only evaluated, and one run a data stage.
"""

import json
import math
from pathlib import Path

import yaml

from lotlip.params import Params, load_params
from lotlip.tracking.contents import (
    all_metrics,
    all_params,
    evaluation,
    method_curve,
    method_metrics,
    stage_params,
)
from lotlip.tracking.model import log_model
from lotlip.tracking.redact import flat_params, redacted
from lotlip.tracking.runs import (
    KEY_TAG,
    PARENT_TAG,
    STAGE_TAG,
    STATE_TAG,
    Run,
    create_run,
    find_run,
    find_runs,
)
from lotlip.tracking.state import (
    HOW_TO_RESTORE,
    PipelineState,
    StageRecord,
    dataset_digests,
    git_tags,
    read_state,
    training_key,
)
from lotlip.tracking.store import Store, connect, exclusive, mlflow_errors, workspace_id
from lotlip.tracking.summary import TrackSummary
from lotlip.tracking.view import KIND_TAG, PIPELINE_TAG, TRAINED_TAG, methods_page, save_view

_PARENT = "pipeline"


def track(root: Path = Path(), name: str | None = None) -> TrackSummary:
    """Log the state of the project at `root` to MLflow, as a run of that name (default: `pipeline` and its hash).

    Raises:
        DataError: dvc.lock is missing or unreadable.
        ParamsError: params.yaml does not fit.
        TrackingError: the store does not answer.
    """
    params = load_params(root / "params.yaml")
    state = read_state(root)
    with exclusive(root / ".work" / "track.lock"):
        store = connect(root, params.tracking.experiment)
        with mlflow_errors(store.uri):
            return _StateLog(store, state, params, name).log()


class _StateLog:
    """Logs one state into one store."""

    def __init__(self, store: Store, state: PipelineState, params: Params, name: str | None) -> None:
        self.name = name or f"pipeline {state.key[:8]}"
        self.store = store
        self.state = state
        self.params = params
        self.datasets = dataset_digests(state.root, params)
        self.git = git_tags(state.root)
        self.summary = TrackSummary(store.uri, params.tracking.experiment, state.key)
        self.summary.page = methods_page(store.experiment_id)

    def log(self) -> TrackSummary:
        parent = self._open_parent()
        self.summary.parent_run_id = parent.id
        for record in self.state.stages.values():
            if record.report:
                self._log_data_stage(parent, record, record.report)
        for method in self.state.instances("train"):
            self._log_method(parent, method)
        for checkpoint in self.state.instances("evaluate_checkpoint"):
            self._log_checkpoint(parent, checkpoint)
        self._log_parent(parent)
        self.summary.warnings = self.state.notes + self.state.warnings
        return self.summary

    def _open_parent(self) -> Run:
        tags = {STATE_TAG: self.state.key, STAGE_TAG: _PARENT}
        found = self._count(self.name, find_run(self.store, tags))
        return found or create_run(self.store, self.name, tags | {KIND_TAG: "pipeline"} | self.git)

    def _open_child(self, parent: Run, stage: str, name: str, kind: str) -> Run:
        tags = {PARENT_TAG: parent.id, STAGE_TAG: stage}
        found = self._count(name, find_run(self.store, tags))
        new = {KIND_TAG: kind, STATE_TAG: self.state.key}
        return found or create_run(self.store, name, tags | new | self.git)

    def _count(self, name: str, run: Run | None) -> Run | None:
        kind = "created" if run is None else "unchanged" if run.is_done else "updated"
        getattr(self.summary, kind).append(name)
        return run

    def _log_data_stage(self, parent: Run, record: StageRecord, report: str) -> None:
        run = self._open_child(parent, record.name, record.name, "data")
        if run.is_done:
            return
        missing_before = len(self.state.warnings)
        run.log_params(stage_params(record))
        run.log_metrics(self.state.metrics(record.name, report))
        self._describe(run, [record])
        self._finish(run, missing_before)

    def _log_method(self, parent: Run, method: str) -> None:
        stage = f"train@{method}"
        missing_before = len(self.state.warnings)
        curve = method_curve(self.state, method)
        run = self._adopt(parent, method, curve) or self._open_child(parent, stage, method, "method")
        if run.is_done:
            del self.state.warnings[missing_before:]
            return
        names = [name for name in (stage, f"evaluate@{method}") if name in self.state.stages]
        records = [self.state.stages[name] for name in names]
        for record in records:
            run.log_params(stage_params(record))
        metrics = method_metrics(self.state, method)
        save_view(self.store, list(metrics))
        run.set_tags({TRAINED_TAG: "here", PIPELINE_TAG: self.name})
        run.log_metrics(metrics)
        run.log_rows(curve)
        run.log_datasets(self.datasets, "training")
        self._describe(run, records)
        self._log_model(run, method)
        self._finish(run, missing_before)

    def _log_checkpoint(self, parent: Run, name: str) -> None:
        """A run beside the methods', of the same kind and metrics, for a model that was trained elsewhere."""
        record = self.state.stages[f"evaluate_checkpoint@{name}"]
        run = self._open_child(parent, record.name, name, "method")
        if run.is_done:
            return
        missing_before = len(self.state.warnings)
        run.set_tags({TRAINED_TAG: "elsewhere", PIPELINE_TAG: self.name})
        run.log_params(stage_params(record))
        run.log_metrics(evaluation(self.state, "evaluate_checkpoint", name))
        self._describe(run, [record])
        self._finish(run, missing_before)

    def _adopt(self, parent: Run, method: str, curve: list[tuple[int, dict[str, float]]]) -> Run | None:
        """The live run of exactly this training, put under the parent; None when there is none."""
        stage = f"train@{method}"
        is_known = find_run(self.store, {PARENT_TAG: parent.id, STAGE_TAG: stage}) is not None
        if is_known or method not in self.params.methods:
            return None
        key = training_key(self.state.root, method, self.params, workspace_id(self.state.root))
        for run in find_runs(self.store, {STAGE_TAG: stage, KEY_TAG: key}):
            if run.tag(PARENT_TAG) is None and _agrees(run, curve):
                tags = {PARENT_TAG: parent.id, STATE_TAG: self.state.key, KIND_TAG: "method"}
                run.set_tags(tags | self.git)
                self.store.client.update_run(run.id, name=method)
                self.summary.adopted.append(method)
                return run
        return None

    def _log_model(self, run: Run, method: str) -> None:
        folder = self.state.root / "models" / method
        if not folder.is_dir():
            self.state.warn(f"models/{method} is missing ({HOW_TO_RESTORE})")
            return
        log_model(run, folder, method, self.params.tracking.register_model)

    def _log_parent(self, parent: Run) -> None:
        if parent.is_done:
            return
        missing_before = len(self.state.warnings)
        params = all_params(self.state)
        parent.log_params(flat_params(params))
        parent.log_metrics(all_metrics(self.state))
        parent.log_datasets(self.datasets, "pipeline")
        parent.log_text(yaml.safe_dump(redacted(params), sort_keys=False), "params.yaml")
        self._log_parent_files(parent)
        self._describe(parent, list(self.state.stages.values()))
        self._finish(parent, missing_before, self.state.warnings == [])

    def _log_parent_files(self, parent: Run) -> None:
        root = self.state.root
        for folder, stage in (("reports/report", "report"), ("reports/validate", "validate")):
            if stage in self.state.stages and (root / folder).is_dir():
                parent.log_folder(root / folder, stage)
        comparison = root / "reports" / "report" / "comparison.md"
        if comparison.is_file():
            parent.set_tags({"mlflow.note.content": comparison.read_text()})

    def _describe(self, run: Run, records: list[StageRecord]) -> None:
        """DVC's entries of the run's stages as a file; its output hashes also as tags."""
        entries = {record.name: redacted(record.entry) for record in records}
        run.log_text(json.dumps(entries, indent=2) + "\n", "dvc.lock.json")
        if len(records) <= 2:
            run.set_tags({f"dvc.{path}": value for record in records for path, value in record.outs.items()})

    def _finish(self, run: Run, missing_before: int, complete: bool = True) -> None:
        """Done, unless a file was missing: then the next `track` looks again."""
        if complete and len(self.state.warnings) == missing_before:
            run.finish()
        elif run.status == "RUNNING":
            self.store.client.set_terminated(run.id)


def _agrees(run: Run, curve: list[tuple[int, dict[str, float]]]) -> bool:
    """True when no point that was logged live contradicts the curve on disk."""
    wanted = {(name, step): value for step, row in curve for name, value in row.items()}
    live = run.history({name for name, _ in wanted})
    return all(
        point in wanted
        and (math.isclose(wanted[point], value, rel_tol=1e-4, abs_tol=1e-6) or wanted[point] != wanted[point])
        for point, value in live.items()
    )
