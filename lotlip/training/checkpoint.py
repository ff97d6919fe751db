"""Checkpoints of a training run: one file, replaced atomically, resumed at the very next step.

With a storage in S3 a copy goes there, so that a run whose machine is gone is resumed on another one.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from lotlip.errors import ModelError, StorageError
from lotlip.records import atomic_path
from lotlip.storage.objects import download, find_object, upload
from lotlip.training.step import StepSums


@dataclass
class Progress:
    """Everything but weights and random numbers that a resumed run needs.

    `step` counts what is complete, `data` is where the loader stands; `curve` holds the rows so far, `counts` texts
    and losses of data, `losses` the mean loss of each text slot over the last complete epoch; `of_epoch` and `of_row`
    sum up the steps of the epoch and of the row that are not complete.
    """

    step: int = 0
    data: dict[str, int] | None = None
    curve: list[dict[str, float]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    of_epoch: StepSums = field(default_factory=StepSums)
    of_row: StepSums = field(default_factory=StepSums)


def save_checkpoint(
    path: Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    progress: Progress,
    copy: str | None = None,
) -> None:
    """Write weights that are trained, the optimizer's state, the progress and the state of torch's random numbers.

    `copy` is where it goes in S3, too; when that fails, training goes on with the file here alone, and says so.
    """
    record = {
        "model": _trained(model),
        "optimizer": optimizer.state_dict(),
        "progress": asdict(progress),
        "random": {"cpu": torch.get_rng_state(), "cuda": torch.cuda.get_rng_state_all()},
    }
    with atomic_path(path) as temporary:
        torch.save(record, temporary)
    if copy is not None:
        try:
            upload(path, copy)
        except StorageError as error:
            print(f"warning: no copy of the checkpoint at step {progress.step}: {error}", flush=True)


def load_checkpoint(
    path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, copy: str | None = None
) -> Progress:
    """Restore what `save_checkpoint` wrote, from its copy where it is not here; a fresh `Progress` without either.

    Raises:
        ModelError: the file is damaged or belongs to another model.
        StorageError: S3 refuses or is away.
    """
    if not path.is_file() and copy is not None and find_object(copy) is not None:
        download(copy, path)
    if not path.is_file():
        return Progress()
    try:
        record: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        weights = record["model"]
        if weights.keys() != _trained(model).keys():
            raise ValueError("its weights have other names")
        model.load_state_dict(weights, strict=False)
        optimizer.load_state_dict(record["optimizer"])
        torch.set_rng_state(record["random"]["cpu"])
        torch.cuda.set_rng_state_all(record["random"]["cuda"][: torch.cuda.device_count()])
        sums = {name: StepSums(**record["progress"][name]) for name in ("of_epoch", "of_row")}
        return Progress(**{**record["progress"], **sums})
    except Exception as error:  # torch raises many unrelated types on damaged files
        raise ModelError(
            f"The checkpoint {path} cannot be resumed ({error}): remove it to train from the start."
        ) from error


def _trained(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in model.named_parameters() if p.requires_grad}
