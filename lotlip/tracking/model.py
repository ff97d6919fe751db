"""Log a trained model so that MLflow users can load it."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lotlip.tracking.runs import Run

_PACKAGES = ("lotlip", "torch", "transformers", "safetensors", "pillow", "numpy", "ftfy", "mlflow")


def log_model(run: Run, folder: Path, method: str, register: bool) -> None:
    """Log the `from_pretrained` folder as a pyfunc model of the run, unless it has a ready one.

    Args:
        run: the method's run.
        folder: `models/<method>`.
        method: also the model's name.
        register: also add a version of `lotlip-<method>` to MLflow's model registry.
    """
    if any(run.client.get_logged_model(model).status == "READY" for model in run.model_ids):
        return
    import mlflow
    from mlflow.models import Model

    with _default_uri(run.store.uri), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # advice to give an example, which would run the model
        Model.log(
            artifact_path=None,
            flavor=mlflow.pyfunc,
            name=method,
            run_id=run.id,
            registered_model_name=f"lotlip-{method}" if register else None,
            await_registration_for=60,
            python_model=str(Path(__file__).with_name("pyfunc.py")),
            artifacts={"model": str(folder)},
            pip_requirements=_requirements(),  # inferring them would load the model and take 11-22 s
            signature=_signature(),
        )


@contextmanager
def _default_uri(uri: str) -> Iterator[None]:
    """`uri` as MLflow's process-wide default, which `Model.log` uses; the environment is as before afterwards."""
    import mlflow

    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    try:
        yield
    finally:
        mlflow.set_tracking_uri(None)
        if before is not None:
            os.environ["MLFLOW_TRACKING_URI"] = before


def _signature() -> Any:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types.schema import ColSpec, Schema, TensorSpec

    inputs = Schema([ColSpec("string", "text", required=False), ColSpec("string", "image", required=False)])
    return ModelSignature(inputs=inputs, outputs=Schema([TensorSpec(np.dtype("float32"), (-1, -1))]))


def _requirements() -> list[str]:
    """The installed versions of what the model imports."""
    found = []
    for package in _PACKAGES:
        try:
            found.append(f"{package}=={version(package).partition('+')[0]}")
        except PackageNotFoundError:
            continue
    return found
