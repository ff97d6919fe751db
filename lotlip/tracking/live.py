"""The training's side of live tracking: start a follower process, and never wait for it.

Imports nothing heavy: it runs inside the training stage.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lotlip.params import Params
from lotlip.tracking.redact import flat_params, redacted
from lotlip.tracking.state import git_tags, training_key
from lotlip.tracking.store import workspace_id

SWITCH = "LOTLIP_LIVE_TRACKING"


def events_path(method: str, root: Path = Path()) -> Path:
    """Where a training appends its events: `{"step", "time_s" since 1970, "metrics"}` as JSON a line."""
    return root / ".work" / "events" / "train" / f"{method}.jsonl"


@contextmanager
def follow_training(method: str, params: Params, root: Path = Path(), finish_timeout_s: float = 5.0) -> Iterator[None]:
    """Copy the events of the training in this block to MLflow while they come.

    A process of its own reads the file, at low priority; when the block ends it gets `finish_timeout_s`
    seconds to send the rest, and `lotlip track` sends what is then missing. Nothing that happens to it
    reaches the training. A file left by an earlier training is not read; this one's must be a new file in
    its place, as `EventLog` makes it. LOTLIP_LIVE_TRACKING=0 switches all this off; ranks other than 0 of a
    distributed training follow nothing.
    """
    if os.environ.get(SWITCH) == "0" or os.environ.get("RANK", "0") != "0":
        yield
        return
    events = events_path(method, root)
    events.parent.mkdir(parents=True, exist_ok=True)
    follower = _start(follower_config(method, params, root), events.with_suffix(".follow.log"))
    try:
        yield
    except BaseException:
        _end(follower, "FAILED", finish_timeout_s)
        raise
    _end(follower, "FINISHED", finish_timeout_s)


def follower_config(method: str, params: Params, root: Path) -> dict[str, Any]:
    """All that the follower must know, as JSON-able values without secrets."""
    stage = {"train": params.train.model_dump(mode="json")}
    return {
        "root": str(root.resolve()),
        "method": method,
        "stale_inode": _inode(events_path(method, root)),
        "experiment": params.tracking.experiment,
        "key": training_key(root, method, params, workspace_id(root)),
        "params": flat_params(redacted(stage | {"method": params.methods[method].model_dump(mode="json")})),
        "tags": git_tags(root),
    }


def _start(config: dict[str, Any], log: Path) -> "subprocess.Popen[bytes] | None":
    """Start the follower; a session of its own, so that Ctrl-C reaches it only through us."""
    try:
        with log.open("wb") as output:
            follower = subprocess.Popen(
                [sys.executable, "-m", "lotlip.tracking", "follow"],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        _tell(follower, json.dumps(config))
    except OSError as error:
        print(f"tracking: no live curve ({error}); `lotlip track` logs it later", flush=True)
        return None
    return follower


def _end(follower: "subprocess.Popen[bytes] | None", status: str, timeout_s: float) -> None:
    if follower is None:
        return
    _tell(follower, status)
    with suppress(OSError):
        if follower.stdin:
            follower.stdin.close()
    try:
        follower.wait(timeout_s)
    except subprocess.TimeoutExpired:
        follower.kill()
        follower.wait()
    if follower.returncode != 0:
        print("tracking: the live curve is incomplete; `lotlip track` completes it", flush=True)


def _inode(path: Path) -> int | None:
    return path.stat().st_ino if path.exists() else None


def _tell(follower: "subprocess.Popen[bytes]", line: str) -> None:
    with suppress(OSError):
        if follower.stdin:
            follower.stdin.write(line.encode() + b"\n")
            follower.stdin.flush()
