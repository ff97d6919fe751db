"""Near-equal hashes: exactly the pairs that comparing all finds."""

import numpy as np
import pytest

from lotlip.data import near_duplicates
from lotlip.data.near_duplicates import near_pairs, parse_hashes

Pairs = set[tuple[int, int, int]]


def found(queries: np.ndarray, references: np.ndarray, max_distance: int) -> Pairs:
    pairs = list(zip(*(column.tolist() for column in near_pairs(queries, references, max_distance)), strict=True))
    assert pairs == sorted(set(pairs)), "in order, each once"
    return set(pairs)


def brute_force(queries: np.ndarray, references: np.ndarray, max_distance: int) -> Pairs:
    """By the bits of Python's integers."""
    distances = {
        (i, j, (one ^ other).bit_count())
        for i, one in enumerate(queries.tolist())
        for j, other in enumerate(references.tolist())
    }
    return {pair for pair in distances if pair[2] <= max_distance}


@pytest.mark.parametrize("max_distance", [0, 1, 2, 3, 5, 8, 16])
def test_equal_to_comparing_all_pairs(max_distance: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "_AT_ONCE", 70)  # several rounds
    rng = np.random.default_rng(max_distance)
    references = rng.integers(0, 2**64, 120, dtype=np.uint64)
    copies = references[rng.integers(0, 120, 200)]
    for flips in range(max_distance + 2):  # at the limit, inside and just outside, anywhere in the 64 bits
        bits = [rng.permutation(64)[:flips] for _ in copies]
        masks = np.array([sum(1 << int(bit) for bit in one) for one in bits], dtype=np.uint64)
        queries = copies ^ masks
        expected = brute_force(queries, references, max_distance)
        assert expected or flips > max_distance
        assert found(queries, references, max_distance) == expected


def test_by_hand() -> None:
    queries = parse_hashes(["0000000000000000", "ffffffffffffffff", "8000000000000001"])
    references = parse_hashes(["0000000000000003", "0000000000000000"])
    assert found(queries, references, 2) == {(0, 0, 2), (0, 1, 0), (2, 0, 2), (2, 1, 2)}


def test_nothing_against_nothing() -> None:
    none, some = parse_hashes([]), parse_hashes(["0" * 16])
    assert found(none, some, 3) == found(some, none, 3) == found(none, none, 3) == set()
