"""Checkpoints of a training run: one whole file each, written by the first process, readable by any number of them.

A file `step-000000120.pt` holds weights that are trained, the optimizer's state, the progress, and the run's settings;
it is complete or not there at all. Shared-out weights are gathered for it (ViT-B/16, BERT-base and AdamW's state take
2.4 GB), so a run goes on with any number of processes and any way of sharing. With a storage in S3 a copy of the newest
goes there under the same name, and a machine that has none or older ones goes on from it.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import torch
from torch import nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from lotlip.errors import LotlipError, ModelError, StorageError
from lotlip.records import atomic_path, write_text
from lotlip.storage.objects import delete_object, download, join, list_objects, upload
from lotlip.training.guards import Watch
from lotlip.training.ranks import Ranks
from lotlip.training.step import StepSums

COMPLETE = "complete"  # a file in the folder of a run that is


@dataclass
class Progress:
    """Everything but weights and the optimizer's state that a resumed run needs.

    `step` counts what is complete, `data` is where the loader stands; `curve` holds the rows so far, `counts` texts
    and losses of data of all processes (`row_counts` since the last row), `losses` the mean loss of each text slot
    over the last complete epoch; `of_epoch` and `of_row` sum up the steps of the epoch and of the row that are not
    complete; `watch` is what the guards remember.
    """

    step: int = 0
    data: dict[str, int] | None = None
    curve: list[dict[str, float]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    row_counts: dict[str, int] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    of_epoch: StepSums = field(default_factory=StepSums)
    of_row: StepSums = field(default_factory=StepSums)
    watch: Watch = field(default_factory=Watch)


class Checkpoints:
    """The checkpoints of a run.

    Args:
        folder: theirs alone.
        config: the run's settings, flat; a file that has others is refused.
        keep: so many of the newest stay.
        ranks: the processes that train; all of them call `save` and `load` together.
        copies: below which URL in S3 the newest is, too; None: nowhere.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any], keep: int, ranks: Ranks, copies: str | None) -> None:
        self.folder, self.config, self.keep = folder, dict(config), keep
        self._ranks, self._copies = ranks, copies

    def save(self, model: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress) -> None:
        """Write a checkpoint and remove those that are old.

        When the copy in S3 fails, training goes on with the file here alone, and says so.

        Raises:
            OSError: the disk is full; the checkpoints before stay as they are.
        """
        options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
        record = {
            "config": self.config,
            "model": get_model_state_dict(model, options=options),
            "optimizer": get_optimizer_state_dict(model, optimizer, options=options),
            "progress": asdict(progress),
        }
        if not self._ranks.is_first:
            return
        path = self._path(progress.step)
        with atomic_path(path) as temporary:
            _write(record, temporary)
        self._remove_all_but(self.keep)
        if self._copies is not None:
            try:
                _replace_copies(self._copies, path)
            except StorageError as error:
                print(f"warning: no copy of the checkpoint at step {progress.step}: {error}", flush=True)

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Progress | None:
        """Restore the newest checkpoint; None where there is none.

        Of a damaged one it says so, and takes the one before.

        Raises:
            ModelError: all there are are damaged, or they belong to a run with other settings.
            StorageError: S3 refuses or is away.
        """
        record = _caught(self._newest) if self._ranks.is_first else None
        # An error of the first process is everyone's, or the others would wait for it.
        told = self._ranks.of_first(record if record is None or isinstance(record, LotlipError) else _told(record))
        if isinstance(told, LotlipError):
            raise told
        if told is None:
            return None
        _check_names(told["names"], model)
        record = record or {"model": {}, "optimizer": {}}  # which the first process sends
        options = StateDictOptions(
            full_state_dict=True, broadcast_from_rank0=self._ranks.group is not None, strict=False
        )
        set_model_state_dict(model, record["model"], options=options)
        optimizer.zero_grad()
        set_optimizer_state_dict(model, optimizer, record["optimizer"], options=options)
        return _progress(told["progress"])

    def newest(self) -> int:
        """Step of the newest checkpoint; there must be one."""
        return saved_steps(self.folder)[-1]

    def complete(self) -> None:
        """Note that the run is complete, and remove all checkpoints but the newest."""
        self._remove_all_but(1)
        for damaged in self.folder.glob("*.damaged"):
            damaged.unlink()
        write_text(self.folder / COMPLETE, "")

    def _remove_all_but(self, keep: int) -> None:
        for step in saved_steps(self.folder)[:-keep]:
            self._path(step).unlink(missing_ok=True)

    def _path(self, step: int) -> Path:
        return self.folder / f"step-{step:09d}.pt"

    def _newest(self) -> dict[str, Any] | None:
        if self._copies is not None:
            self._fetch_newer(self._copies)
        steps = saved_steps(self.folder)
        for step in reversed(steps):
            path = self._path(step)
            try:
                return self._read(path)
            except _DamagedError:
                path.rename(path.with_suffix(".damaged"))  # no longer one of those that stay
                print(f"warning: the checkpoint {path} is cut off or damaged: the one before is taken", flush=True)
        if steps:
            copies = "" if self._copies is None else f", and {self._copies},"
            raise ModelError(
                f"No checkpoint in {self.folder} can be resumed, all {len(steps)} are damaged: remove the folder"
                f"{copies} to train from the start."
            )
        return None

    def _fetch_newer(self, copies: str) -> None:
        """Download the newest copy, if it is newer than what is here: another machine went on with this run."""
        found = {_step(copy.url): copy.url for copy in list_objects(copies)}
        if found and max(found) > max(saved_steps(self.folder), default=-1):
            download(found[max(found)], self._path(max(found)))

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            with ZipFile(path) as parts:  # torch writes checksums and does not look at them
                if (damaged := parts.testzip()) is not None:
                    raise ValueError(f"another checksum of {damaged}")
            record: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            config = record["config"]
        except Exception as error:  # torch raises many unrelated types on damaged files
            raise _DamagedError(f"{type(error).__name__}: {error}") from error
        if other := differences(config, self.config):
            raise ModelError(
                f"The checkpoint {path} belongs to a run with other settings: {'; '.join(other)}. Remove it, or set "
                "them as they were."
            )
        return record


