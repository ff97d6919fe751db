"""Drawing: what holds for every draw, and who is held out."""

from hypothesis import given
from hypothesis import strategies as st

from lotlip.data.loading.samples import Sample, TextRecipe, draw_texts, is_held_out
from lotlip.text.subcaptions import split_sub_captions

RUN_OF_3 = TextRecipe(num_long=1, run_length=3)
KEYS = [f"key{i:03d}" for i in range(400)]


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
