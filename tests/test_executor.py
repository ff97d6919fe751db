"""The same tasks here, on processes and on a real Ray cluster of this machine; workers that die are replaced."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lotlip.errors import DataError, ExecutorError
from lotlip.executor import run_tasks
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


def test_no_task_opens_no_worker(tmp_path: Path) -> None:
    assert list(run_tasks([], OpenWorker(tmp_path), settings("local"))) == []


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
