"""Joining and drawing: counts by hand, and what holds for every draw."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotlip.data.loading.samples import Sample, TextRecipe, draw_texts, is_held_out, join_samples
from lotlip.data.tables import Row
from lotlip.errors import DataError
from lotlip.text.subcaptions import split_sub_captions
from tests.data.folders import image_folder, image_row, long_row, sidecar

RUN_OF_3 = TextRecipe(num_long=1, run_length=3)
KEYS = [f"key{i:03d}" for i in range(400)]


def test_join_drops_and_counts_what_is_rejected(tmp_path: Path) -> None:
    lost = Row("lost", "http://a", "failed_to_download", "HTTP 404", "A lost one.")
    images = image_folder(
        tmp_path / "i",
        {
            "s-00000": [image_row("a", "raw a"), lost, image_row("b"), image_row("c")],
            "s-00001": [image_row("d")],
        },
    )
    one = {"s-00000": [long_row(k, f"one {k}") for k in "abc"], "s-00001": [long_row("d", "", "empty")]}
    two = {"s-00000": [long_row("a", "two a"), long_row("b", "two b"), long_row("c", "  ")], "s-00001": []}
    captions = {
        "one": sidecar(tmp_path / "one", "captions", images, one),
        "two": sidecar(tmp_path / "two", "captions", images, two),
    }
    rejected = [
        {"key": "b", "subject": "image", "reason": "too small"},
        {"key": "b", "subject": "image", "reason": "too long"},
        {"key": "c", "subject": "raw", "reason": "empty"},
        {"key": "a", "subject": "two", "reason": "repeats"},
    ]
    quarantine = sidecar(tmp_path / "q", "quarantine", images, {"s-00000": rejected})
    samples, counts = join_samples([images], captions, quarantine)
    assert samples == [Sample("s-00000", "a", "raw a", ("one a",)), Sample("s-00001", "d", "A dog.", ())]
    assert counts == {
        "images": 4,
        "held_out": 0,
        "held_out_twins": 0,
        "rejected_image": 1,
        "rejected_raw": 1,
        "rejected_long": 1,
        "failed_long": 2,
        "long_texts": 1,
        "rewrites": 0,
        "without_long": 1,
        "samples": 2,
    }


def test_held_out_samples_and_their_twins_stay_away(tmp_path: Path) -> None:
    held = next(key for key in KEYS if is_held_out(key, 0.3))
    free = [key for key in KEYS if not is_held_out(key, 0.3)][:2]
    rows = [image_row(held, sha256="same"), image_row(free[0], sha256="same"), image_row(free[1])]
    images = [
        image_folder(tmp_path / "s", {"s-00000": rows}),
        image_folder(tmp_path / "t", {"t-00000": rows}),
    ]
    samples, counts = join_samples(images, {}, held_out={"s": 0.3})
    assert [(sample.shard, sample.key) for sample in samples] == [("s-00000", free[1]), ("t-00000", free[1])]
    assert (counts["images"], counts["held_out"], counts["held_out_twins"]) == (6, 1, 3)


def test_sidecars_of_other_images_are_refused(tmp_path: Path) -> None:
    before = image_folder(tmp_path / "a", {"s-00000": [image_row("a")]})
    captions = sidecar(tmp_path / "c", "captions", before, {})
    now = image_folder(tmp_path / "b", {"s-00000": [image_row("b")]})
    with pytest.raises(DataError, match="made from other images"):
        join_samples([now], {"c": captions})
    other = image_folder(tmp_path / "d", {"t-00000": [image_row("a")]})
    with pytest.raises(DataError, match="no shard 't-00000'"):
        join_samples([other], {"c": captions})


def test_a_changed_table_is_refused(tmp_path: Path) -> None:
    images = image_folder(tmp_path / "a", {"s-00000": [image_row("a")]})
    path = tmp_path / "a" / "s-00000.parquet"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(DataError, match="another sha256"):
        join_samples([images], {})


def test_held_out_share_is_met_and_nested() -> None:
    small, large = ({key for key in KEYS if is_held_out(key, share)} for share in (0.1, 0.25))
    assert small < large
    assert 20 <= len(small) <= 60
    assert 75 <= len(large) <= 125
    assert not any(is_held_out(key, 0.0) for key in KEYS)
    assert all(is_held_out(key, 1.0) for key in KEYS)


LONG = st.lists(st.sampled_from(["p", "q", "r", "s"]), max_size=6).map(". ".join)
SAMPLES = st.builds(
    Sample,
    st.just("s-00000"),
    st.sampled_from(KEYS[:9]),
    st.just("raw. caption"),
    st.lists(LONG, max_size=3).map(tuple),
)


@given(SAMPLES, st.integers(0, 4), st.integers(1, 4), st.integers(0, 3), st.integers(0, 3))
def test_draws_are_runs_of_the_pool(sample: Sample, num_long: int, run_length: int, seed: int, epoch: int) -> None:
    recipe = TextRecipe(num_long=num_long, run_length=run_length)
    texts = draw_texts(sample, recipe, seed, epoch)
    assert texts == draw_texts(sample, recipe, seed, epoch)
    assert len(texts) == 1 + num_long
    assert texts[0] == sample.raw
    pools = [pieces for text in sample.long if (pieces := split_sub_captions(text))]
    for text in texts[1:]:
        run = split_sub_captions(text)
        if not pools:
            assert text == sample.raw
            continue
        assert any(
            run == pieces[i : i + run_length] for pieces in pools for i in range(max(1, len(pieces) - run_length + 1))
        )


def test_draws_change_with_key_seed_and_epoch_and_reach_every_run_equally() -> None:
    sample = Sample("s-00000", "a", "raw", ("1. 2. 3. 4. 5", "6. 7. 8"))
    draws = [draw_texts(sample, RUN_OF_3, 0, epoch)[1] for epoch in range(1200)]
    expected = {"1. 2. 3": 200, "2. 3. 4": 200, "3. 4. 5": 200, "6. 7. 8": 600}  # each text half the time
    counts = {run: draws.count(run) for run in set(draws)}
    assert counts.keys() == expected.keys()
    assert all(abs(counts[run] - expected[run]) < 80 for run in expected)
    assert draws != [draw_texts(sample, RUN_OF_3, 1, epoch)[1] for epoch in range(1200)]
    other = Sample("s-00000", "b", sample.raw, sample.long)
    assert draws != [draw_texts(other, RUN_OF_3, 0, epoch)[1] for epoch in range(1200)]


def test_several_runs_come_from_different_texts_first() -> None:
    sample = Sample("s-00000", "a", "raw", ("1. 1", "2. 2", "3. 3"))
    for epoch in range(20):
        assert {text[0] for text in draw_texts(sample, TextRecipe(num_long=3, run_length=2), 0, epoch)[1:]} == {
            "1",
            "2",
            "3",
        }
