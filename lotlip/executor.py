"""The same work over many tasks in this process, on local processes, or on a Ray cluster.

A worker is opened once in each process (it loads the model) and then takes task after task. A task whose worker died
is done again by another one, so tasks must be safe to repeat.
"""

import math
import multiprocessing
import os
import socket
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import wait
from typing import Any, TypeVar

from lotlip.errors import ExecutorError
from lotlip.params import Executor

Task = TypeVar("Task")
Result = TypeVar("Result")
Work = Callable[[Task], Result]


def run_tasks(
    tasks: Sequence[Task], open_worker: Callable[[], Work[Task, Result]], settings: Executor
) -> Iterator[tuple[int, Result]]:
    """Yield (index of the task, its result) as tasks end, in any order, each exactly once.

    Args:
        tasks: what to do; picklable, unless one local worker does all.
        open_worker: called once in each worker's process; what it returns is called with each task.
        settings: kind and number of workers, and how many workers may die in a row (Ray: at one task).

    Raises:
        ExecutorError: there is no Ray cluster, or workers died more than `retries` times.
        Exception: what a task, or opening its worker, raised; tasks that are under way are broken off.
    """
    if settings.kind == "ray":
        return _on_ray(tasks, open_worker, settings)
    if min(settings.workers, len(tasks)) <= 1:
        return _here(tasks, open_worker)
    return _on_processes(tasks, open_worker, settings)


def _here(tasks: Sequence[Task], open_worker: Callable[[], Work[Task, Result]]) -> Iterator[tuple[int, Result]]:
    work = open_worker()
    for i, task in enumerate(tasks):
        yield i, work(task)


def _on_processes(
    tasks: Sequence[Task], open_worker: Callable[[], Work[Task, Result]], settings: Executor
) -> Iterator[tuple[int, Result]]:
    gpus = _shares(settings)
    spawn = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA or torch's threads
    started = spawn.Value("i", 0)
    left = dict(enumerate(tasks))
    deaths = 0
    while left:
        pool = ProcessPoolExecutor(
            min(settings.workers, len(left)), spawn, _start_process, (open_worker, started, gpus)
        )
        try:
            futures = {pool.submit(_run_in_process, task): i for i, task in left.items()}
            for future in as_completed(futures):
                result = future.result()
                del left[futures[future]]
                deaths = 0
                yield futures[future], result
        except BrokenProcessPool:
            deaths += 1
            if deaths > settings.retries:
                raise ExecutorError(_worn_out(f"{len(left)} tasks are left", deaths)) from None
            print(f"a worker process died: {len(left)} tasks go on in new ones", flush=True)
        finally:
            for process in (pool._processes or {}).values():  # what it is at can be done again; waiting may take hours
                process.terminate()
            pool.shutdown(wait=True, cancel_futures=True)


_open: Any = None  # of this worker process: how its worker is opened, and the worker once it is
_work: Any = None


def _start_process(open_worker: Callable[[], Any], started: Any, gpus: list[str]) -> None:
    global _open
    if gpus:
        with started.get_lock():
            os.environ["CUDA_VISIBLE_DEVICES"] = gpus[started.value % len(gpus)]
            started.value += 1
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _open = open_worker


def _end_with_parent() -> None:
    """A worker whose parent was killed would go on, and be in the way of the next run."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def _run_in_process(task: Any) -> Any:
    global _work
    if _work is None:  # not when the process starts: what goes wrong here is this task's error, and no death
        _work = _open()
    return _work(task)


def _shares(settings: Executor) -> list[str]:
    """CUDA_VISIBLE_DEVICES of each worker; empty where all see all."""
    if not settings.num_gpus:
        return []
    whole, on_one = max(1, math.ceil(settings.num_gpus)), max(1, int(1 / settings.num_gpus))
    needed = settings.workers * whole if on_one == 1 else math.ceil(settings.workers / on_one)
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    seen = [str(i) for i in range(needed)] if listed is None else [gpu for gpu in listed.split(",") if gpu]
    if needed > len(seen):
        raise ExecutorError(
            f"{settings.workers} workers x {settings.num_gpus:g} GPUs need {needed}, CUDA_VISIBLE_DEVICES lists "
            f"{len(seen)}: set executor.workers or executor.num_gpus."
        )
    return [",".join(seen[i // on_one * whole :][:whole]) for i in range(settings.workers)]


class _RayWorker:
    def __init__(self, open_worker: Callable[[], Any]) -> None:
        self._open = open_worker
        self._work: Any = None

    def is_there(self) -> None:
        """Answers once the cluster has had room to start it."""

    def run(self, task: Any) -> Any:
        if self._work is None:
            self._work = self._open()
        return self._work(task)


def _on_ray(
    tasks: Sequence[Task], open_worker: Callable[[], Work[Task, Result]], settings: Executor
) -> Iterator[tuple[int, Result]]:
    import ray

    _connect(settings.address)
    died = (
        ray.exceptions.RayActorError,
        ray.exceptions.OutOfMemoryError,
        ray.exceptions.NodeDiedError,
        ray.exceptions.WorkerCrashedError,
    )
    opened: Any = ray.remote(num_gpus=settings.num_gpus, num_cpus=1)(_RayWorker)
    waiting = deque(range(len(tasks)))
    running: dict[Any, tuple[int | None, Any]] = {}  # what is waited for: a task (or None: a start), and its worker
    deaths: Counter[int] = Counter()

    def start() -> None:
        worker = opened.remote(open_worker)
        running[worker.is_there.remote()] = (None, worker)

    for _ in range(min(settings.workers, len(tasks))):
        start()
    try:
        while waiting or any(i is not None for i, _ in running.values()):
            (done, *_), _ = ray.wait(list(running), num_returns=1)
            i, worker = running.pop(done)
            try:
                result = ray.get(done)
            except died as error:
                deaths[-1 if i is None else i] += 1
                if max(deaths.values()) > settings.retries:
                    raise ExecutorError(_worn_out(_first_line(error), max(deaths.values()))) from None
                print(f"a Ray worker died: its task goes on in a new one ({_first_line(error)})", flush=True)
                if i is not None:
                    waiting.appendleft(i)
                start()
                continue
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            if waiting:
                following = waiting.popleft()
                running[worker.run.remote(tasks[following])] = (following, worker)
            else:
                ray.kill(worker)  # makes room, should the cluster have less than all workers need
            if i is not None:
                yield i, result
    finally:
        for _, worker in running.values():
            ray.kill(worker)


def _connect(address: str | None) -> None:
    import ray

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        if address is not None:
            _knock(address)  # Ray itself waits for minutes
        ray.init(address=address or "auto", log_to_driver=True, logging_level="warning")
    except (OSError, ValueError) as error:
        raise ExecutorError(
            f"No Ray cluster at {address or 'this machine'} ({_first_line(error)}): start one (`ray start --head`), "
            "give its address as executor.address, or set `executor.kind: local`."
        ) from None


def _knock(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    socket.create_connection((host, int(port)), timeout=10).close()


def _worn_out(what: str, deaths: int) -> str:
    return (
        f"Workers died {deaths} times, last with this to do: {what}. Usually memory ran out (`dmesg` says so): set "
        "fewer executor.workers or a smaller batch_size. What is finished is kept; running again goes on from there."
    )


def _first_line(error: Exception) -> str:
    return next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
