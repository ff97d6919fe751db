"""The same tasks here, on processes and on a real Ray cluster of this machine; workers that die are replaced."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lotlip.errors import DataError, ExecutorError, ModelError
from lotlip.executor import _shares, run_tasks
from lotlip.params import Executor
from tests.cluster import ray_cluster


class OpenWorker:
    """Squares numbers; dies once at the task `dies_at` (always, if `for_good`), and notes every opening in `folder`."""

    def __init__(self, folder: Path, dies_at: int | None = None, for_good: bool = False) -> None:
        self.folder, self.dies_at, self.for_good = folder, dies_at, for_good

    def __call__(self) -> Callable[[int], int]:
        (self.folder / f"opened-{os.getpid()}-{time.time_ns()}").touch()

        def work(task: int) -> int:
            mark = self.folder / "died"
            if task == self.dies_at and (self.for_good or not mark.exists()):
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            if task < 0:
                raise DataError(f"{task} is negative")
            return task * task

        return work


def settings(kind: str, workers: int = 2, retries: int = 1, num_gpus: float = 0.0) -> Executor:
    return Executor(kind=kind, workers=workers, num_gpus=num_gpus, address=None, retries=retries)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    with ray_cluster():
        yield


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.server)])
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "ray":
        request.getfixturevalue("cluster")
    return str(request.param)


def test_every_task_once_and_a_worker_is_opened_once(kind: str, tmp_path: Path) -> None:
    results = list(run_tasks(range(7), OpenWorker(tmp_path), settings(kind)))
    assert sorted(results) == [(i, i * i) for i in range(7)]
    assert len(list(tmp_path.glob("opened-*"))) <= 2


def test_one_local_worker_works_here(tmp_path: Path) -> None:
    assert list(run_tasks([3, 4], OpenWorker(tmp_path), settings("local", 1))) == [(0, 9), (1, 16)]
    assert [path.name.split("-")[1] for path in tmp_path.glob("opened-*")] == [str(os.getpid())]


def test_nothing_to_do(tmp_path: Path) -> None:
    assert list(run_tasks([], OpenWorker(tmp_path), settings("local"))) == []


def open_nothing() -> Callable[[int], int]:
    raise ModelError("the checkpoint is missing")


def test_what_opening_a_worker_raises_is_no_death(kind: str) -> None:
    with pytest.raises(ModelError, match="the checkpoint is missing"):
        list(run_tasks([1, 2], open_nothing, settings(kind)))


def test_an_error_does_not_wait_for_the_other_tasks(tmp_path: Path) -> None:
    started = time.monotonic()
    with pytest.raises(DataError):
        list(run_tasks([600, -1], OpenSleeper(), settings("local")))
    assert time.monotonic() - started < 300


class OpenSleeper:
    def __call__(self) -> Callable[[int], None]:
        def work(task: int) -> None:
            if task < 0:
                raise DataError(f"{task} is negative")
            time.sleep(task)

        return work


def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom tests.test_executor import *\n"
        "if __name__ == '__main__':\n    list(run_tasks([600] * 4, OpenNoting(Path(sys.argv[1])), settings('local')))\n"
    )
    (tmp_path / "parent.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    parent = subprocess.Popen([sys.executable, str(tmp_path / "parent.py"), str(tmp_path)], env=environment)
    deadline = time.monotonic() + 60
    while len(workers := list(tmp_path.glob("worker-*"))) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    while any(Path(f"/proc/{path.name.split('-')[1]}").exists() for path in workers):
        assert time.monotonic() < deadline, "a worker outlives its parent"
        time.sleep(0.05)


class OpenNoting:
    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self) -> Callable[[int], None]:
        (self.folder / f"worker-{os.getpid()}").touch()
        return time.sleep


@pytest.mark.server
def test_a_cluster_with_room_for_fewer_workers_than_asked_for(cluster: None, tmp_path: Path) -> None:
    results = list(run_tasks(range(5), OpenWorker(tmp_path), settings("ray", workers=4)))
    assert sorted(results) == [(i, i * i) for i in range(5)]


def test_a_killed_worker_is_replaced(kind: str, tmp_path: Path) -> None:
    results = list(run_tasks(range(5), OpenWorker(tmp_path, dies_at=2), settings(kind)))
    assert sorted(results) == [(i, i * i) for i in range(5)]
    assert (tmp_path / "died").exists()


def test_workers_that_always_die_are_given_up(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ExecutorError, match="Workers died 2 times"):
        list(run_tasks(range(3), OpenWorker(tmp_path, dies_at=1, for_good=True), settings(kind)))


def test_what_a_task_raises_arrives(kind: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="-1 is negative"):
        list(run_tasks([1, -1], OpenWorker(tmp_path), settings(kind)))


def test_gpus_are_shared_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    seen = [value for _, value in run_tasks([0, 1, 2, 3], SeenGpus(), settings("local", num_gpus=1.0))]
    assert set(seen) <= {"4", "5"}
    assert _shares(settings("local", workers=4, num_gpus=0.5)) == ["4", "4", "5", "5"]
    assert _shares(settings("local", workers=2, num_gpus=0.7)) == ["4", "5"]
    assert _shares(settings("local", workers=1, num_gpus=2.0)) == ["4,5"]
    with pytest.raises(ExecutorError, match="3 workers x 1 GPUs need 3, CUDA_VISIBLE_DEVICES lists 2"):
        list(run_tasks([0, 1, 2], SeenGpus(), settings("local", workers=3, num_gpus=1.0)))


class SeenGpus:
    def __call__(self) -> Callable[[int], str]:
        return lambda task: os.environ["CUDA_VISIBLE_DEVICES"]


@pytest.mark.server
def test_without_a_cluster_the_message_says_how_to_start_one(tmp_path: Path) -> None:
    import ray

    if ray.is_initialized():
        ray.shutdown()
    unreachable = settings("ray").model_copy(update={"address": "127.0.0.1:1"})
    with pytest.raises(ExecutorError, match="ray start --head"):
        list(run_tasks([1], OpenWorker(tmp_path), unreachable))
