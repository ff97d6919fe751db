"""The file of runs and the plan of tables: what must not be averaged, and what does not fit."""

from pathlib import Path
from typing import Any

import pytest

from lotlip.errors import DataError, ParamsError
from lotlip.evaluation.poster.ablations import read_ablations
from lotlip.evaluation.poster.runs import Run, read_runs, record_runs
from tests.evaluation.poster.made_up_runs import PLAN, run, seeds, usual_runs, write_runs


def read(folder: Path, runs: list[dict[str, Any]]) -> Any:
    return read_runs(write_runs(folder, runs))


def test_runs_come_by_method_and_seed(tmp_path: Path) -> None:
    runs = read(tmp_path, usual_runs())
    assert [one.seed for one in runs["lotlip"]] == [0, 1, 2]
    assert runs["openai/clip"][0].train is None


def test_runs_of_other_settings_are_not_averaged(tmp_path: Path) -> None:
    changed = run("lit", 1, 40.0)
    changed["settings"]["train"] |= {"epochs": 10, "run_length": 4}
    message = r"runs of lit .*train.epochs is 20 with seed 0 and 10 with seed 1 \(also train.run_length\)"
    with pytest.raises(DataError, match=message):
        read(tmp_path, [run("lit", 0, 40.0), changed])


def test_settings_that_change_no_result_may_differ(tmp_path: Path) -> None:
    changed = run("lit", 1, 40.0)
    changed["settings"]["train"]["num_workers"] = 4
    assert len(read(tmp_path, [run("lit", 0, 40.0), changed])["lit"]) == 2


def test_a_seed_counts_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"lit has two runs of seed 0"):
        read(tmp_path, [run("lit", 0, 40.0), run("lit", 0, 41.0)])
    with pytest.raises(DataError, match="with and without a seed"):
        read(tmp_path, [run("lit", 0, 40.0), run("lit", None, 41.0)])


def test_runs_of_other_data_do_not_stand_side_by_side(tmp_path: Path) -> None:
    for where, changed in (("data/images", run("lotlip", 0, 50.0)), ("data/evalsets/long", run("clip", None, 30.0))):
        changed["data"][where] = "b2"
        with pytest.raises(
            DataError, match=rf"has other {where} than lit \(seed 0\) \(b2, [ae]1\): run the sweep again"
        ):
            read(tmp_path, [run("lit", 0, 40.0), changed])


@pytest.mark.parametrize(("evalset", "name"), [("short", None), ("short", "i2t_r1")])
def test_runs_of_other_metrics_are_not_averaged(tmp_path: Path, evalset: str, name: str | None) -> None:
    changed = run("lotlip", 1, 40.0)
    if name is None:
        del changed["evaluate"][evalset]
    else:
        del changed["evaluate"][evalset][name]
    with pytest.raises(
        DataError, match=r"lotlip have other metrics .*: only one of seed 0 and seed 1 has short\.i2t_r1"
    ):
        read(tmp_path, [run("lotlip", 0, 40.0), changed])


@pytest.mark.parametrize("value", ["x", None, float("nan")])
def test_metrics_are_numbers(tmp_path: Path, value: object) -> None:
    changed = run("lotlip", 0, 40.0)
    changed["evaluate"]["short"]["i2t_r1"] = value
    with pytest.raises(DataError, match=r"runs.jsonl, line 1 is no run \(evaluate\.short\.i2t_r1"):
        read(tmp_path, [changed])


def test_lines_that_are_no_runs(tmp_path: Path) -> None:
    path = write_runs(tmp_path, [run("lit", 0, 40.0), {"method": "lit", "sed": 1}])
    with pytest.raises(DataError, match=r"runs.jsonl, line 2 is no run \(seed: "):
        read_runs(path)
    with pytest.raises(DataError, match="make ablation"):
        read_runs(tmp_path / "none.jsonl")
    path.write_bytes(b"\xff\n")
    with pytest.raises(DataError, match=r"runs\.jsonl is not UTF-8"):
        read_runs(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("titel", "titel", None),
        ("title: Token limit", "titel: Token limit", r"tables.token_limit.titel: unknown key; did you mean 'title'"),
        ("1 no mask", "1 bare", r"tables.corner_tokens.rows: label '1 bare'; expected \"0\", \"2 mask\""),
        ("32: tokens_32", "x: tokens_32", r"tables.token_limit.rows: label 'x'; expected a number of tokens"),
        ("32: tokens_32", "12: tokens_32", r"tables.token_limit.rows: 16, 12, 128 do not ascend"),
        ("  texts:", "  text:", r"tables.text"),
        ("seeds: [0, 1, 2]", "seeds: []", "seeds"),
        ("seeds: [0, 1, 2]", "seeds: [0, 1, 0]", r"seeds: \[0, 1, 0\] has one twice"),
    ],
)
def test_plan_of_tables(tmp_path: Path, old: str, new: str, message: str | None) -> None:
    path = tmp_path / "ablations.yaml"
    path.write_text(PLAN.replace(old, new))
    if message is None:
        plan = read_ablations(path)
        assert plan.table("token_limit").rows == {"16": "tokens_16", "32": "tokens_32", "128": "lotlip"}
        with pytest.raises(ParamsError, match=r"no table 'txts'; did you mean 'texts'"):
            plan.table("txts")
        return
    with pytest.raises(ParamsError, match=message):
        read_ablations(path)


def test_seeds_helper_gives_means(tmp_path: Path) -> None:
    one = read(tmp_path, seeds("lit", [40.0]))["lit"][0]
    assert (one.evaluate["long"]["i2t_r1"], one.evaluate["long"]["t2i_r1"]) == (45.0, 35.0)


def test_a_run_takes_the_place_of_the_one_of_its_method_and_seed(tmp_path: Path) -> None:
    path = write_runs(tmp_path, [run("lotlip", 0, 80.0), run("lit", 1, 41.0)])
    new = [run("lotlip", 0, 84.0), run("lit", 0, 40.0), run("clip", None, 30.0)]
    record_runs(path, [Run.model_validate(one) for one in new])
    found = [
        (one.method, one.seed, one.evaluate["long"]["i2t_r1"]) for group in read_runs(path).values() for one in group
    ]
    assert found == [("clip", None, 35.0), ("lit", 0, 45.0), ("lit", 1, 46.0), ("lotlip", 0, 89.0)]


def test_half_a_line_is_named_and_kept(tmp_path: Path) -> None:
    path = write_runs(tmp_path, [run("lit", 0, 40.0)])
    with path.open("a") as file:
        file.write('{"method": "li')
    before = path.read_text()
    with pytest.raises(DataError, match=r"runs\.jsonl, line 2 is no run .*take it out"):
        record_runs(path, [Run.model_validate(run("lit", 1, 41.0))])
    assert path.read_text() == before
