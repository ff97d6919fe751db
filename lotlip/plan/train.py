"""Training: FLOPs, speed, hours, memory and disk of a method on given GPUs, by arithmetic, before anything runs."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lotlip.errors import ParamsError
from lotlip.model.flops import ImageWork, StepFlops, step_flops
from lotlip.model.gpus import PEAK_FLOPS, Gpu, find_gpu, peak_flops
from lotlip.params import Method, Params, Train, entry
from lotlip.plan.lengths import TextLengths, count_pairs, find_lengths, given_lengths
from lotlip.plan.memory import TrainMemory, train_memory
from lotlip.training.check import Checked, check_method
from lotlip.training.optim import num_steps, warmup_steps

LABELS = {
    "image_tower": "image tower",
    "text_tower": "text tower",
    "trained_m": "parameters trained, millions",
    "locked_m": "parameters locked, millions",
    "short_ids": "ids a short text",
    "long_ids": "ids a long text",
    "pair_ids": "ids a pair",
    "gflops": "GFLOPs a pair",
    "image_forward_gflops": "  image forward",
    "image_backward_gflops": "  image backward",
    "short_gflops": "  short text, forward and backward",
    "long_gflops": "  long texts, forward and backward",
    "loss_gflops": "  loss",
    "again_gflops": "computed again, to save memory",
    "pairs_per_s": "pairs/s, one GPU",
    "all_pairs_per_s": "pairs/s, all GPUs",
    "cores": "CPU cores that make these batches",
    "steps_per_epoch": "steps an epoch",
    "steps": "steps",
    "warmup_steps": "steps of warm-up",
    "epochs": "epochs",
    "hours": "hours of steps",
    "feature_hours": "hours of image features, once",
    "gpu_hours": "GPU-hours",
    "micro_batch_size": "pairs of a GPU at a time",
    "memory_gb": "GB of a GPU",
    "weights_gb": "  weights",
    "gradients_gb": "  gradients",
    "optimizer_gb": "  optimizer",
    "activations_gb": "  activations",
    "embeddings_gb": "  embeddings of all",
    "logits_gb": "  logits",
    "reserve_gb": "  reserve",
    "fits": "fits",
    "features_disk_gb": "GB of image features on disk",
    "checkpoints_disk_gb": "GB of checkpoints on disk",
}


# What a core of the machine of LOG.md does: JPEGs of 448 px decoded and resized (benchmarks/bench_loader.py), ids of
# texts drawn and tokenized.
DECODED_PER_S, IDS_PER_S = 250, 300_000


@dataclass(frozen=True)
class Request:
    """What to plan for: GPUs by name and number (None: as many as train.compute.processes), the share of their peak
    that is reached (an assumption), pairs, and tokens of texts (None: found out)."""

    gpu: str
    gpus: int | None
    utilisation: float
    pairs: int | None = None
    raw_tokens: float | None = None
    long_tokens: float | None = None


@dataclass(frozen=True)
class TrainPlan:
    """Numbers of each method by the keys of `LABELS`, and remarks, a line each."""

    methods: dict[str, dict[str, Any]]
    remarks: list[str]


def plan_training(params: Params, names: list[str], request: Request, data: Path = Path("data")) -> TrainPlan:
    """Plan the training of some methods.

    Raises:
        ParamsError: the GPU or a method is not known, the number of pairs is nowhere, or settings do not fit together
            (all problems, a line each).
    """
    gpu = find_gpu(request.gpu)
    if gpu is None:
        raise ParamsError(f"GPU {request.gpu!r} is not known; known are {', '.join(PEAK_FLOPS)}.")
    pairs, origin = _pairs(params, request, data)
    remarks = [f"pairs: {pairs:,} ({origin}); {request.utilisation:.0%} of the peak is an assumption"]
    problems: list[str] = []
    plans = {}
    for name in names:
        method = entry(params.methods, "method", name)
        settings = params.train_settings(name)
        if request.gpus is not None:
            compute = settings.compute.model_copy(update={"processes": request.gpus})
            settings = settings.model_copy(update={"compute": compute})
        checked = check_method(name, settings, method, pairs)
        problems += checked.problems
        if checked.problems:
            continue
        lengths = _lengths(params, name, settings, method, request, data)
        plans[name], advice = _plan(settings, method, checked, lengths, pairs, gpu, request)
        remarks += [
            f"{name}: {line}"
            for line in (_towers(settings), *checked.notes, f"lengths of texts: {lengths.origin}", *advice)
        ]
    if problems:
        raise ParamsError("\n".join(problems))
    return TrainPlan(plans, _merged(remarks))


def _plan(
    settings: Train, method: Method, checked: Checked, lengths: TextLengths, pairs: int, gpu: Gpu, request: Request
) -> tuple[dict[str, Any], list[str]]:
    assert checked.model is not None  # nothing was wrong with it
    config, compute = checked.model.config, settings.compute
    work = _image_work(settings, method)
    flops = step_flops(config, lengths.short, lengths.long, image=work, batch_size=settings.batch_size)
    peak = peak_flops(request.gpu, compute.precision, tf32=compute.tf32)
    if peak is None:
        raise ParamsError(f"{request.gpu} computes no products in {compute.precision}: set train.compute.precision.")
    num = len(lengths.short)
    again = _computed_again(flops, settings, work)
    pairs_per_s = request.utilisation * peak / ((flops.total + again) / num)
    steps_per_epoch = pairs // settings.batch_size
    steps = num_steps(settings, steps_per_epoch)
    hours = steps * settings.batch_size / (pairs_per_s * compute.processes) / 3600
    feature_hours = 0.0
    if work == "cached":
        locked = step_flops(config, lengths.short, [], image="locked", batch_size=1).image_forward
        crops = pairs * settings.cached_crops
        of_gpus = request.utilisation * peak * compute.processes / (locked / num)  # crops a second
        of_cores = DECODED_PER_S * compute.processes * max(1, settings.num_workers)
        feature_hours = crops / min(of_gpus, of_cores) / 3600
    memory = _memory(checked, settings, method, lengths)
    ids = float(lengths.short.sum() + lengths.long.sum()) / num
    core_s = ids / IDS_PER_S + (0.0 if work == "cached" else 1 / DECODED_PER_S)  # of a pair
    plan = {
        "image_tower": "locked, cached" if work == "cached" else method.image_tower,
        "text_tower": method.text_tower + ("" if settings.text_tower else ", fresh"),
        "trained_m": checked.model.num_trained / 1e6,
        "locked_m": checked.model.num_locked / 1e6,
        "short_ids": float(lengths.short.mean()),
        "long_ids": float(lengths.long.mean()) if len(lengths.long) else 0.0,
        "pair_ids": ids,
        "gflops": flops.total / num / 1e9,
        "image_forward_gflops": flops.image_forward / num / 1e9,
        "image_backward_gflops": flops.image_backward / num / 1e9,
        "short_gflops": flops.short_texts / num / 1e9,
        "long_gflops": flops.long_texts / num / 1e9,
        "loss_gflops": flops.loss / num / 1e9,
        "again_gflops": again / num / 1e9,
        "pairs_per_s": pairs_per_s,
        "all_pairs_per_s": pairs_per_s * compute.processes,
        "cores": pairs_per_s * compute.processes * core_s,
        "steps_per_epoch": steps_per_epoch,
        "steps": steps,
        "warmup_steps": warmup_steps(settings, steps),
        "epochs": steps / steps_per_epoch,
        "hours": hours,
        "feature_hours": feature_hours,
        "gpu_hours": (hours + feature_hours) * compute.processes,
        "micro_batch_size": _micro(settings),
        "memory_gb": memory.total / 1e9,
        **{f"{part}_gb": value / 1e9 for part, value in asdict(memory).items()},
        "fits": "yes" if memory.total <= gpu.memory else "no",
        "features_disk_gb": checked.feature_bytes / 1e9,
        "checkpoints_disk_gb": checked.checkpoint_bytes / 1e9,
    }
    advice = [] if memory.total <= gpu.memory else [_advice(checked, settings, method, lengths, gpu)]
    workers = compute.processes * max(1, settings.num_workers)
    if plan["cores"] > workers:
        advice.append(
            f"{workers} processes make batches (train.num_workers {settings.num_workers} each), and the GPUs want "
            f"{plan['cores']:,.0f} cores for that: with no more, training takes {plan['cores'] / workers:.1f} x as long"
        )
    return plan, advice


def _advice(checked: Checked, settings: Train, method: Method, lengths: TextLengths, gpu: Gpu) -> str:
    """The least change of settings that makes it fit: fewer pairs at a time, then checkpointing, then sharding."""
    start = f"does not fit into {gpu.memory / 1e9:.0f} GB"
    changes: dict[str, Any] = {}
    for more in ({}, {"gradient_checkpointing": True}, {"sharding": "fsdp"}):
        changes |= more
        for micro in (2**power for power in range(_micro(settings).bit_length() - 1, 4, -1)):
            compute = settings.compute.model_copy(update={**changes, "micro_batch_size": micro})
            tried = settings.model_copy(update={"compute": compute})
            total = _memory(checked, tried, method, lengths).total
            if total <= gpu.memory:
                said = ", ".join(f"{key}: {value}" for key, value in {"micro_batch_size": micro, **changes}.items())
                return f"{start}; train.compute {said} takes {total / 1e9:.0f} GB"
    return f"{start}, whatever train.compute says: lower train.batch_size, or take larger GPUs"


def _memory(checked: Checked, settings: Train, method: Method, lengths: TextLengths) -> TrainMemory:
    assert checked.model is not None
    config = checked.model.config
    corners = config.num_corner_tokens if config.corner_mask else 0  # a short text is read without them
    short = float(lengths.short.mean()) - corners
    long = float(lengths.long.mean()) if len(lengths.long) else 0.0
    cached = _image_work(settings, method) == "cached"
    return train_memory(checked.model, settings, method, short, long, cached=cached)


def _computed_again(flops: StepFlops, settings: Train, work: ImageWork) -> float:
    """Forward passes beside the useful one: parts of a batch are embedded twice, checkpointed layers run twice."""
    texts = (flops.short_texts + flops.long_texts) / 3
    again = texts + flops.image_forward if _micro(settings) < _share(settings) else 0.0
    if settings.compute.gradient_checkpointing:
        again += texts + (flops.image_forward if work == "trained" else 0.0)
    return again


def _image_work(settings: Train, method: Method) -> ImageWork:
    if method.image_tower != "locked":
        return "trained"
    return "cached" if settings.cached_crops else "locked"


def _share(settings: Train) -> int:
    return settings.batch_size // settings.compute.processes


def _micro(settings: Train) -> int:
    return min(_share(settings), settings.compute.micro_batch_size or _share(settings))


def _pairs(params: Params, request: Request, data: Path) -> tuple[int, str]:
    if request.pairs is not None:
        return request.pairs, "as given"
    found = count_pairs(params, data)
    if found is None:
        raise ParamsError("The number of pairs to train on is not known: data/images lacks a source. Give --pairs.")
    return found


def _lengths(params: Params, name: str, settings: Train, method: Method, request: Request, data: Path) -> TextLengths:
    found = find_lengths(params, name, data)
    if request.raw_tokens is None and request.long_tokens is None:
        return found
    extra = 2 + method.corner_tokens
    raw = float(found.short.mean()) - extra if request.raw_tokens is None else request.raw_tokens
    if request.long_tokens is None:
        long = float(found.long.mean()) - extra if len(found.long) else 0.0
    else:
        long = request.long_tokens
    return given_lengths(raw, long, settings, method, "as given")


def _towers(settings: Train) -> str:
    of_texts = (
        settings.text_tower or f"{settings.text_layers} layers of {settings.text_width}, {settings.text_heads} heads"
    )
    return f"towers: {settings.image_tower}; {of_texts}"


def _merged(remarks: list[str]) -> list[str]:
    """The same remark about several methods in one line."""
    names: dict[str, list[str]] = {}
    for remark in remarks[1:]:
        name, _, text = remark.partition(": ")
        names.setdefault(text, []).append(name)
    return [remarks[0], *(f"{', '.join(of)}: {text}" for text, of in names.items())]
