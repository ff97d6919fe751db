"""A saved view of MLflow's runs page: the methods side by side, the best on long texts first.

MLflow's page keeps a shared view in an experiment tag, as plain JSON (seen in 3.17); when a later version
does not understand it, the page falls back to its own columns.
"""

import json

from lotlip.tracking.store import Store

KIND_TAG = "lotlip.kind"
TRAINED_TAG = "lotlip.trained"  # here | elsewhere
PIPELINE_TAG = "lotlip.pipeline"  # name of the parent run: of the state, or of a sweep's experiment
VIEW = "methods"
_PARAMS = ("train.seed", "method.num_long", "method.corner_tokens", "method.image_tower")


def methods_page(experiment_id: str) -> str:
    """Path of the view on a server, to be put after its address."""
    return f"/#/experiments/{experiment_id}/runs?viewStateShareKey={VIEW}&workflowType=machine_learning"


def save_view(store: Store, metrics: list[str]) -> None:
    """Save the view with the headline metrics among `metrics` (R@1 and top-1) as columns."""
    headline = [name for name in metrics if name.endswith(("_r1", "/top1"))]
    if not headline:
        return
    columns = [f"metrics.`{name}`" for name in headline] + [f"params.`{name}`" for name in _PARAMS]
    columns += [f"tags.`{name}`" for name in (PIPELINE_TAG, TRAINED_TAG)]
    state = {
        "selectedColumns": columns,
        "orderByKey": f"metrics.`{headline[0]}`",
        "orderByAsc": False,
        "searchFilter": f'tags.`{KIND_TAG}` = "method"',
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
        "runsVisibilityMap": {},
        "runsHiddenMode": "FIRST_10_RUNS",
        "groupBy": None,
        "hideEmptyCharts": True,
        "globalLineChartConfig": {"xAxisKey": "step", "lineSmoothness": 0, "selectedXAxisMetricKey": ""},
    }
    store.client.set_experiment_tag(store.experiment_id, f"mlflow.sharedViewState.{VIEW}", json.dumps(state))
    store.client.set_experiment_tag(store.experiment_id, "mlflow.experimentKind", "custom_model_development")
