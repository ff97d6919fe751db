"""Batches for training, in an order that depends on nothing but seed, epoch and samples, resumed at any batch.

The same batches come for any number of workers and of ranks: a rank takes its part of each global batch, and a batch
that would be incomplete is dropped. torch's DataLoader does the work in its processes; it is handed positions, so
a resumed run decodes nothing that was consumed.

The limit is decoding: a JPEG of 448 pixels and 27 kB, decoded, resized and cropped to 224, takes 3 to 5 ms of a core
(`benchmarks/bench_loader.py`, beside other work), so a core feeds 200 to 330 images a second, whatever hands them on.
"""

import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.multiprocessing import _prctl_pr_set_pdeathsig  # type: ignore[attr-defined]
from torch.utils.data import DataLoader, Dataset

from lotlip.data.loading.order import Draws, EpochOrder
from lotlip.data.loading.sample_table import SampleTable
from lotlip.errors import DataError, ExecutorError, LotlipError

MAX_DEATHS = 3  # of workers, without a batch in between


@dataclass(frozen=True)
class SampleBatch:
    """This rank's part of batch `number` of epoch `epoch`, both from 0.

    `indices` of the samples and their earlier `visits`, int64 [B]; `content` is what the loader's source makes of
    them, None without one.
    """

    epoch: int
    number: int
    indices: NDArray[np.int64]
    visits: NDArray[np.int64]
    content: Any = None


