"""Batches: the same for any workers and ranks, complete and disjoint, resumed at every position without a re-read."""

import random
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lotlip.data.loading.image_reader import ImageReader
from lotlip.data.loading.loader import Loader, SampleBatch
from lotlip.data.loading.order import EpochOrder
from lotlip.data.loading.pixels import PixelSource, SamplePixels
from lotlip.data.loading.sample_table import SampleTable
from lotlip.data.loading.samples import Sample
from lotlip.data.manifest import Manifest, Shard, describe_file, write_manifest
from lotlip.data.shards import write_tar
from lotlip.errors import DataError

SIZES = (7, 11, 5)  # samples of each shard
NUM = sum(SIZES)


def payload(sample: Sample) -> bytes:
    return f"{sample.shard}/{sample.key}".encode()


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[SampleTable, Manifest]:
    """Shards whose "images" are their own names; keys sort in another order than they are stored."""
    folder = tmp_path_factory.mktemp("images")
    samples = [
        Sample(f"{'ab'[number % 2]}-{number:05d}", f"k{(i * 7) % 11}-ü{number}", "", ())
        for number, size in enumerate(SIZES)
        for i in range(size)
    ]
    shards = []
    for name in dict.fromkeys(sample.shard for sample in samples):
        records = [{"__key__": s.key, "jpg": payload(s), "txt": "t"} for s in samples if s.shard == name]
        count = write_tar(folder / f"{name}.tar", records)
        shards.append(Shard(name, count, {"tar": describe_file(folder, f"{name}.tar")}))
    return SampleTable.from_samples(samples), write_manifest(folder, "images", shards)


def text_and_number(data: bytes, rng: random.Random) -> torch.Tensor:
    """The bytes of the "image" and a random number, in place of pixels."""
    return torch.tensor([*data.ljust(24), rng.getrandbits(24)], dtype=torch.float32)


def open_loader(
    stored: tuple[SampleTable, Manifest],
    folder: Path | None,
    transform: Callable[..., torch.Tensor] = text_and_number,
    order: EpochOrder | None = None,
    **changes: object,
) -> Loader:
    samples, images = stored
    order = order or EpochOrder(samples.shards, 1, "shards", 2)
    source = None
    if folder is not None:
        source = SamplePixels(samples, PixelSource(ImageReader([images], folder), transform, seed=1))
    return Loader(samples, order, **{"batch_size": 4, "num_epochs": 3, "source": source, **changes})


def content(batches: list[SampleBatch]) -> list[tuple]:
    return [
        (
            b.epoch, b.number, b.indices.tolist(), b.visits.tolist(),
            None if b.content is None else b.content.tolist(),
        )
        for b in batches
    ]  # fmt: skip


def orders(samples: SampleTable) -> list[EpochOrder]:
    shards = samples.shards
    return [
        EpochOrder(shards, 0),
        EpochOrder(shards, 0, "shards", 2),
        EpochOrder(shards, 0, "global", source_weights={"a": 3.0, "b": 1.0}),
        EpochOrder(shards, 0, "shards", 1, {"a": 1.0, "b": 3.0}),
    ]


