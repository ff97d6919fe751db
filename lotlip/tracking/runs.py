"""One MLflow run, written so that writing the same things again adds nothing."""

import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from lotlip.tracking.redact import metric_name
from lotlip.tracking.store import Store

STAGE_TAG = "lotlip.stage"
KEY_TAG = "lotlip.stage_key"
STATE_TAG = "pipeline_state"
DONE_TAG = "lotlip.logged"
PARENT_TAG = "mlflow.parentRunId"
_MAX_PARAM = 6000
_MAX_TAG = 8000
_MAX_DIGEST = 36
_T = TypeVar("_T")


class Run:
    """A run in a store. Times are made up from the run's start and the step, so they repeat exactly."""

    def __init__(self, store: Store, run: Any) -> None:
        self.store = store
        self.client = store.client
        self.id: str = run.info.run_id
        self._start_ms: int = run.info.start_time
        self._run = run

    @property
    def is_done(self) -> bool:
        """True when everything about it was logged before."""
        return DONE_TAG in self._run.data.tags

    @property
    def status(self) -> str:
        """RUNNING, FINISHED, FAILED or KILLED."""
        return str(self._run.info.status)

    @property
    def metric_names(self) -> set[str]:
        """Metrics that it had when it was read from the store."""
        return set(self._run.data.metrics)

    def tag(self, name: str) -> str | None:
        """A tag's value when the run was read from the store, or None."""
        value = self._run.data.tags.get(name)
        return None if value is None else str(value)

    def log_params(self, params: dict[str, str]) -> None:
        from mlflow.entities import Param

        known = self._run.data.params
        new = {name: value[:_MAX_PARAM] for name, value in params.items() if name not in known}
        for some in batches(new.items(), 100):
            self.client.log_batch(self.id, params=[Param(name, value) for name, value in some])

    def set_tags(self, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        known = self._run.data.tags
        new = {name: value[:_MAX_TAG] for name, value in tags.items() if known.get(name) != value[:_MAX_TAG]}
        for some in batches(new.items(), 100):
            self.client.log_batch(self.id, tags=[RunTag(name, value) for name, value in some])

    def log_metrics(self, metrics: dict[str, float]) -> None:
        """Final numbers, at step 0."""
        new = {name: value for name, value in metrics.items() if name not in self._run.data.metrics}
        self.log_rows([(0, new)])

    def log_rows(self, rows: Iterable[tuple[int, dict[str, float]]]) -> None:
        """Points of curves, given as (step, metrics); those that the run has already are skipped."""
        rows = list(rows)
        known = self.history({name for _, metrics in rows for name in metrics})
        self.append_rows(
            (step, {name: value for name, value in metrics.items() if (name, step) not in known})
            for step, metrics in rows
        )

    def append_rows(self, rows: Iterable[tuple[int, dict[str, float]]], times_ms: dict[int, int] | None = None) -> None:
        """Points that the run surely lacks. `times_ms` gives a step's time, in ms since 1970."""
        from mlflow.entities import Metric

        points = (
            Metric(name, value, (times_ms or {}).get(step, self._start_ms + step), step)
            for step, metrics in rows
            for name, value in metrics.items()
        )
        for some in batches(points, 1000):
            self.client.log_batch(self.id, metrics=some)

    def history(self, names: Iterable[str]) -> dict[tuple[str, int], float]:
        """Logged values by (metric, step)."""
        return {
            (name, point.step): point.value
            for name in sorted(set(names) & set(self._run.data.metrics))
            for point in self.client.get_metric_history(self.id, name)
        }

    def log_datasets(self, digests: dict[str, str], context: str) -> None:
        """Dataset inputs: name and SHA-256 of the manifest (MLflow keeps the first 36 digits as digest)."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        known = {item.dataset.name for item in self._run.inputs.dataset_inputs} if self._run.inputs else set()
        new = [
            DatasetInput(
                Dataset(
                    name,
                    digest[:_MAX_DIGEST],
                    "local",
                    json.dumps({"uri": name}),
                    profile=json.dumps({"manifest_sha256": digest}),
                ),
                [InputTag("mlflow.data.context", context)],
            )
            for name, digest in digests.items()
            if name not in known
        ]
        if new:
            self.client.log_inputs(self.id, datasets=new)

    def log_file(self, path: Path, folder: str | None = None) -> None:
        self.client.log_artifact(self.id, str(path), folder)

    def log_folder(self, path: Path, folder: str) -> None:
        self.client.log_artifacts(self.id, str(path), folder)

    def log_text(self, text: str, path: str) -> None:
        self.client.log_text(self.id, text, path)

    def finish(self, status: str = "FINISHED") -> None:
        """Mark the run as done with everything logged."""
        self.set_tags({DONE_TAG: "1"})
        self.client.set_terminated(self.id, status)

    @property
    def model_ids(self) -> list[str]:
        """Models that the run has put out."""
        outputs = self._run.outputs
        return [model.model_id for model in outputs.model_outputs] if outputs else []


def find_run(store: Store, tags: dict[str, str]) -> Run | None:
    """The newest active run with all these tags, or None."""
    found = find_runs(store, tags)
    return found[0] if found else None


def find_runs(store: Store, tags: dict[str, str]) -> list[Run]:
    """Active runs with all these tags, the newest first."""
    where = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    found = store.client.search_runs([store.experiment_id], where, order_by=["attributes.start_time DESC"])
    return [Run(store, store.client.get_run(run.info.run_id)) for run in found]


def create_run(store: Store, name: str, tags: dict[str, str]) -> Run:
    """A new run of that name."""
    tags = {"mlflow.source.name": "lotlip", "mlflow.source.type": "PROJECT", **tags}
    return Run(store, store.client.create_run(store.experiment_id, tags=tags, run_name=name))


def curve_metric(name: str) -> str:
    """A curve's name in MLflow: its charts are grouped by what stands before the slash."""
    return metric_name(name if "/" in name else f"train/{name}")


def batches(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    """Lists of at most `size` items, in order."""
    iterator = iter(items)
    while some := list(islice(iterator, size)):
        yield some
