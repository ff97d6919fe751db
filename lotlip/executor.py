"""The same work over many tasks in this process, on local processes, or on a Ray cluster.

A worker is opened once in each process (it loads the model) and then takes task after task. A task whose worker died
is done again by another one, so tasks must be safe to repeat.
"""

import math
import multiprocessing
import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
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
        settings: kind and number of workers, and how often a task may lose its worker.

    Raises:
        ExecutorError: there is no Ray cluster, or a task's workers died more than `retries` times.
        Exception: what a task raised; the other tasks are not waited for.
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
        pool = ProcessPoolExecutor(min(settings.workers, len(left)), spawn, _open_process, (open_worker, started, gpus))
        try:
            futures = {pool.submit(_run_in_process, task): i for i, task in left.items()}
            for future in as_completed(futures):
                result = future.result()
                del left[futures[future]]
                yield futures[future], result
        except BrokenProcessPool:
            deaths += 1
            if deaths > settings.retries:
                raise ExecutorError(_worn_out(f"{len(left)} tasks are left", deaths)) from None
            print(f"a worker process died: {len(left)} tasks go on in new ones", flush=True)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_work: Any = None  # of this worker process


def _open_process(open_worker: Callable[[], Any], started: Any, gpus: list[str]) -> None:
    global _work
    if gpus:
        with started.get_lock():
            os.environ["CUDA_VISIBLE_DEVICES"] = gpus[started.value % len(gpus)]
            started.value += 1
    _work = open_worker()


def _shares(settings: Executor) -> list[str]:
    """CUDA_VISIBLE_DEVICES of each worker; empty where all see all."""
    if not settings.num_gpus:
        return []
    listed = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    needed = math.ceil(settings.workers * settings.num_gpus)
    seen = listed.split(",") if listed else [str(i) for i in range(needed)]
    if needed > len(seen):
        raise ExecutorError(
            f"{settings.workers} workers x {settings.num_gpus:g} GPUs need {needed}, CUDA_VISIBLE_DEVICES lists "
            f"{len(seen)}: set executor.workers or executor.num_gpus."
        )
    width = max(1, int(settings.num_gpus))
    firsts = [int(i * settings.num_gpus) for i in range(settings.workers)]
    return [",".join(seen[first : first + width]) for first in firsts]


def _run_in_process(task: Any) -> Any:
    return _work(task)


class _RayWorker:
    def __init__(self, open_worker: Callable[[], Any]) -> None:
        self._work = open_worker()

    def run(self, task: Any) -> Any:
        return self._work(task)


def _on_ray(
    tasks: Sequence[Task], open_worker: Callable[[], Work[Task, Result]], settings: Executor
) -> Iterator[tuple[int, Result]]:
    import ray

    _connect(settings.address)
    # A worker starts where its GPUs (or a CPU) are free; one task at a time.
    opened: Any = ray.remote(num_gpus=settings.num_gpus, num_cpus=1)(_RayWorker)
    waiting = deque(range(len(tasks)))
    idle = [opened.remote(open_worker) for _ in range(min(settings.workers, len(tasks)))]
    running: dict[Any, tuple[int, Any]] = {}
    deaths: Counter[int] = Counter()
    while waiting or running:
        while waiting and idle:
            i, worker = waiting.popleft(), idle.pop()
            running[worker.run.remote(tasks[i])] = (i, worker)
        (done, *_), _ = ray.wait(list(running), num_returns=1)
        i, worker = running.pop(done)
        try:
            result = ray.get(done)
        except ray.exceptions.RayActorError as error:
            deaths[i] += 1
            if deaths[i] > settings.retries:
                raise ExecutorError(_worn_out(f"task {i}: {_first_line(error)}", deaths[i])) from None
            print(f"a Ray worker died: its task goes on in a new one ({_first_line(error)})", flush=True)
            waiting.appendleft(i)
            idle.append(opened.remote(open_worker))
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        else:
            idle.append(worker)
            yield i, result


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
