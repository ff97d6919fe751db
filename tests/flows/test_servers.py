"""`make ui` and the served schedule, as processes."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import psutil
import pytest

pytestmark = pytest.mark.server


class Process:
    """A command whose lines are collected while it runs."""

    def __init__(self, *command: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env=os.environ | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.lines: list[str] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(iter(self.process.stdout.readline, ""))

    def wait_for(self, pattern: str, timeout_s: float = 240) -> str:
        """The first group of the first line that matches."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self.process.poll() is None:
            for line in list(self.lines):
                if found := re.search(pattern, line):
                    return found.group(1)
            time.sleep(0.2)
        raise AssertionError(f"no line matches {pattern!r}: {self.lines}")

    def stop(self, number: int) -> int:
        """As a terminal does it, which sends Ctrl-C to all processes of the group, and others to one."""
        if number == signal.SIGINT:
            os.killpg(self.process.pid, number)
        else:
            self.process.send_signal(number)
        return self.process.wait(60)


def test_ui_starts_both_servers_and_stops_them(project: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        try:
            taken.bind(("127.0.0.1", 5000))
            taken.listen()
        except OSError:
            pass  # somebody else has the port: as good
        ui = Process("flows.ui", PREFECT_HOME=str(tmp_path / ".prefect"))
        try:
            mlflow = ui.wait_for(r"MLflow +(http://127\.0\.0\.1:\d+)")
            prefect = ui.wait_for(r"Prefect +(http://127\.0\.0\.1:\d+)")
            assert any("port 5000 is taken: MLflow gets" in line for line in ui.lines)
            assert b"MLflow" in urllib.request.urlopen(mlflow, timeout=20).read()
            assert b"Prefect" in urllib.request.urlopen(prefect, timeout=20).read()
            found = subprocess.run(
                [sys.executable, "-c", "import os, flows; print(os.environ['PREFECT_API_URL'])"],
                env=os.environ | {"PREFECT_HOME": str(tmp_path / ".prefect")},
                capture_output=True,
                text=True,
                check=False,
            )
            assert found.stdout.strip() == f"{prefect}/api", found.stderr
            children = psutil.Process(ui.process.pid).children(recursive=True)
            assert len(children) >= 2
        finally:
            status = ui.stop(signal.SIGINT)
    assert status == 0
    assert [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.usefixtures("prefect_server")
def test_the_schedule_of_params_is_served(project: Path) -> None:
    from prefect.settings import PREFECT_API_URL

    deployment = Process("flows.deployments", PREFECT_API_URL=str(PREFECT_API_URL.value()))
    try:
        where = deployment.wait_for(r"serving pipeline/\S+ at '0 3 \* \* \*' \(UTC\) on (\S+)")
        assert where == str(PREFECT_API_URL.value())
        schedule = wait_for_schedule(f"pipeline/{project.name}")
    finally:
        deployment.stop(signal.SIGINT)
    assert (schedule.cron, schedule.timezone) == ("0 3 * * *", "UTC")


def wait_for_schedule(name: str) -> Any:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    deadline = time.monotonic() + 120
    with get_client(sync_client=True) as client:
        while True:
            try:
                return client.read_deployment_by_name(name).schedules[0].schedule
            except ObjectNotFound:
                assert time.monotonic() < deadline
                time.sleep(0.5)