class Loader:
    """Iterates over the batches from where it stands to the end of the last epoch.

    Where it stands is after the last batch that it handed out, whatever its workers have prepared beyond.

    Args:
        samples: what `order` orders.
        order: of each epoch.
        batch_size: of all ranks together.
        num_epochs: after so many it ends.
        source: makes what a batch holds of its `Draws`: a tensor, or a named tuple of them and of other things; an
            error of the user is returned. None: batches are indices alone.
        num_workers: processes in which it does; 0: this one.
        device: where tensors go if it is a GPU, while the batch before is at work there.
        rank: of this process, from 0.
        world_size: number of ranks.

    Raises:
        DataError: there is not one complete batch, or the ranks do not divide it.
    """

    def __init__(
        self,
        samples: SampleTable,
        order: EpochOrder,
        *,
        batch_size: int,
        num_epochs: int,
        source: Dataset[Any] | None = None,
        num_workers: int = 0,
        device: torch.device | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if len(samples) < batch_size:
            raise DataError(
                f"There are {len(samples)} samples and train.batch_size is {batch_size}: an epoch has no complete "
                "batch. Lower train.batch_size, or give more data."
            )
        if batch_size % world_size:
            raise DataError(f"{world_size} processes cannot share train.batch_size {batch_size}: make it a multiple.")
        self.batches_per_epoch = len(samples) // batch_size
        self.dropped_per_epoch = len(samples) % batch_size
        self._samples, self._order, self._source = samples, order, source
        self._batch_size, self._num_epochs, self._num_workers = batch_size, num_epochs, num_workers
        self._device = device or torch.device("cpu")
        self._rank, self._world_size = rank, world_size
        self._position = 0  # batches handed out, over all epochs

    def state_dict(self) -> dict[str, int]:
        """Where it stands: the epoch and batch that come next (of every rank), and what these numbers refer to."""
        epoch, batch = divmod(self._position, self.batches_per_epoch)
        return {"epoch": epoch, "batch": batch, "num_samples": len(self._samples), "batch_size": self._batch_size}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go where another loader of the same samples and order stood, with any number of workers and ranks.

        Raises:
            DataError: it had other samples or batches.
        """
        found, expected = (
            {name: s[name] for name in ("num_samples", "batch_size")} for s in (state, self.state_dict())
        )
        if found != expected:
            raise DataError(f"A loader with {found} cannot be resumed with {expected}: batches would repeat or miss.")
        self._position = state["epoch"] * self.batches_per_epoch + state["batch"]

    def __iter__(self) -> Iterator[SampleBatch]:
        """Batches in order.

        A worker that dies is replaced, and its batches are made again: none is lost or comes twice.

        Raises:
            DataError: a shard or an image is missing or damaged.
            ExecutorError: workers died `MAX_DEATHS` times in a row.
        """
        deaths = 0
        while True:
            try:
                for batch in self._loaded():
                    self._position += 1
                    deaths = 0
                    yield batch
                return
            except (RuntimeError, ConnectionError, EOFError) as error:
                if not (self._num_workers and is_death(error)):
                    raise
                deaths += 1
                state = self.state_dict()
                where = f"before batch {state['batch'] + 1} of epoch {state['epoch'] + 1}"
                if deaths == MAX_DEATHS:
                    raise ExecutorError(
                        f"Workers that make batches died {deaths} times in a row {where} ({error}): give them more "
                        "memory or lower train.num_workers; with 0 the training process does it, and shows why."
                    ) from error
                print(f"{error} {where}: started again", flush=True)

    def _loaded(self) -> Iterator[SampleBatch]:
        if self._source is None:
            return self._planned()
        batches = self._made(self._source)
        return _copied_ahead(batches, self._device) if self._device.type == "cuda" else batches

    def _planned(self) -> Iterator[SampleBatch]:
        share = self._batch_size // self._world_size
        first_epoch, first_batch = divmod(self._position, self.batches_per_epoch)
        for epoch in range(first_epoch, self._num_epochs):
            draws = self._order.epoch(epoch)
            for number in range(first_batch if epoch == first_epoch else 0, self.batches_per_epoch):
                start = number * self._batch_size + self._rank * share
                part = draws[start : start + share]
                yield SampleBatch(epoch, number, part.indices, part.visits)

    def _made(self, source: Dataset[Any]) -> Iterator[SampleBatch]:
        handed_over: deque[SampleBatch] = deque()

        def tasks() -> Iterator[Draws]:
            for batch in self._planned():
                handed_over.append(batch)
                yield Draws(batch.indices, batch.visits)

        for content in load_ahead(source, tasks(), self._num_workers, self._device.type == "cuda"):
            if isinstance(content, LotlipError):
                raise content
            yield replace(handed_over.popleft(), content=content)


def load_ahead(dataset: Dataset[Any], tasks: Iterator[Any], num_workers: int, pin_memory: bool) -> Iterator[Any]:
    """What a dataset makes of each task, in order, made ahead in `num_workers` processes; 0: in this one, when asked.

    Raises:
        RuntimeError: a worker died (`is_death`).
    """
    loader = DataLoader(
        dataset,
        sampler=tasks,
        batch_size=None,  # a task is a whole batch already
        collate_fn=_as_it_is,
        num_workers=num_workers,
        # Forked, as they touch neither GPU nor model: any transform will do, and starting them takes no time.
        multiprocessing_context="fork" if num_workers else None,
        pin_memory=pin_memory,
        worker_init_fn=_leave_signals_to_parent,
        generator=torch.Generator(),  # of its own, or it would take from the random numbers of dropout
    )
    return _start(loader)


def _as_it_is(content: Any) -> Any:
    return content


def is_death(error: Exception) -> bool:
    """Whether a worker died: torch says so, or what it made is not to be had any more; not what it raised itself."""
    if isinstance(error, RuntimeError):
        return str(error).startswith("DataLoader worker (pid")
    return not str(error).startswith("Caught ")


def _leave_signals_to_parent(_: int) -> None:
    """Ctrl-C reaches workers, too, and the training process wants to finish its step; but they end when it does.

    A worker that outlived a killed run, until it noticed, would keep that run's lock against the next one.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # each worker is one of many
    _prctl_pr_set_pdeathsig(signal.SIGKILL)


def _start(loader: DataLoader[Any]) -> Iterator[Any]:
    """Start the workers without torch's handler of SIGCHLD.

    It would raise a worker's death wherever the program is, be it in the middle of an optimizer step; without it,
    the iterator finds out within 5 s when it waits for that worker's batch.
    """
    before = signal.getsignal(signal.SIGCHLD)
    batches = iter(loader)
    if before is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, before)
    return batches


def _copied_ahead(batches: Iterator[SampleBatch], device: torch.device) -> Iterator[SampleBatch]:
    """Copy each batch to the GPU on a stream of its own, one batch ahead of the one handed out."""
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    ahead: deque[tuple[SampleBatch, torch.cuda.Event]] = deque()
    for batch in batches:
        with torch.cuda.stream(stream):
            content = _each_tensor(batch.content, lambda tensor: tensor.to(device, non_blocking=True))
            ahead.append((replace(batch, content=content), stream.record_event()))
        if len(ahead) == 2:
            yield _arrived(*ahead.popleft(), device)
    while ahead:
        yield _arrived(*ahead.popleft(), device)


def _arrived(batch: SampleBatch, copied: torch.cuda.Event, device: torch.device) -> SampleBatch:
    current = torch.cuda.current_stream(device)
    current.wait_event(copied)

    def used_here(tensor: Tensor) -> Tensor:
        tensor.record_stream(current)
        return tensor

    return replace(batch, content=_each_tensor(batch.content, used_here))


def _each_tensor(content: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(content, tuple):
        return type(content)(*(_each_tensor(part, function) for part in content))
    return function(content) if isinstance(content, Tensor) else content
