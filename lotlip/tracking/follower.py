"""The follower: a process that copies a training's events into a live MLflow run.

It ends when the training says so, or when the training's end of the pipe closes because it was killed.
"""

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from lotlip.tracking.errors import TrackingError
from lotlip.tracking.live import events_path
from lotlip.tracking.runs import KEY_TAG, PARENT_TAG, STAGE_TAG, Run, create_run, curve_metric, find_runs
from lotlip.tracking.store import connect, mlflow_errors, server_answers, tracking_uri
from lotlip.tracking.view import KIND_TAG

POLL_S = 1.0
RETRY_S = 5.0
LAST_EFFORT_S = 30.0  # after the training's end, when nobody is left to stop us


class Tail:
    """The complete lines that a growing file has gained since the last look.

    The file with `stale_inode` belongs to an earlier training; another in its place is read from the start.
    """

    def __init__(self, path: Path, stale_inode: int | None = None) -> None:
        self.path = path
        self.stale_inode = stale_inode
        self.inode: int | None = None
        self.offset = 0

    def rewind(self) -> None:
        """Read from the start again."""
        self.offset = 0

    def events(self) -> list[dict[str, Any]]:
        """New events; a line that is still being written waits for the next look."""
        try:
            with self.path.open("rb") as file:
                inode = os.fstat(file.fileno()).st_ino
                if inode == self.stale_inode:
                    return []
                if inode != self.inode:
                    self.inode, self.offset = inode, 0
                file.seek(self.offset)
                data = file.read()
        except FileNotFoundError:
            return []
        complete = data[: data.rfind(b"\n") + 1]
        self.offset += len(complete)
        return [json.loads(line) for line in complete.splitlines() if line.strip()]


class Ending:
    """Listens on a pipe for the training's last word."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self.status = "KILLED"
        self.come = threading.Event()
        threading.Thread(target=self._listen, args=(pipe,), daemon=True).start()

    def _listen(self, pipe: IO[bytes]) -> None:
        self.status = pipe.readline().decode().strip() or self.status
        self.come.set()
        time.sleep(LAST_EFFORT_S)
        os._exit(1)


def follow(pipe: IO[bytes]) -> int:
    """Read the configuration's line from `pipe`, then follow; the exit status is 0 when all was sent."""
    os.nice(10)
    config = json.loads(pipe.readline())
    ending = Ending(pipe)
    tail = Tail(events_path(config["method"], Path(config["root"])), config["stale_inode"])
    while True:
        try:
            _wait_for_server(tracking_uri(Path(config["root"])), ending)
            _follow_until_end(config, tail, ending)
            return 0
        except TrackingError as error:
            print(error, file=sys.stderr, flush=True)
            if ending.come.wait(RETRY_S):
                return 1
        tail.rewind()


def _follow_until_end(config: dict[str, Any], tail: Tail, ending: Ending) -> None:
    """Follow until the end; after a TrackingError it may be called again from the file's start."""
    store = connect(Path(config["root"]), config["experiment"])
    with mlflow_errors(store.uri):
        run = _open(store, config)
        known = run.history(run.metric_names)
        while True:
            last = ending.come.is_set()
            _send(run, tail.events(), known)
            if last:
                break
            ending.come.wait(POLL_S)
        store.client.set_terminated(run.id, ending.status)


def _open(store: Any, config: dict[str, Any]) -> Run:
    """The live run of an interrupted training with the same key goes on; otherwise a new one starts."""
    tags = {STAGE_TAG: f"train@{config['method']}", KEY_TAG: config["key"]}
    for run in find_runs(store, tags):
        if not run.tag(PARENT_TAG) and run.status != "FINISHED":
            store.client.update_run(run.id, status="RUNNING")
            return run
    run = create_run(store, f"{config['method']} (training)", tags | {KIND_TAG: "training"} | config["tags"])
    run.log_params(config["params"])
    return run


def _send(run: Run, events: list[dict[str, Any]], known: dict[tuple[str, int], float]) -> None:
    rows, times_ms = [], {}
    for event in events:
        step = int(event["step"])
        given = {k: value for k, value in event["metrics"].items() if value is not None and k != "step"}
        metrics = {curve_metric(name): float(value) for name, value in given.items()}
        new = {name: value for name, value in metrics.items() if (name, step) not in known}
        known.update({(name, step): value for name, value in new.items()})
        rows.append((step, new))
        times_ms[step] = round(float(event["time_s"]) * 1000)
    run.append_rows(rows, times_ms)


def _wait_for_server(uri: str, ending: Ending) -> None:
    while not server_answers(uri):
        if ending.come.wait(RETRY_S):
            raise TrackingError("the tracking server did not answer during the training.")
