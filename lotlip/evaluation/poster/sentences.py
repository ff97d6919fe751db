"""What the numbers say, in sentences: claims with their verdicts, and what an interval covers."""

from collections.abc import Mapping, Sequence

from lotlip.evaluation.poster.claims import VERDICTS, Finding, Part
from lotlip.evaluation.poster.runs import Runs
from lotlip.evaluation.public_sets import PUBLIC_SETS
from lotlip.evaluation.tables import half_interval


def finding_line(finding: Finding) -> str:
    """A list item: verdict, claim, and the numbers it rests on."""
    head = f"- **{finding.verdict.capitalize()}**: {finding.says}"
    if finding.metric is None:
        return f"{head} No run was evaluated on a set of this kind."
    if not finding.parts:
        return f"{head} The table has too few rows for it."
    unit = finding.metric.unit
    return f"{head} " + "; ".join(_part(part, unit) for part in finding.parts) + "."


def counts_line(findings: Sequence[Finding]) -> str:
    """How many claims have which verdict."""
    counts = {verdict: sum(finding.verdict == verdict for finding in findings) for verdict in VERDICTS}
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items())


def intervals_note(evalsets: Mapping[str, set[str]], runs: Runs) -> str:
    """What ± covers on the evaluation sets of these runs."""
    by_size: dict[int, list[str]] = {}
    for evalset in evalsets:
        metrics = next(run.evaluate[evalset] for group in runs.values() for run in group if evalset in run.evaluate)
        if "images" in metrics:
            by_size.setdefault(int(metrics["images"]), []).append(evalset)
    sizes = [
        f"{half_interval(count):.1f} points on {', '.join(names)} ({count:,} images)"
        for count, names in by_size.items()
    ]
    draw = (
        " It does not cover the draw of the evaluation sets, which are the same for all runs: that alone makes a share "
        f"of answers uncertain by up to {'; '.join(sizes)}, at 95% and one query an image."
        if sizes
        else ""
    )
    return (
        "R@1 and top-1 in percent, a tie counts against the model; best means are bold. Mean over training seeds ± "
        "half of its 95% interval (Student t), which covers what changes with the seed: first weights, order and draws "
        f"of the training data. One seed gives no interval.{draw}"
    )


def parts_note(evalsets: Mapping[str, set[str]], runs: Runs) -> str:
    """Which of the published sets were evaluated on in part; empty where none was."""
    parts = []
    for evalset in evalsets:
        metrics = next(run.evaluate[evalset] for group in runs.values() for run in group if evalset in run.evaluate)
        whole = PUBLIC_SETS[evalset].num_images if evalset in PUBLIC_SETS else None
        if whole is not None and metrics.get("images", whole) != whole:
            parts.append(f"{evalset} ({metrics['images']:,} of {whole:,} images)")
    if not parts:
        return ""
    return f"**Only parts of published sets, not to be compared with published numbers: {', '.join(parts)}.**"


RULES = (
    "A claim is a difference between methods, taken seed by seed. It is *reproduced* where the 95% interval of its "
    "mean over seeds (Student t) lies above 0, or above the threshold it names, for each of its parts; *not "
    "reproduced* where the interval of a part lies at or below it (with several parts, at an error of 5% shared among "
    "them); else *undecided*, as it is with one seed. The intervals cover training seeds, not the draw of the "
    "evaluation sets, and claims are not corrected for being many."
)


def _part(part: Part, unit: str) -> str:
    label = part.contrast.label
    if part.missing:
        return f"{label}: not run ({', '.join(f'`{method}`' for method in part.missing)})"
    found = part.estimate
    if found is None:
        return f"{label}: no seed that all of them have"
    per = f" per {part.contrast.unit}" if part.contrast.unit else ""
    digits = _decimals(max(abs(found.mean), found.half or 0.0))
    if found.half is None:
        return f"{label} = {_signed(found.mean, digits)} {unit}{per} (1 seed, so no interval)"
    return f"{label} = {_signed(found.mean, digits)} ± {found.half:.{digits}f} {unit}{per} ({found.num_seeds} seeds)"


def _signed(value: float, digits: int) -> str:
    return f"{round(value, digits) or 0.0:+.{digits}f}".replace("-", "−")


def _decimals(size: float) -> int:
    return 1 if size >= 1 or size == 0 else 2 if size >= 0.1 else 3
