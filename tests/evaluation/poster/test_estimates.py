"""Means and Student's intervals, against a printed table of t and scipy's own interval."""

import pytest
from scipy import stats

from lotlip.evaluation.poster.estimates import estimate


def test_interval_by_hand() -> None:
    """1, 2, 3: mean 2, s 1, t(0.975, 2) = 4.3027 of the table, by sqrt(3): 2.4841."""
    found = estimate([1.0, 2.0, 3.0])
    assert (found.mean, found.num_seeds) == (2.0, 3)
    assert found.half == pytest.approx(2.4841, abs=1e-4)


@pytest.mark.parametrize(("num", "quantile"), [(2, 12.7062), (4, 3.1824), (5, 2.7764), (10, 2.2622)])
def test_quantiles_are_those_of_the_table(num: int, quantile: float) -> None:
    values = [0.0] * (num - 1) + [float(num)]  # mean 1, s = sqrt(num), so half is the quantile
    assert estimate(values).half == pytest.approx(quantile, abs=1e-4)


def test_other_errors_equal_scipys_interval() -> None:
    values = [3.1, 2.7, 3.9, 3.3]
    low, high = stats.t.interval(0.99, 3, loc=stats.tmean(values), scale=stats.sem(values))
    found = estimate(values, error=0.01)
    assert found.half is not None
    assert (found.mean - found.half, found.mean + found.half) == pytest.approx((low, high))


def test_one_seed_has_no_interval_and_equal_seeds_an_empty_one() -> None:
    assert estimate([5.0]).half is None
    assert estimate([5.0, 5.0]).half == 0
