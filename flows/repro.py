"""Run one DVC stage as a process of its own, passing on its lines while they come."""

import os
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from pathlib import Path
from threading import Event
from typing import Literal

from lotlip.errors import LotlipError

TAIL_LINES = 30
STOP_TIMEOUT_S = 20.0
_LEFT_OUT = (  # DVC's advice after every stage, and what it says of each output that an experiment is yet to make
    "To track the changes with git",
    "git add ",
    "To enable auto staging",
    "dvc config core.autostage",
    "Use `dvc push`",
    "WARNING: No file hash info found",
)
Outcome = Literal["ran", "restored", "unchanged"]

_running: "set[subprocess.Popen[str]]" = set()
_is_stopping = Event()
_locks: set[int] = set()  # file descriptors


class StageError(LotlipError):
    """A stage failed; the message ends with the last lines of its log."""


class BusyError(LotlipError):
    """Another run works in this folder."""


def reproduce(stage: str, root: Path, on_line: Callable[[str], object], force: bool = False) -> Outcome:
    """Bring one stage up to date with `dvc repro --single-item`.

    Args:
        stage: its name in dvc.yaml, such as `train@lotlip`.
        root: the DVC project.
        on_line: gets every line of the stage's output.
        force: run it even if nothing changed.

    Returns:
        `ran`, `restored` (DVC had the result of an earlier equal run), or `unchanged`.

    Raises:
        StageError: it failed.
        BusyError: DVC is locked by another run.
    """
    command = [sys.executable, "-m", "dvc", "repro", "--single-item", stage] + ["--force"] * force
    outcome: Outcome = "ran"

    def hear(line: str) -> None:
        nonlocal outcome
        on_line(line)
        outcome = _outcome(stage, line) or outcome

    run_lines(command, root, hear, stage)
    return outcome


def run_lines(
    command: Sequence[str], root: Path, on_line: Callable[[str], object], what: str, environment: Mapping[str, str] = {}
) -> None:
    """Run a command of DVC's, or of this project's, in the folder `root` to its end, passing on its lines.

    Raises:
        StageError: it failed; the message names `what` failed.
        BusyError: DVC is locked by another run.
    """
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    with _process(command, root, environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            text = line.rstrip()
            if not text or text.lstrip().startswith(_LEFT_OUT):
                continue
            on_line(text)
            tail.append(text)
        status = process.wait()
    if status != 0:
        raise _failure(what, status, list(tail))


@contextmanager
def only_run(root: Path) -> Iterator[None]:
    """Hold this folder for one pipeline run; the system lets go when the process ends, however it ends.

    A command that outlives the process, which was killed, still holds it: DVC notes a stage's parameters when it is
    done, and would take those of a later run for those of its own.

    Raises:
        BusyError: another run holds it.
    """
    path = root / ".work" / "pipeline.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            flock(file, LOCK_EX | LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise BusyError(
                f"another pipeline run (process {holder}) works in {root.resolve()}: wait until it ends, with all it "
                "has started, or use another clone."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        _locks.add(file.fileno())
        try:
            yield
        finally:
            _locks.remove(file.fileno())


@contextmanager
def stopping_commands() -> Iterator[None]:
    """If the block is left by an exception, such as Ctrl-C's, interrupt the commands of other threads, and begin none.

    They have groups of their own, and hear of no signal to this process, which is about to end.
    """
    try:
        yield
    except BaseException:
        _is_stopping.set()
        for process in list(_running):
            _signal_group(process, signal.SIGINT)  # on which DVC waits for its stage, and frees what it has locked
        raise


@contextmanager
def _process(command: Sequence[str], root: Path, environment: Mapping[str, str]) -> "Iterator[subprocess.Popen[str]]":
    """A process in its own group, which ends with the block, its children too."""
    process = subprocess.Popen(
        command,
        cwd=root,
        env=os.environ | {"PYTHONUNBUFFERED": "1", "DVC_NO_ANALYTICS": "1", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
        pass_fds=tuple(_locks),
    )
    _running.add(process)
    try:
        if _is_stopping.is_set():
            raise StageError(f"`{' '.join(command)}` was not run: this process is about to end.")
        yield process
    finally:
        _running.discard(process)
        if process.poll() is None:
            _signal_group(process, signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
            _signal_group(process, signal.SIGKILL)
            process.wait()


def _signal_group(process: "subprocess.Popen[str]", number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


def _outcome(stage: str, line: str) -> Outcome | None:
    """What a line of DVC's says about the stage."""
    if line.startswith(f"Stage '{stage}'"):
        if "didn't change" in line:
            return "unchanged"
        if "is cached" in line:
            return "restored"
    return None


def _failure(stage: str, status: int, tail: list[str]) -> LotlipError:
    log = "\n".join(tail)
    if "Unable to acquire lock" in log or "is busy, it is being blocked by" in log:
        return BusyError(f"{stage}: another DVC command works in this folder; run it again when that ends.\n{log}")
    return StageError(f"{stage} failed with exit status {status}. The end of its log:\n{log}")
