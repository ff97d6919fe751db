"""MLflow's and Prefect's pages on loopback (`make ui`): prints both addresses; Ctrl-C stops both."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from flows.environment import answers, server_file
from lotlip import tracking
from lotlip.errors import LotlipError
from lotlip.params import load_params
from lotlip.records import write_json

HOST = "127.0.0.1"
MLFLOW_PORT = 5000
PREFECT_PORT = 4200
START_TIMEOUT_S = 180.0
STOP_TIMEOUT_S = 15.0


@dataclass
class Server:
    """A server process, the leader of its own group."""

    name: str
    url: str
    health: str
    process: "subprocess.Popen[bytes]"
    log: Path


def main() -> int:
    """Start both, wait until they answer, and hold until Ctrl-C, a termination signal, or the end of one."""
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job starts with it ignored
    try:
        with servers(Path()) as running:
            for server in running:
                _wait_until_up(server)
                print(f"{server.name:8} {server.url}{_first_page(server)}", flush=True)
            print("Ctrl-C stops both.", flush=True)
            return _hold(running)
    except KeyboardInterrupt:
        print("stopped.", flush=True)
        return 0
    except LotlipError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


@contextmanager
def servers(root: Path) -> Iterator[list[Server]]:
    """Both servers, started; whatever happens, they and their children are stopped at the end."""
    running: list[Server] = []
    try:
        running.append(_start_mlflow(root))
        running.append(_start_prefect(root))
        yield running
    finally:
        server_file(_prefect_home()).unlink(missing_ok=True)
        for server in running:
            _signal(server, signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for server in running:
            _stop(server, deadline)


def free_port(name: str, wanted: int) -> int:
    """`wanted` if nothing listens there, else a free port, and says so."""
    for port in (wanted, 0):
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            found = int(probe.getsockname()[1])
            if port == 0:
                print(f"port {wanted} is taken: {name} gets {found}", flush=True)
            return found
    raise LotlipError(f"no free port on {HOST} for {name}.")


def _start_mlflow(root: Path) -> Server:
    print("starting MLflow and Prefect (the first time they make their databases) ...", flush=True)
    port = free_port("MLflow", MLFLOW_PORT)
    artifacts = (root.resolve() / "mlruns").as_uri()
    environment = {
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_TRACKING_URI": "",
    }
    prepare = [sys.executable, "-m", "lotlip.tracking", "prepare"]
    subprocess.run(prepare, cwd=root, check=True, env=os.environ | environment)
    command = ["mlflow", "server", "--host", HOST, "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", tracking.default_uri(root), "--default-artifact-root", artifacts]
    url = f"http://{HOST}:{port}"
    return _start("MLflow", url, f"{url}/health", command, root, environment)


def _start_prefect(root: Path) -> Server:
    port = free_port("Prefect", PREFECT_PORT)
    url = f"http://{HOST}:{port}"
    command = ["prefect", "server", "start", "--host", HOST, "--port", str(port)]
    environment = {"PREFECT_API_URL": f"{url}/api", "PREFECT_UI_API_URL": f"{url}/api"}
    server = _start("Prefect", url, f"{url}/api/health", command, root, environment)
    write_json(server_file(_prefect_home()), {"api_url": f"{url}/api"})
    return server


def _start(name: str, url: str, health: str, command: Sequence[str], root: Path, environment: dict[str, str]) -> Server:
    """Start a module's command with this Python; its output goes to `.work/ui/`."""
    log = root / ".work" / "ui" / f"{name.lower()}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            cwd=root,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Server(name, url, health, process, log)


def _wait_until_up(server: Server) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not answers(server.health):
        if server.process.poll() is not None or time.monotonic() > deadline:
            raise LotlipError(f"{server.name} did not start; its last words are in {server.log}.")
        time.sleep(0.5)


def _first_page(server: Server) -> str:
    """MLflow's page of methods side by side, once `lotlip track` has logged some; else the start page."""
    if server.name != "MLflow":
        return ""
    with suppress(LotlipError, OSError, ValueError, KeyError):
        name = quote(load_params().tracking.experiment)
        request = f"{server.url}/api/2.0/mlflow/experiments/get-by-name?experiment_name={name}"
        with urllib.request.urlopen(request, timeout=5) as answer:
            return tracking.methods_page(json.load(answer)["experiment"]["experiment_id"])
    return ""


def _hold(running: list[Server]) -> int:
    while True:
        for server in running:
            if server.process.poll() is not None:
                print(f"{server.name} ended by itself; its last words are in {server.log}.", file=sys.stderr)
                return 1
        time.sleep(1)


def _stop(server: Server, deadline: float) -> None:
    with suppress(subprocess.TimeoutExpired):
        server.process.wait(max(deadline - time.monotonic(), 0.1))
    _signal(server, signal.SIGKILL)  # children that outlived their leader
    server.process.wait()


def _signal(server: Server, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(server.process.pid, number)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _prefect_home() -> Path:
    return Path(os.environ["PREFECT_HOME"])


if __name__ == "__main__":
    sys.exit(main())
