"""What the runs of a pipeline state hold: names and numbers, read from its files."""

from typing import Any

from ruamel.yaml import YAML

from lotlip.params import Method
from lotlip.tracking.redact import flat_params
from lotlip.tracking.runs import curve_metric
from lotlip.tracking.state import PARAMS_FILE, PipelineState, StageRecord

EVALUATIONS = ("evaluate", "evaluate_checkpoint")  # stages of methods, and of models trained elsewhere


def stage_params(record: StageRecord) -> dict[str, str]:
    """A stage's settings; those of its own entry get the section's singular name, so that runs compare.

    `methods.lotlip.num_long` of `train@lotlip` reads `method.num_long`.
    """
    flat = flat_params({name: _with_defaults(name, value) for name, value in record.params.items()})
    if not record.instance:
        return flat
    renamed = {}
    for name, value in flat.items():
        section, _, rest = name.partition(".")
        own = rest == record.instance or rest.startswith(f"{record.instance}.")
        renamed[f"{section.removesuffix('s')}{rest[len(record.instance) :]}" if own else name] = value
    return renamed


def all_params(state: PipelineState) -> dict[str, Any]:
    """params.yaml, with the values that stages ran with where it was edited since (the state notes it)."""
    values: dict[str, Any] = YAML(typ="safe", pure=True).load((state.root / PARAMS_FILE).read_text())
    for record in state.stages.values():
        for path, value in record.params.items():
            if _set_at(values, path.split("."), value):
                state.notes.append(f"{path} was edited after {record.name} ran; logged as it ran")
    return values


def all_metrics(state: PipelineState) -> dict[str, float]:
    """Every model's evaluation (`lotlip/long/i2t_r1`), every data stage's report (`recaption/llava/...`)."""
    metrics: dict[str, float] = {}
    for stage in EVALUATIONS:
        for model in state.instances(stage):
            metrics.update({f"{model}/{name}": value for name, value in evaluation(state, stage, model).items()})
    for record in state.stages.values():
        if record.report:
            prefix = record.name.replace("@", "/")
            report = state.metrics(record.name, record.report)
            metrics.update({f"{prefix}/{name}": value for name, value in report.items()})
    return metrics


def evaluation(state: PipelineState, stage: str, model: str) -> dict[str, float]:
    """Evaluation metrics (`long/i2t_r1`) of a method or, by the other of `EVALUATIONS`, of a checkpoint."""
    return state.metrics(f"{stage}@{model}", f"reports/evaluate/{model}.json")


def method_curve(state: PipelineState, method: str) -> list[tuple[int, dict[str, float]]]:
    """Rows (step, metrics) of the training curve, under MLflow's names."""
    rows = state.curve(f"train@{method}", f"reports/train/{method}.csv")
    return [(step, {curve_metric(name): value for name, value in row.items()}) for step, row in rows]


def method_metrics(state: PipelineState, method: str) -> dict[str, float]:
    """Evaluation metrics (`long/i2t_r1`), and the training's final numbers that are no curve's name."""
    metrics: dict[str, float] = {}
    if f"evaluate@{method}" in state.stages:
        metrics = evaluation(state, "evaluate", method)
    final = state.metrics(f"train@{method}", f"reports/train/{method}.json")
    curves = {name for _, row in method_curve(state, method) for name in row}
    return metrics | {curve_metric(n): v for n, v in final.items() if curve_metric(n) not in curves}


def _with_defaults(name: str, value: Any) -> Any:
    """A method's settings in full: its entry names only what differs from the defaults."""
    is_method = name.startswith("methods.") and isinstance(value, dict)
    return {**Method().model_dump(), **value} if is_method else value


def _set_at(values: Any, path: list[str], value: Any) -> bool:
    """Set a nested value; True when another value stood there."""
    for name in path[:-1]:
        values = values.setdefault(name, {})
    old = values.get(path[-1])
    values[path[-1]] = value
    return bool(old != value)