def saved_steps(folder: Path) -> list[int]:
    """Steps of which a run's folder has a checkpoint, rising."""
    return sorted(_step(path.name) for path in folder.glob("step-*.pt"))


def _step(name: str) -> int:
    """Of a checkpoint's name, path or URL."""
    return int(name.rpartition("-")[2].removesuffix(".pt"))


def _replace_copies(copies: str, path: Path) -> None:
    """Upload a checkpoint, then remove the copies of those before it."""
    upload(path, join(copies, path.name))
    for copy in list_objects(copies):
        if _step(copy.url) < _step(path.name):
            delete_object(copy.url)


def _write(record: dict[str, Any], path: Path) -> None:
    with path.open("wb") as file:
        try:
            torch.save(record, file)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):  # torch's writer hides it behind a complaint of its own
                raise error.__context__ from None
            raise


class _DamagedError(Exception):
    """A checkpoint is not whole."""


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What two flat configurations do not share, in words: `name old, now new`."""
    names = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return [f"{name} {old.get(name)}, now {new.get(name)}" for name in names]


def _caught(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except LotlipError as error:
        return error


def _told(record: dict[str, Any]) -> dict[str, Any]:
    """What all processes must know of a checkpoint besides its tensors."""
    return {"names": list(record["model"]), "progress": record["progress"]}


def _progress(values: dict[str, Any]) -> Progress:
    sums = {name: StepSums(**values[name]) for name in ("of_epoch", "of_row")}
    return Progress(**{**values, **sums, "watch": Watch(**values["watch"])})


def _check_names(found: Collection[str], model: nn.Module) -> None:
    expected = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    if set(found) != expected:
        raise ModelError(
            f"A checkpoint has {len(found)} weights and the model trains {len(expected)}; only one of them has "
            f"{', '.join(sorted(set(found) ^ expected))}. Remove the checkpoint to train from the start."
        )
