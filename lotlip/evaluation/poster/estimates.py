"""Means over training seeds and their intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import fmean, stdev


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and half the width of its interval, which one seed does not have."""

    mean: float
    half: float | None
    num_seeds: int


def estimate(values: Sequence[float], error: float = 0.05) -> Estimate:
    """Mean and two-sided Student t interval of the mean, for values that are normal and independent.

    With n values and standard deviation s, half = t(1 - error / 2, n - 1) s / sqrt(n).

    Args:
        values: one a seed, at least one.
        error: 1 - confidence, in (0, 1).

    Example: 1, 2, 3 have mean 2, s = 1, t(0.975, 2) = 4.303 and half = 2.484.
    """
    num = len(values)
    if num == 1:
        return Estimate(values[0], None, 1)
    from scipy.stats import t

    half = float(t.ppf(1 - error / 2, num - 1)) * stdev(values) / sqrt(num)
    return Estimate(fmean(values), half, num)
