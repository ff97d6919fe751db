"""The processes that train together: who this one is, and what it says to the others.

torchrun starts them and names each in the environment; without it there is one, and nothing is exchanged.
"""

import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.multiprocessing import _prctl_pr_set_pdeathsig  # type: ignore[attr-defined]

from lotlip.errors import ExecutorError, ParamsError
from lotlip.model.devices import open_device

SHUTDOWN_S = 600  # to finish a step and write a checkpoint, after which processes are killed
TIMEOUT = timedelta(hours=2)  # of one exchange: while one process computes image features, the others wait


@dataclass(frozen=True)
class Ranks:
    """This process's `rank` (from 0) among `size`, its device, and the group of all (None: it is alone)."""

    rank: int
    size: int
    device: torch.device
    group: dist.ProcessGroup | None = None

    @property
    def is_first(self) -> bool:
        """Whether this process writes files and speaks for all."""
        return self.rank == 0

    def wait(self) -> None:
        """Return when all processes are here."""
        if self.group is not None:
            dist.barrier(self.group)

    def sum(self, values: Sequence[float]) -> list[float]:
        """Each value summed over all processes, in float64."""
        if self.group is None:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(total, group=self.group)
        summed: list[float] = total.tolist()
        return summed

    def mean_(self, values: Tensor) -> Tensor:
        """Replace a tensor by its mean over all processes."""
        if self.group is not None:
            dist.all_reduce(values, group=self.group)
            values /= self.size
        return values

    def of_first(self, value: Any) -> Any:
        """The first process's value, for all of them."""
        if self.group is None:
            return value
        box = [value if self.is_first else None]
        dist.broadcast_object_list(box, src=0, group=self.group)
        return box[0]


def is_launched() -> bool:
    """Whether torchrun started this process."""
    return "WORLD_SIZE" in os.environ and "LOCAL_RANK" in os.environ


def is_first_process() -> bool:
    """Whether this process is alone, or the first of those that torchrun has started on all machines."""
    return os.environ.get("RANK", "0") == "0" or not is_launched()


@contextmanager
def open_ranks(device: str, processes: int = 1) -> Iterator[Ranks]:
    """Join the processes that torchrun has started, if it has; a group that was joined before is used and left.

    Args:
        device: `auto`, `cpu`, `cuda` or `cuda:N`; of several processes on GPUs, each takes the one of its local rank.
        processes: how many the settings ask for; launched by hand, over several machines, there may be others.

    Raises:
        ParamsError: the device is not there, or there are more processes than GPUs.
        ExecutorError: the settings ask for several processes, and this one was started alone; or another one ended.
    """
    size = int(os.environ["WORLD_SIZE"]) if is_launched() else 1
    if size == 1:
        if processes > 1:
            raise ExecutorError(
                f"train.compute.processes is {processes} and this process was started alone: run the stage (python -m "
                f"stages.train NAME), which starts them, or torchrun --nproc-per-node {processes} -m stages.train NAME."
            )
        yield Ranks(0, 1, open_device(device))
        return
    _prctl_pr_set_pdeathsig(signal.SIGTERM)  # a rank that outlived its launcher would hold the run's lock
    own = _own_device(device, int(os.environ["LOCAL_RANK"]))
    was_joined = dist.is_initialized()
    if own.type == "cuda":
        torch.cuda.set_device(own)
    if not was_joined:
        on_gpu = own.type == "cuda"
        dist.init_process_group("nccl" if on_gpu else "gloo", timeout=TIMEOUT, device_id=own if on_gpu else None)
    try:
        yield Ranks(dist.get_rank(), size, own, dist.group.WORLD)
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo" in str(error):
            raise ExecutorError("Another process of this training has ended; its own message says why.") from error
        raise
    if not was_joined:  # not after an error: others may be in an exchange, and leaving would wait for them
        dist.destroy_process_group()


def launch(module: str, arguments: Sequence[str], processes: int) -> None:
    """Run `python -m module arguments` in so many processes on this machine, and wait for them.

    SIGTERM and SIGINT reach them; each prints what it has to say.

    Raises:
        SystemExit: one of them failed; the others were stopped.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    # Each process would else start a thread for every core.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // processes)))
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=f"lotlip-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=0,
        shutdown_timeout=SHUTDOWN_S,
    )
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # it would tell what processes tell
    try:
        elastic_launch(config, sys.executable)("-m", module, *arguments)
    except SignalException as stopped:
        sys.exit(128 + stopped.sigval)
    except ChildFailedError as failed:
        _, failure = failed.get_first_failure()
        if failure.exitcode < 0:
            name = signal.Signals(-failure.exitcode).name
            hint = ", perhaps for want of memory" if name == "SIGKILL" else ""
            print(
                f"error: process {failure.local_rank} died ({name}{hint}): the same command goes on from the last "
                "checkpoint",
                file=sys.stderr,
            )
        sys.exit(failure.exitcode if failure.exitcode > 0 else 128 - failure.exitcode)


def _own_device(name: str, local_rank: int) -> torch.device:
    device = open_device(name)
    if device.type != "cuda":
        return device
    if ":" in name:
        raise ParamsError(
            f"train.device is {name!r} for several processes: give cuda, and each takes a GPU of its own."
        )
    if local_rank >= torch.cuda.device_count():
        raise ParamsError(
            f"Process {local_rank + 1} of this machine finds {torch.cuda.device_count()} GPUs: lower "
            "train.compute.processes, or set train.device to cpu."
        )
    return torch.device("cuda", local_rank)