def test_each_batch_holds_the_images_of_its_samples(stored: tuple[SampleTable, Manifest], tmp_path: Path) -> None:
    samples, _ = stored
    batches = list(open_loader(stored, tmp_path))
    assert [(b.epoch, b.number) for b in batches] == [(e, n) for e in range(3) for n in range(NUM // 4)]
    numbers = set()
    for batch in batches:
        for index, row in zip(batch.indices, batch.content, strict=True):
            assert bytes(row[:-1].to(torch.uint8).tolist()).rstrip() == payload(samples[index])
            numbers.add(row[-1].item())
    assert len(numbers) == 3 * 20, "an image's random numbers are its own at each visit"


def test_the_order_depends_on_neither_workers_nor_pixels(stored: tuple[SampleTable, Manifest], tmp_path: Path) -> None:
    for order in orders(stored[0]):
        expected = content(list(open_loader(stored, tmp_path / "a", order=order)))
        for num_workers in (1, 3):
            found = content(list(open_loader(stored, tmp_path / "b", order=order, num_workers=num_workers)))
            assert found == expected
        bare = content(list(open_loader(stored, None, order=order)))
        assert [batch[:4] for batch in bare] == [batch[:4] for batch in expected]


@pytest.mark.parametrize("world_size", [2, 3, 6])
def test_ranks_share_each_global_batch(stored: tuple[SampleTable, Manifest], tmp_path: Path, world_size: int) -> None:
    for order in orders(stored[0]):
        whole = list(open_loader(stored, tmp_path, order=order, batch_size=6))
        ranks = [
            list(open_loader(stored, tmp_path, order=order, batch_size=6, rank=rank, world_size=world_size))
            for rank in range(world_size)
        ]
        for batch, *parts in zip(whole, *ranks, strict=True):
            assert {(part.epoch, part.number) for part in parts} == {(batch.epoch, batch.number)}
            np.testing.assert_array_equal(np.concatenate([part.indices for part in parts]), batch.indices)
            assert torch.equal(torch.cat([part.content for part in parts]), batch.content)
        if not order.quotas:
            for epoch in range(3):
                seen = np.concatenate([part.indices for parts in ranks for part in parts if part.epoch == epoch])
                assert len(set(seen.tolist())) == len(seen) == NUM // 6 * 6


def test_resume_at_every_position_reads_nothing_again(stored: tuple[SampleTable, Manifest], tmp_path: Path) -> None:
    def noting(data: bytes, rng: random.Random) -> torch.Tensor:
        decoded.append(data)
        return text_and_number(data, rng)

    for order in orders(stored[0])[1:3]:
        expected = content(list(open_loader(stored, tmp_path, order=order)))
        for position in range(len(expected) + 1):
            first = open_loader(stored, tmp_path, order=order)
            batches = iter(first)
            found = [next(batches) for _ in range(position)]
            second = open_loader(stored, tmp_path, noting, order=order)
            second.load_state_dict(first.state_dict())
            decoded: list[bytes] = []
            assert content(found + list(second)) == expected
            assert len(decoded) == 4 * (len(expected) - position)
            assert second.state_dict()["epoch"] == 3


def test_what_workers_prepared_beyond_is_not_counted_as_consumed(
    stored: tuple[SampleTable, Manifest], tmp_path: Path
) -> None:
    expected = content(list(open_loader(stored, tmp_path)))
    for position in (1, 4, 6, 14):
        first = open_loader(stored, tmp_path, num_workers=2)
        batches = iter(first)
        found = [next(batches) for _ in range(position)]
        state = first.state_dict()
        assert (state["epoch"], state["batch"]) == divmod(position, NUM // 4)
        second = open_loader(stored, tmp_path, num_workers=3)
        second.load_state_dict(state)
        assert content(found + list(second)) == expected


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_any_chain_of_stops_on_any_ranks_gives_each_sample_once(
    stored: tuple[SampleTable, Manifest], data: st.DataObject
) -> None:
    """Each leg of a run has another number of ranks, stops anywhere, and goes on from the state of any rank."""
    order = data.draw(st.sampled_from(orders(stored[0])[:2]))
    expected = content(list(open_loader(stored, None, order=order, batch_size=6)))
    state, found = None, []
    while len(found) < len(expected):
        world_size = data.draw(st.sampled_from([1, 2, 3, 6]))
        stop = data.draw(st.integers(1, len(expected)))
        loaders = [
            open_loader(stored, None, order=order, batch_size=6, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        for loader in loaders:
            if state:
                loader.load_state_dict(state)
        for parts in islice(zip(*loaders, strict=True), stop):
            indices, visits = (np.concatenate([getattr(p, n) for p in parts]) for n in ("indices", "visits"))
            found.append((parts[0].epoch, parts[0].number, indices.tolist(), visits.tolist(), None))
        state = data.draw(st.sampled_from(loaders)).state_dict()
    assert found == expected


def test_a_state_of_other_data_is_refused(stored: tuple[SampleTable, Manifest]) -> None:
    state = open_loader(stored, None).state_dict()
    with pytest.raises(DataError, match=r"'batch_size': 4.* cannot be resumed with .*'batch_size': 5"):
        open_loader(stored, None, batch_size=5).load_state_dict(state)


def test_batches_that_cannot_be(stored: tuple[SampleTable, Manifest]) -> None:
    with pytest.raises(DataError, match=r"23 samples and train\.batch_size is 24"):
        open_loader(stored, None, batch_size=24)
    with pytest.raises(DataError, match=r"3 processes cannot share train\.batch_size 4"):
        open_loader(stored, None, world_size=3)


def test_the_loader_draws_none_of_the_random_numbers_of_training(
    stored: tuple[SampleTable, Manifest], tmp_path: Path
) -> None:
    for num_workers in (0, 1):
        torch.manual_seed(0)
        expected = torch.rand(3)
        torch.manual_seed(0)
        next(iter(open_loader(stored, tmp_path, num_workers=num_workers)))
        assert torch.equal(torch.rand(3), expected)


def refuse(data: bytes, rng: random.Random) -> torch.Tensor:
    raise DataError("damaged image: it ends early")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_damaged_image_names_shard_and_key(
    stored: tuple[SampleTable, Manifest], tmp_path: Path, num_workers: int
) -> None:
    loader = open_loader(stored, tmp_path, refuse, num_workers=num_workers)
    with pytest.raises(DataError, match=r"^Image k\d+-ü\d of .*\d\.tar: damaged image: it ends early\. Run `dvc repro"):
        next(iter(loader))
    assert loader.state_dict()["batch"] == 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="copies to a GPU")
@pytest.mark.parametrize("num_workers", [0, 2])
def test_batches_on_a_gpu_are_those_on_the_cpu(
    stored: tuple[SampleTable, Manifest], tmp_path: Path, num_workers: int
) -> None:
    expected = content(list(open_loader(stored, tmp_path)))
    loader = open_loader(stored, tmp_path, num_workers=num_workers, device=torch.device("cuda"))
    found = []
    for number, batch in enumerate(loader, start=1):
        assert batch.content.is_cuda
        found.append(batch)
        assert loader.state_dict()["batch"] == number % (NUM // 4), "what is copied ahead is not counted"
    assert content(found) == expected
