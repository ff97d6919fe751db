"""Where Prefect keeps its files, which server it talks to, and that it phones nobody."""

import json
import os
import signal
import urllib.request
from pathlib import Path

_DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "true",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}


def set_defaults() -> None:
    """Settings that the environment does not give: files under `.prefect/`, no telemetry, the local server.

    A server that `make ui` started in this project is used when it answers; without one Prefect runs a
    temporary one on the same database, so that its runs are seen when a server is started later.
    """
    for name, value in {"PREFECT_HOME": str(Path.cwd() / ".prefect"), **_DEFAULTS}.items():
        os.environ.setdefault(name, value)
    if "PREFECT_API_URL" not in os.environ and (url := running_server(Path(os.environ["PREFECT_HOME"]))):
        os.environ["PREFECT_API_URL"] = url


def start_server() -> None:
    """Start Prefect's temporary server, unless another is used, and let Ctrl-C pass it by: it ends with this process.

    A terminal sends that signal to all processes, and a run that ends reports for minutes to a server that is gone.
    """
    from prefect.server.api.server import SubprocessASGIServer
    from prefect.settings import PREFECT_API_URL

    if PREFECT_API_URL.value():
        return
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # which the server inherits
    try:
        SubprocessASGIServer().start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def server_file(home: Path) -> Path:
    """Where `make ui` leaves its server's address."""
    return home / "lotlip_server.json"


def running_server(home: Path) -> str | None:
    """The API address of the project's own server, if it answers."""
    try:
        url = str(json.loads(server_file(home).read_text())["api_url"])
    except (OSError, ValueError, KeyError):
        return None
    return url if answers(f"{url}/health") else None


def answers(url: str, timeout_s: float = 5.0) -> bool:
    """True when `url` answers with success."""
    try:
        with urllib.request.urlopen(url, timeout=timeout_s):
            return True
    except (OSError, ValueError):
        return False
