"""The table of samples: what goes in comes out, row by row from a mapped file, and no damage goes unseen."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lotlip.data.loading.sample_table import SampleTable, write_table
from lotlip.data.loading.samples import Sample
from lotlip.errors import DataError

TEXT = st.text(max_size=8)  # no half of a surrogate pair, as in any UTF-8 file
TEXTS = st.lists(TEXT, max_size=3).map(tuple)
SHARDS = st.lists(st.lists(st.tuples(TEXT, TEXT, TEXTS, TEXTS), max_size=5), max_size=4)
THREE = [
    Sample("a-00000", "é1", "A dog.", ("Öne. Two.", "Three."), ("Rewritten.",)),
    Sample("a-00000", "2", "", ()),
    Sample("b-00007", "3", "A cat.", ("Four.",), ("", "x")),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_table(tmp_path, [THREE[:2], [], THREE[2:]], Counter(images=5))
    return tmp_path


@given(SHARDS)
@settings(deadline=None)
def test_what_goes_in_comes_out(shards: list[list[tuple]]) -> None:
    samples = [Sample(f"s-{number:05d}", *values) for number, rows in enumerate(shards) for values in rows]
    table = SampleTable.from_samples(samples)
    assert len(table) == len(samples)
    assert list(table) == samples
    assert [table[i] for i in range(len(samples))] == samples
    order = np.random.default_rng(0).integers(0, max(1, len(samples)), 2 * len(samples))
    assert table.take(order) == [samples[i] for i in order]
    sizes = Counter(sample.shard for sample in samples)
    assert list(table.shards.items()) == list(sizes.items())
    names = list(sizes)
    assert [names[number] for number in table.shard_of(np.arange(len(samples)))] == [s.shard for s in samples]
    keys = [key for number in range(len(names)) for key in table.keys(number)]
    assert keys == [sample.key for sample in samples]


def test_a_table_by_hand(folder: Path) -> None:
    table = SampleTable.open(folder)
    assert list(table) == list(SampleTable.from_samples(THREE)) == THREE
    assert table.shards == {"a-00000": 2, "b-00007": 1}
    assert table.starts.tolist() == [0, 2, 3]
    assert table.counts == {"images": 5, "samples": 3, "without_long": 1, "without_rewrite": 1}
    lines = [json.dumps([s.shard, s.key, s.raw, s.long, s.rewrites]) for s in THREE]
    assert table.texts_hash == hashlib.sha256("".join(lines).encode()).hexdigest()
    assert table.texts_hash == SampleTable.from_samples(THREE).texts_hash


def test_others_can_read_the_file(folder: Path) -> None:
    found = pa.ipc.open_file(str(folder / "samples.arrow")).read_all()
    found.validate(full=True)
    assert found["key"].to_pylist() == ["é1", "2", "3"]
    assert found["texts"].to_pylist()[0] == ["A dog.", "Öne. Two.", "Three.", "Rewritten."]
    assert found["num_long"].to_pylist() == [2, 0, 1]


def test_the_file_is_mapped(folder: Path) -> None:
    table = SampleTable.open(folder)
    assert str(folder / "samples.arrow") in Path("/proc/self/maps").read_text()
    assert table[2] == THREE[2]


@pytest.mark.parametrize("index", [-1, 3, 10**12])
def test_there_is_no_such_sample(folder: Path, index: int) -> None:
    table = SampleTable.open(folder)
    with pytest.raises(IndexError, match=rf"{index} of 3"):
        table[index]
    with pytest.raises(IndexError, match="of 3"):
        table.take(np.array([0, index]))


def test_samples_of_a_shard_follow_each_other() -> None:
    with pytest.raises(DataError, match="Samples of shard 'a-00000' come in two places"):
        SampleTable.from_samples([*THREE, THREE[0]])


def test_no_flipped_bit_gives_another_sample(folder: Path) -> None:
    path = folder / "samples.arrow"
    whole = path.read_bytes()
    outcomes: Counter[str] = Counter()
    for at in range(len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 1 << at % 8
        path.write_bytes(damaged)
        try:
            assert list(SampleTable.open(folder)) == THREE, at
            outcomes["of no meaning"] += 1
        except DataError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > len(whole) / 5, "padding is of no meaning, the rest is"


def test_damage_says_what_to_do(folder: Path) -> None:
    path = folder / "samples.arrow"
    path.write_bytes(path.read_bytes().replace(b"Three", b"Threw"))
    table = SampleTable.open(folder)
    assert table.take(np.array([1, 2])) == THREE[1:]
    with pytest.raises(
        DataError, match=r"samples\.arrow is damaged: samples of shard a-00000 .*Remove the folder .*made anew"
    ):
        table[0]


def test_what_is_no_table_is_refused(folder: Path) -> None:
    path, about = folder / "samples.arrow", folder / "about.json"
    described = about.read_text()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"is damaged \(it has \d+ bytes, \d+ were written\)"):
        SampleTable.open(folder)
    path.write_bytes(bytes(path.stat().st_size + 1))
    with pytest.raises(DataError, match=r"samples\.arrow is damaged"):
        SampleTable.open(folder)
    about.write_text("[]")
    with pytest.raises(DataError, match=r"samples\.arrow is damaged"):
        SampleTable.open(folder)
    about.write_text(described)
    path.unlink()
    with pytest.raises(DataError, match=r"samples\.arrow is damaged .*No such file"):
        SampleTable.open(folder)
