"""What the tables show: single metrics of evaluation sets, and means of several, as on the poster."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lotlip.evaluation.poster.estimates import Estimate, estimate
from lotlip.evaluation.poster.runs import Run, Runs
from lotlip.evaluation.tables import chance_level

POSTER_SETS = ("dci", "iiw", "sharegpt4v_1k", "sharegpt4v_10k")  # whose eight columns the poster averages
_KINDS = {
    "long": ("long", *POSTER_SETS, "urban1k", "docci"),
    "short": ("short", "coco", "flickr30k"),
    "classes": ("classes", "imagenet"),
}
GROUPS = {
    "long": "long-text retrieval",
    "short": "short-text retrieval",
    "classes": "zero-shot classification",
    "text_flops": "text FLOPs",
}
_RECALLS = {"i2t_r1": "I2T", "t2i_r1": "T2I"}
_FLOPS = "text_flops_per_text"


@dataclass(frozen=True)
class Metric:
    """The mean of some metrics (evaluation set, key), times `scale`."""

    title: str
    parts: tuple[tuple[str, str], ...]
    unit: str = "points"
    scale: float = 1.0

    def value(self, run: Run) -> float | None:
        """Its value for a run; None where the run lacks a part."""
        values = [run.evaluate.get(evalset, {}).get(key) for evalset, key in self.parts]
        found = [float(value) for value in values if value is not None]
        return self.scale * sum(found) / len(found) if found and len(found) == len(values) else None

    def chance(self, run: Run) -> float | None:
        """What guessing would reach on the sets of a run; None for FLOPs, and where the run lacks a set."""
        counts = [(key, run.evaluate.get(evalset)) for evalset, key in self.parts]
        found = [chance_level(key, count) for key, count in counts if count and key != _FLOPS]
        return sum(found) / len(found) if found and len(found) == len(counts) else None

    def estimate(self, runs: Iterable[Run]) -> Estimate | None:
        """Mean and interval over the runs that have it."""
        values = [value for run in runs if (value := self.value(run)) is not None]
        return estimate(values) if values else None


def columns(runs: Runs) -> list[Metric]:
    """R@1 of every retrieval set both ways, their average, top-1 of the others.

    With all four of the poster's sets the average is over their eight columns, as there, and other sets stand behind.
    """
    keys = set_metrics(runs)
    retrieval = [evalset for evalset, found in keys.items() if "i2t_r1" in found]
    averaged = list(POSTER_SETS) if set(POSTER_SETS) <= set(retrieval) else retrieval
    parts = tuple((evalset, key) for evalset in averaged for key in _RECALLS)
    average = [Metric("average", parts)] if parts else []
    others = [evalset for evalset in retrieval if evalset not in averaged]
    top1 = [Metric(f"{evalset} top-1", ((evalset, "top1"),)) for evalset, found in keys.items() if "top1" in found]
    return [*_recalls(averaged), *average, *_recalls(others), *top1]


def flops_columns(runs: Runs) -> list[Metric]:
    """FLOPs of a text for every retrieval set that has them."""
    sets = [evalset for evalset, found in set_metrics(runs).items() if _FLOPS in found and "i2t_r1" in found]
    unit, scale = _flops_unit(runs, sets)
    return [Metric(f"{evalset} {unit} a text", ((evalset, _FLOPS),), unit, scale) for evalset in sets]


def group_metric(group: str, runs: Runs) -> Metric | None:
    """One number for a kind of evaluation: the mean R@1 of its sets both ways, the mean top-1, or FLOPs of a long text.

    None where no run has a set of that kind.
    """
    keys = set_metrics(runs)
    if group == "text_flops":
        sets = [evalset for evalset in _KINDS["long"] if _FLOPS in keys.get(evalset, ())]
        unit, scale = _flops_unit(runs, sets)
        parts = tuple((evalset, _FLOPS) for evalset in sets)
        return Metric(f"text {unit}", parts, unit, scale) if parts else None
    names = ("top1",) if group == "classes" else tuple(_RECALLS)
    sets = [evalset for evalset in _KINDS[group] if set(names) <= keys.get(evalset, set())]
    parts = tuple((evalset, name) for evalset in sets for name in names)
    return Metric(GROUPS[group], parts) if parts else None


def set_metrics(runs: Runs) -> dict[str, set[str]]:
    """Evaluation sets and their metrics' names, the poster's sets first, then as the runs have them."""
    found: dict[str, set[str]] = {}
    for run in (run for group in runs.values() for run in group):
        for evalset, metrics in run.evaluate.items():
            found.setdefault(evalset, set()).update(metrics)
    first = [evalset for evalset in POSTER_SETS if evalset in found]
    return {evalset: found[evalset] for evalset in [*first, *(name for name in found if name not in first)]}


def _recalls(evalsets: Sequence[str]) -> list[Metric]:
    return [Metric(f"{evalset} {way}", ((evalset, key),)) for evalset in evalsets for key, way in _RECALLS.items()]


def _flops_unit(runs: Runs, evalsets: Sequence[str]) -> tuple[str, float]:
    most = max(
        (
            run.evaluate.get(evalset, {}).get(_FLOPS) or 0
            for group in runs.values()
            for run in group
            for evalset in evalsets
        ),
        default=0,
    )
    return ("GFLOPs", 1e-9) if most >= 1e9 else ("MFLOPs", 1e-6)
