"""Whether a method's settings fit together, before anything expensive starts; no weights are read."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lotlip.errors import ModelError, ParamsError
from lotlip.model.flops import num_patches
from lotlip.model.outline import Outline, outline
from lotlip.params import Method, Train
from lotlip.training.optim import num_steps, warmup_steps

_KEPT = ("features", "train")  # what training keeps in its folder of work
_BYTES_A_WEIGHT = 12  # of a checkpoint: a weight and two moments, float32


@dataclass(frozen=True)
class Checked:
    """What a check found: problems in words, none of them if all is well; the model, if it can be made; bytes on disk
    of cached image features and of the checkpoints that stay; and what is worth knowing."""

    problems: tuple[str, ...]
    model: Outline | None
    feature_bytes: int
    checkpoint_bytes: int
    notes: tuple[str, ...]


def check_method(
    name: str, settings: Train, method: Method, num_pairs: int | None, disk: Path | None = None
) -> Checked:
    """Look for settings of a method that contradict each other or their data.

    Args:
        name: of the method.
        settings: `Params.train_settings` of it.
        method: the method.
        num_pairs: samples to train on; None: not known yet.
        disk: folder of work that features and checkpoints are to fit into; None: it is another machine's.
    """
    problems = [*_problems_of_length(settings, num_pairs), *_problems_of_method(settings, method)]
    try:
        model = outline(settings, method)
    except (ModelError, ParamsError) as error:
        problems.append(str(error))
        return Checked(_named(name, problems), None, 0, 0, ())
    features, checkpoints = _feature_bytes(model, settings, method, num_pairs or 0), _checkpoint_bytes(model, settings)
    if disk is not None:
        problems += _problems_of_disk(disk, features, checkpoints)
    notes = list(model.notes)
    share = settings.batch_size // settings.compute.processes
    micro = settings.compute.micro_batch_size
    if micro is not None and micro > share:
        notes.append(f"micro_batch_size {micro} is more than a process has ({share}): all of it is embedded at once")
    return Checked(_named(name, problems), model, features, checkpoints, tuple(notes))


def require_consistent(name: str, settings: Train, method: Method, num_pairs: int, disk: Path) -> None:
    """Refuse settings that `check_method` has something against.

    Raises:
        ParamsError: with all problems, a line each.
    """
    if problems := check_method(name, settings, method, num_pairs, disk).problems:
        raise ParamsError("\n".join(problems))


def _named(name: str, problems: list[str]) -> tuple[str, ...]:
    return tuple(f"methods.{name}: {problem}" for problem in problems)


def _problems_of_length(settings: Train, num_pairs: int | None) -> Iterator[str]:
    if settings.batch_size % settings.compute.processes:
        yield (
            f"train.batch_size {settings.batch_size:,} cannot be shared by {settings.compute.processes} processes: "
            "make it a multiple."
        )
    if num_pairs is not None and num_pairs < settings.batch_size:
        yield (
            f"{num_pairs:,} pairs do not fill one batch of train.batch_size {settings.batch_size:,}: lower it, or give "
            "more data."
        )
        return
    if num_pairs is None and settings.epochs is not None and settings.warmup_share is None:
        return  # how many steps that is, only the data say
    steps = num_steps(settings, 1 if num_pairs is None else num_pairs // settings.batch_size)
    warmup = warmup_steps(settings, steps)
    if settings.warmup_share == 1.0 or (settings.warmup_share is None and warmup >= steps):
        yield f"the warm-up takes {warmup:,} of {steps:,} steps: shorten it, or train longer."


def _problems_of_method(settings: Train, method: Method) -> Iterator[str]:
    if settings.weight_raw == 0 and (settings.weight_long == 0 or method.num_long == 0):
        yield "every text has weight 0, so nothing is learnt: raise train.weight_raw or train.weight_long."
    if method.corner_tokens and not method.num_long:
        yield f"corner_tokens {method.corner_tokens} are read of long texts alone, and num_long is 0."
    if method.short_components is not None and method.short_components >= settings.embed_dim:
        yield (
            f"short_components {method.short_components} of train.embed_dim {settings.embed_dim} leave nothing out: "
            "take fewer, or null."
        )
    if settings.compute.sdpa in ("flash", "cudnn") and settings.compute.precision != "bfloat16":
        yield (
            f"train.compute.sdpa {settings.compute.sdpa} takes 16 bits, and precision is {settings.compute.precision}: "
            "choose bfloat16, or sdpa: auto."
        )


def _problems_of_disk(disk: Path, features: int, checkpoints: int) -> Iterator[str]:
    there = next(folder for folder in (disk, *disk.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    kept = sum(_size(file) for name in _KEPT for file in (disk / name).rglob("*"))
    if features + checkpoints > free + kept:  # what is kept may be this run's own: then it is not wanted twice
        yield (
            f"image features take {features / 1e9:,.1f} GB, checkpoints {checkpoints / 1e9:,.1f} GB, and the disk of "
            f"{disk} has {free / 1e9:,.1f} GB free: lower train.cached_crops (0: none are kept) or checkpoints.keep."
        )


def _size(file: Path) -> int:
    try:
        return file.stat().st_size
    except FileNotFoundError:  # another run has removed it in the meantime
        return 0


def _feature_bytes(model: Outline, settings: Train, method: Method, num_pairs: int) -> int:
    if method.image_tower != "locked":
        return 0
    vision = model.config.vision_config
    rows = num_patches(vision) if model.config.token_features else 1
    return num_pairs * settings.cached_crops * rows * int(vision.hidden_size) * 2  # float16


def _checkpoint_bytes(model: Outline, settings: Train) -> int:
    return (
        (settings.checkpoints.keep + 1) * _BYTES_A_WEIGHT * model.num_trained
    )  # the old ones stay until the new one is whole
