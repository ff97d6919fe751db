"""Duplicates against a comparison of all pairs; first rows against a dictionary."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotlip.data.duplicates import count_duplicates
from lotlip.data.near_duplicates import _MAX_PAIRS, near_groups
from lotlip.data.packing import Item, pack_shard
from lotlip.data.sources.repeats import FirstRows
from lotlip.data.tables import Row
from lotlip.records import sha256_bytes


def all_pairs(hashes: list[int], bits: int) -> list[int]:
    """Slow reference: for each hash, the first one that it is joined to."""
    group = list(range(len(hashes)))
    for i, one in enumerate(hashes):
        for j in range(i):
            if (one ^ hashes[j]).bit_count() <= bits and group[i] != group[j]:
                old, new = max(group[i], group[j]), min(group[i], group[j])
                group = [new if number == old else number for number in group]
    return group


def partition(labels: list[int]) -> list[int]:
    first: dict[int, int] = {}
    return [first.setdefault(label, index) for index, label in enumerate(labels)]


@pytest.mark.parametrize("bits", [0, 1, 3, 4, 8])
@pytest.mark.parametrize("seed", range(3))
def test_near_groups_are_those_of_all_pairs(bits: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    hashes = [int(value) for value in rng.integers(0, 2**64, 60, dtype=np.uint64)]
    for _ in range(200):  # copies with some bits flipped, chains included
        copy = hashes[rng.integers(len(hashes))]
        for place in rng.integers(0, 64, rng.integers(0, 2 * bits + 2)):
            copy ^= 1 << int(place)
        hashes.append(copy)
    found = near_groups(np.array(hashes, dtype=np.uint64), bits)
    assert partition(found.tolist()) == partition(all_pairs(hashes, bits))


def test_many_near_hashes_need_no_memory_for_their_pairs() -> None:
    near = np.array([1 << place for place in range(20)], dtype=np.uint64)
    hashes = np.unique(np.bitwise_or.outer(np.bitwise_or.outer(near, near), near))
    assert len(hashes) ** 2 > _MAX_PAIRS
    assert len(set(near_groups(hashes, 4).tolist())) == 1
    assert near_groups(np.zeros(0, dtype=np.uint64), 4).tolist() == []


def test_the_report_counts_over_all_shards(tmp_path) -> None:  # type: ignore[no-untyped-def]
    content = ["a", "b", "a", "c", "b", "a"]
    hashes = [0, 2**64 - 1, 0, 0b111, 2**64 - 1, 0]
    rows = [
        Row(f"k{i}", None, "success", None, "c", 1, 1, sha256_bytes(text.encode()), f"{phash:016x}")
        for i, (text, phash) in enumerate(zip(content, hashes, strict=True))
    ]
    failed = Row("k9", None, "failed_to_download", "timeout")
    parts = ([*rows[:2], failed], rows[2:], [failed])
    shards = [pack_shard(tmp_path, f"s{i}", [Item(row, b"x", "jpg") for row in part]) for i, part in enumerate(parts)]
    assert count_duplicates(tmp_path, shards, 4) == {
        "exact": 3,
        "near": 4,
        "near_bits": 4,
        "largest": [{"images": 4, "keys": ["k0", "k2", "k3", "k5"]}, {"images": 2, "keys": ["k1", "k4"]}],
    }
    assert count_duplicates(tmp_path, shards, 2)["near"] == 3


@given(st.lists(st.integers(0, 2**80 - 1) | st.integers(0, 5)))
def test_first_rows_are_those_of_a_dictionary(keys: list[int]) -> None:
    rows, expected = FirstRows(), {}
    for number, key in enumerate(keys, start=1):
        assert rows.add(key.to_bytes(10), number) == expected.setdefault(key, number)
    assert len(rows) == len(expected)


def test_first_rows_of_a_growing_table() -> None:
    rows = FirstRows()
    keys = [bytes.fromhex(sha256_bytes(b"%d" % (number % 7000)))[:10] for number in range(9000)]
    assert [rows.add(key, number) for number, key in enumerate(keys, start=1)] == [
        *range(1, 7001),
        *range(1, 2001),
    ]
