"""The MLflow store: SQLite under the project by default, or the server that MLFLOW_TRACKING_URI names."""

import fcntl
import logging
import os
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lotlip.records import atomic_path, write_text
from lotlip.tracking.errors import TrackingError
from lotlip.tracking.redact import hide_in_text

_DEFAULTS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # MLflow's own 7, with doubling pauses, block for minutes
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}


@dataclass(frozen=True)
class Store:
    """An open store and the experiment in it. `client` is an mlflow.tracking.MlflowClient."""

    client: Any
    experiment_id: str
    uri: str


def default_uri(root: Path) -> str:
    """The SQLite store of a project."""
    return f"sqlite:///{root.resolve() / 'mlflow.db'}"


def tracking_uri(root: Path) -> str:
    """The store in use."""
    return os.environ.get("MLFLOW_TRACKING_URI") or default_uri(root)


def server_answers(uri: str, timeout_s: float = 3.0) -> bool:
    """True unless `uri` is a server that does not answer; costs no import of mlflow."""
    if not uri.startswith(("http://", "https://")):
        return True
    try:
        with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=timeout_s):
            return True
    except urllib.error.HTTPError as error:
        return error.code < 500  # a login or a proxy without /health still is a server
    except (OSError, ValueError):
        return False


def connect(root: Path, experiment: str) -> Store:
    """Open the store; the database and the experiment are made when they do not exist.

    Raises:
        TrackingError: the server does not answer, or the database is of another MLflow version.
    """
    uri = tracking_uri(root)
    if not server_answers(uri):
        raise TrackingError(
            f"the tracking server {hide_in_text(uri)} does not answer: start it (`make ui` starts a local "
            "one), or unset MLFLOW_TRACKING_URI to use mlflow.db; then run `lotlip track`. Nothing is lost."
        )
    set_defaults()
    if uri == default_uri(root):
        ensure_database(root)
    with mlflow_errors(uri):
        from mlflow.tracking import MlflowClient

        client = MlflowClient(uri)
        return Store(client, _experiment_id(client, experiment, root, uri), uri)


def set_defaults() -> None:
    """Telemetry off and short waits, unless the environment says otherwise; before mlflow's first import."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def ensure_database(root: Path) -> None:
    """Make `root/mlflow.db` if there is none; a killed process leaves none, never half a schema."""
    path = root.resolve() / "mlflow.db"
    with exclusive(root / ".work" / "mlflow_db.lock"):
        if path.exists():
            return
        set_defaults()
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        for left in path.parent.glob(f".{path.name}.*.tmp*"):
            left.unlink()  # of a process that was killed here
        with atomic_path(path) as temporary:
            store = SqlAlchemyStore(f"sqlite:///{temporary}", (root.resolve() / "mlruns").as_uri())
            store.engine.dispose()


@contextmanager
def mlflow_errors(uri: str) -> Iterator[None]:
    """Turn what mlflow and its HTTP client raise into a TrackingError."""
    from mlflow.exceptions import MlflowException
    from requests.exceptions import RequestException

    try:
        yield
    except (MlflowException, RequestException) as error:
        message = f"the tracking store {hide_in_text(uri)} failed: {hide_in_text(str(error))}"
        raise TrackingError(message) from error


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock file; others wait. The system frees it when the process ends, however it ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def workspace_id(root: Path) -> str:
    """A random name of this working folder, so that two people on one server don't take each other's runs."""
    path = root / ".work" / "workspace_id"
    if not path.exists():
        write_text(path, uuid.uuid4().hex)
    return path.read_text()


def _experiment_id(client: Any, name: str, root: Path, uri: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is None:
        location = (root.resolve() / "mlruns").as_uri() if uri == default_uri(root) else None
        return str(client.create_experiment(name, artifact_location=location))
    if found.lifecycle_stage != "active":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)
