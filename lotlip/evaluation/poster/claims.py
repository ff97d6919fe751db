"""The paper's claims as comparisons of runs, and what the runs say about them.

A claim becomes contrasts: weighted sums of methods' metrics, such as `lotlip - lit_long`. A contrast is computed for
each seed that all its methods have, so that what a seed does to all of them cancels, and gets the Student t interval
of its mean over seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from lotlip.evaluation.poster.ablations import BARE, Table, TableName, row_number
from lotlip.evaluation.poster.estimates import Estimate, estimate
from lotlip.evaluation.poster.metrics import GROUPS, Metric, group_metric
from lotlip.evaluation.poster.runs import Runs
from lotlip.params.reading import read_section
from lotlip.params.section import Name, Section

_CLAIMS = Path(__file__).parents[1] / "published" / "claims.yaml"

Verdict = Literal["reproduced", "not reproduced", "undecided", "not run"]
VERDICTS: tuple[Verdict, ...] = ("reproduced", "not reproduced", "undecided", "not run")
_X_UNITS = {"corner_tokens": "corner token", "sub_captions": "sub-caption", "token_limit": "token"}
_ERROR = 0.05


class Claim(Section):
    """A line of published/claims.yaml, which says what each kind compares."""

    table: TableName
    kind: Literal["above", "above_others", "rises", "still_rises", "flattens", "mask"]
    says: str
    on: Annotated[list[Literal["long", "short", "classes", "text_flops"]], Field(min_length=1)]
    method: Name | None = None
    than: Name | None = None
    by: float = 0.0

    @model_validator(mode="after")
    def _check(self) -> "Claim":
        needed = {"above": {"method", "than"}, "above_others": {"method"}}.get(self.kind, set())
        given = {name for name in ("method", "than") if getattr(self, name) is not None}
        if needed != given:
            raise ValueError(f"kind {self.kind} takes {' and '.join(sorted(needed)) or 'no method'}")
        return self


class Claims(Section):
    claims: list[Claim]


@dataclass(frozen=True)
class Contrast:
    """A weighted sum over methods, in words and numbers."""

    label: str
    weights: tuple[tuple[str, float], ...]
    unit: str = ""  # of x, for slopes


@dataclass(frozen=True)
class Part:
    """A contrast and what the runs give for it: its values by seed, and the methods that were not run."""

    contrast: Contrast
    values: tuple[float, ...]
    missing: tuple[str, ...]

    @property
    def estimate(self) -> Estimate | None:
        """Mean over seeds with its 95% interval."""
        return estimate(self.values, _ERROR) if self.values else None


@dataclass(frozen=True)
class Finding:
    """A claim on one kind of evaluation, and the verdict of the runs."""

    table: str
    says: str
    by: float
    metric: Metric | None
    parts: tuple[Part, ...]

    @property
    def verdict(self) -> Verdict:
        """Whether every part lies above the threshold.

        Reproduced: every part's 95% interval lies above it; no correction is needed for a claim of several parts.
        Not reproduced: some part's interval lies at or below it, at an error of 5% shared among the parts.
        """
        if not self.parts or any(not part.values for part in self.parts):
            return "not run"
        if all(len(part.values) > 1 for part in self.parts) and all(
            _limits(part, _ERROR)[0] > self.by for part in self.parts
        ):
            return "reproduced"
        several = [part for part in self.parts if len(part.values) > 1]
        if any(_limits(part, _ERROR / len(self.parts))[1] <= self.by for part in several):
            return "not reproduced"
        return "undecided"


def read_claims() -> list[Claim]:
    """The paper's claims, in the order of published/claims.yaml."""
    return read_section(_CLAIMS, Claims).claims


def judge(claim: Claim, table: Table, runs: Runs) -> list[Finding]:
    """A finding for each kind of evaluation that the claim is made on."""
    findings = []
    for group in claim.on:
        metric = group_metric(group, runs)
        contrasts = _contrasts(claim, table) if metric else []
        parts = tuple(_measure(contrast, metric, runs) for contrast in contrasts if metric)
        says = claim.says.format(on=GROUPS[group])
        findings.append(Finding(claim.table, says, claim.by, metric, parts))
    return findings


def _limits(part: Part, error: float) -> tuple[float, float]:
    found = estimate(part.values, error)
    assert found.half is not None
    return found.mean - found.half, found.mean + found.half


def _measure(contrast: Contrast, metric: Metric, runs: Runs) -> Part:
    by_method = []
    missing = []
    for method, _ in contrast.weights:
        found = {
            run.seed: value
            for run in runs.get(method, [])
            if run.seed is not None and (value := metric.value(run)) is not None
        }
        by_method.append(found)
        if not found:
            missing.append(method)
    seeds = sorted(set.intersection(*(set(found) for found in by_method)))
    values = tuple(
        sum(weight * found[seed] for (_, weight), found in zip(contrast.weights, by_method, strict=True))
        for seed in seeds
    )
    return Part(contrast, values, tuple(missing))


def _contrasts(claim: Claim, table: Table) -> list[Contrast]:
    if claim.kind == "above":
        assert claim.method is not None
        assert claim.than is not None
        return [_difference(claim.method, claim.than, table)]
    if claim.kind == "above_others":
        assert claim.method is not None
        others = [method for method in table.rows.values() if method != claim.method]
        return [_difference(claim.method, other, table) for other in others]
    if claim.kind == "mask":
        return _mask_contrast(table)
    sweep = [(row_number(label), method) for label, method in table.rows.items() if not label.endswith(BARE)]
    if len(sweep) < 3:
        return []
    return _sweep_contrasts(claim, sweep)


def _difference(method: str, than: str, table: Table) -> Contrast:
    names = {name: label for label, name in table.rows.items()}
    label = " − ".join(_quoted(names.get(name, name)) for name in (method, than))
    return Contrast(label, ((method, 1.0), (than, -1.0)))


def _quoted(label: str) -> str:
    return f"“{label}”" if " " in label else label


def _mask_contrast(table: Table) -> list[Contrast]:
    pairs = [
        (label, table.rows[label.replace(BARE, "mask")], method)
        for label, method in table.rows.items()
        if label.endswith(BARE) and label.replace(BARE, "mask") in table.rows
    ]
    if not pairs:
        return []
    share = 1 / len(pairs)
    numbers = ", ".join(str(row_number(label)) for label, _, _ in pairs)
    weights = [pair for _, masked, bare in pairs for pair in ((masked, share), (bare, -share))]
    return [Contrast(f"mask − no mask, mean over {numbers} corner tokens", tuple(weights))]


def _sweep_contrasts(claim: Claim, sweep: Sequence[tuple[int, str]]) -> list[Contrast]:
    (first, low), (middle, half), (last, high) = sweep[0], sweep[len(sweep) // 2], sweep[-1]
    unit = _X_UNITS.get(claim.table, "")
    if claim.kind == "rises":
        return [Contrast(f"{last} − {first} {unit}s", ((high, 1.0), (low, -1.0)))]
    before, after = 1 / (middle - first), 1 / (last - middle)
    if claim.kind == "still_rises":
        label = f"slope from {middle} to {last} − half the slope from {first} to {middle}"
        weights = ((high, after), (half, -after - before / 2), (low, before / 2))
        return [Contrast(label, weights, unit)]
    gain = Contrast(f"{middle} − {first} {unit}s", ((half, 1.0), (low, -1.0)))  # what falls ever faster gains nothing
    slopes = Contrast(
        f"slope from {first} to {middle} − slope from {middle} to {last}",
        ((half, before + after), (low, -before), (high, -after)),
        unit=unit,
    )
    return [gain, slopes]
