"""The order of an epoch: what holds for every order by hypothesis, and the quality of the mix against closed forms."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotlip.data.loading.order import EpochOrder
from lotlip.errors import DataError


def shards_of(sizes: list[int], source: str = "s") -> dict[str, int]:
    return {f"{source}-{number:05d}": size for number, size in enumerate(sizes)}


SIZES = st.lists(st.integers(0, 9), max_size=8)
KINDS = st.sampled_from(["global", "shards"])


@given(SIZES, KINDS, st.integers(1, 10), st.integers(0, 5), st.integers(0, 5))
def test_an_epoch_is_each_sample_once_and_follows_from_its_arguments(
    sizes: list[int], kind: str, window: int, seed: int, epoch: int
) -> None:
    shards, total = shards_of(sizes), sum(sizes)
    if not total:
        return
    draws = EpochOrder(shards, seed, kind, window).epoch(epoch)
    assert sorted(draws.indices.tolist()) == list(range(total))
    assert set(draws.visits.tolist()) == {epoch}
    again = EpochOrder(shards, seed, kind, window).epoch(epoch)
    np.testing.assert_array_equal(again.indices, draws.indices)


def test_the_global_order_is_that_of_earlier_versions() -> None:
    expected = np.random.default_rng([3, 5]).permutation(40)
    np.testing.assert_array_equal(EpochOrder({"s-00000": 40}, 3).epoch(5).indices, expected)


@pytest.mark.parametrize("kind", ["global", "shards"])
def test_epochs_and_seeds_have_orders_of_their_own(kind: str) -> None:
    shards = shards_of([10] * 5)
    orders = {
        tuple(EpochOrder(shards, seed, kind, 2).epoch(epoch).indices.tolist())
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


@pytest.mark.parametrize(("num_shards", "window"), [(40, 8), (40, 1), (5, 8), (9, 9)])
def test_few_shards_are_open_at_a_time(num_shards: int, window: int) -> None:
    """A shard is read in one stretch of the circle; so many stretches overlap at any time."""
    shards = shards_of([100] * num_shards)
    order = EpochOrder(shards, 0, "shards", window).epoch(0).indices
    shard = order // 100
    num_open = np.zeros(len(order), int)
    num_stretches = 0
    for number in range(num_shards):
        places = np.flatnonzero(shard == number)
        gaps = np.diff(places)
        cut = int(np.argmax(gaps))
        stretches = [places]
        if window < num_shards and gaps[cut] > len(order) // 2:  # it lies across the seam
            stretches = [places[: cut + 1], places[cut + 1 :]]
        num_stretches += len(stretches)
        for stretch in stretches:
            num_open[stretch[0] : stretch[-1] + 1] += 1
    assert num_open.max() <= min(window, num_shards)
    assert num_stretches <= num_shards + window - 1


def test_the_mix_of_a_window_is_what_theory_says() -> None:
    """Shares and distances over 60 shards of 500: neighbours in the tars, and neighbours in the order."""
    size, num_shards, window = 500, 60, 12
    num_samples, shards = size * num_shards, shards_of([size] * num_shards)

    def measure(order: np.ndarray) -> dict[str, float]:
        place = np.empty(len(order), int)
        place[order] = np.arange(len(order))
        distance = np.abs(np.diff(place.reshape(num_shards, size), axis=1))
        distance = np.minimum(distance, num_samples - distance)  # on the circle
        batches = (order // size)[: num_samples // 256 * 256].reshape(-1, 256)
        return {
            "same_shard": np.mean(np.diff(order // size) == 0),
            "distance": distance.mean() / num_samples,
            "shards_a_batch": np.mean([len(np.unique(batch)) for batch in batches]),
            "first_batch": len(np.unique(batches[0])),
        }

    found = {
        kind: measure(EpochOrder(shards, 1, kind, window).epoch(0).indices) for kind in ("global", "shards")
    }  # fmt: skip
    assert found["global"]["same_shard"] == pytest.approx(1 / num_shards, rel=0.1)
    assert found["shards"]["same_shard"] == pytest.approx(1 / window, rel=0.05)
    assert found["global"]["distance"] == pytest.approx(1 / 4, rel=0.02)  # of two points on a circle
    assert found["shards"]["distance"] == pytest.approx(window / num_shards / 3, rel=0.02)  # in an interval
    assert found["shards"]["shards_a_batch"] == pytest.approx(window, rel=0.1)
    assert found["shards"]["first_batch"] >= window - 1, "as good at the start as anywhere"


def test_a_window_of_all_shards_mixes_as_the_global_order() -> None:
    shards = shards_of([200] * 10)
    order = EpochOrder(shards, 0, "shards", 10).epoch(0).indices
    assert np.mean(np.diff(order // 200) == 0) == pytest.approx(1 / 10, abs=0.02)
    assert abs(np.corrcoef(order, np.arange(len(order)))[0, 1]) < 0.06


TWO = st.tuples(
    st.lists(st.integers(1, 9), min_size=1, max_size=4), st.lists(st.integers(1, 9), min_size=1, max_size=4)
)
WEIGHT = st.floats(0.05, 20.0)


@given(TWO, WEIGHT, WEIGHT, KINDS, st.integers(0, 3))
def test_weights_are_met_exactly_and_no_sample_is_ahead_of_another(
    sizes: tuple[list[int], list[int]], weight_a: float, weight_b: float, kind: str, seed: int
) -> None:
    shards = {**shards_of(sizes[0], "a"), **shards_of(sizes[1], "b")}
    num_a, total = sum(sizes[0]), sum(shards.values())
    order = EpochOrder(shards, seed, kind, 2, {"b": weight_b, "a": weight_a})
    exact = total * weight_a / (weight_a + weight_b)
    counts = np.zeros(total, int)
    for epoch in range(4):
        draws = order.epoch(epoch)
        assert len(draws.indices) == total
        assert abs(np.sum(draws.indices < num_a) - exact) <= 1
        for index, visit in zip(draws.indices, draws.visits, strict=True):
            counts[index] = max(counts[index], visit + 1)
        drawn = np.bincount(np.concatenate([order.epoch(e).indices for e in range(epoch + 1)]), minlength=total)
        np.testing.assert_array_equal(drawn, counts)  # every visit has a number of its own, without a gap
        for of_source in (drawn[:num_a], drawn[num_a:]):
            assert of_source.max() - of_source.min() <= 1


def test_quotas_by_hand() -> None:
    shards = {**shards_of([6], "cc3m"), **shards_of([4], "sample")}
    assert EpochOrder(shards, 0, source_weights={"cc3m": 1.0, "sample": 2.0}).quotas == {"cc3m": 3, "sample": 7}
    equal = {**shards_of([1], "a"), **shards_of([1], "b"), **shards_of([2], "c")}
    assert EpochOrder(equal, 0, source_weights=dict.fromkeys("abc", 1.0)).quotas == {"a": 2, "b": 1, "c": 1}


def test_a_source_of_small_weight_reads_few_of_its_shards() -> None:
    shards = {**shards_of([100] * 50, "big"), **shards_of([100] * 2, "small")}
    weights = {"big": 1.0, "small": 9.0}
    used = {
        kind: len({i // 100 for i in EpochOrder(shards, 0, kind, 8, weights).epoch(0).indices if i < 5000})
        for kind in ("global", "shards")
    }
    assert used == {"global": 50, "shards": 6}  # 520 samples


def test_weights_of_other_sources_are_refused() -> None:
    with pytest.raises(DataError, match="names cc3m, other, and there are samples of cc3m"):
        EpochOrder({"cc3m-00000": 1}, 0, source_weights={"cc3m": 1.0, "other": 1.0})
