"""Stages `evaluate@<method>` and `evaluate_checkpoint@<name>` on tiny random models and on the sample's own judge."""

import json
from pathlib import Path

import pytest
import yaml

from lotlip.errors import DataError, ModelError, ParamsError
from lotlip.evaluation.results import read_results
from lotlip.evaluation.tables import comparison
from lotlip.params import load_params
from stages import evalset, evaluate, evaluate_checkpoint
from tests.evaluation.made_up_reports import write_reports
from tests.evaluation.tiny_foreign import save_foreign
from tests.evaluation.tiny_model import save_tiny_model

TOP = Path(__file__).parents[2]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with params.yaml and three small evaluation sets."""
    params = yaml.safe_load((TOP / "params.yaml").read_text())
    for settings in params["evalsets"].values():
        settings["num_images"] = 6
    params["evaluate"]["device"] = "cpu"
    params["validate"]["tokenizer"] = str(TOP / params["validate"]["tokenizer"])
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    for name in params["evalsets"]:
        evalset.main(name)
    return tmp_path


def test_reports_every_set_the_same_each_time(workspace: Path) -> None:
    save_tiny_model(workspace / "models" / "lit")
    evaluate.main("lit")
    path = workspace / "reports" / "evaluate" / "lit.json"
    first = path.read_bytes()
    report = json.loads(first)
    assert list(report) == ["long", "short", "classes"]
    ways = {f"{way}_{rank}" for way in ("i2t", "t2i") for rank in ("r1", "r5", "r10", "median_rank")}
    of_texts = {"truncated_text_share", "truncated_token_share", "tokens_per_text", "text_flops_per_text"}
    assert set(report["long"]) == set(report["short"]) == ways | of_texts | {"tied_queries", "images", "texts"}
    assert set(report["classes"]) == of_texts | {"top1", "top5", "tied_queries", "images", "classes"}
    assert (report["short"]["images"], report["short"]["texts"], report["classes"]["classes"]) == (6, 30, 64)
    assert report["long"]["t2i_r10"] == 100
    evaluate.main("lit")
    assert path.read_bytes() == first


def test_missing_model_and_unknown_method_and_missing_set(workspace: Path) -> None:
    with pytest.raises(ModelError, match="dvc repro train@lotlip"):
        evaluate.main("lotlip")
    with pytest.raises(ParamsError, match=r"'lotlipp'.*lotlip"):
        evaluate.main("lotlipp")
    (workspace / "data" / "evalsets" / "short" / "set.json").unlink()
    with pytest.raises(DataError, match=r"short/set\.json is missing"):
        evaluate.main("lotlip")


@pytest.fixture
def checkpoints(workspace: Path) -> Path:
    """The workspace with a tiny CLIP, the sample's judge, and a model that is not there as checkpoints."""
    params = yaml.safe_load((workspace / "params.yaml").read_text())
    params["checkpoints"] = {
        "tiny_clip": {"model": str(save_foreign("clip", workspace / "weights/clip"))},
        "judge": {"model": str(TOP / "lotlip/sample/weights/judge")},
        "gone": {"model": "openai/clip-vit-base-patch16"},
    }
    (workspace / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    return workspace


def test_a_checkpoint_named_as_a_method_is_told_its_stage(checkpoints: Path) -> None:
    with pytest.raises(
        ParamsError, match=r"judge is a checkpoint, not trained here: `dvc repro evaluate_checkpoint@judge`"
    ):
        evaluate.main("judge")


def test_checkpoints_become_rows_beside_the_methods(checkpoints: Path) -> None:
    write_reports(checkpoints / "reports")  # of the methods, and of all other stages
    for name in ("tiny_clip", "judge"):
        evaluate_checkpoint.main(name)
        path = checkpoints / "reports" / "evaluate" / f"{name}.json"
        first = path.read_bytes()
        evaluate_checkpoint.main(name)
        assert path.read_bytes() == first
    found = {
        name: json.loads((checkpoints / f"reports/evaluate/{name}.json").read_text()) for name in ("tiny_clip", "judge")
    }
    assert found["tiny_clip"]["long"]["truncated_text_share"] == 1
    assert found["tiny_clip"]["long"]["tokens_per_text"] == 16
    assert found["judge"]["long"]["i2t_r1"] > 50, "it was trained on such scenes; chance is 17"
    assert found["judge"]["long"]["text_flops_per_text"] > found["judge"]["short"]["text_flops_per_text"] > 0
    params = load_params()
    shown = params.model_copy(update={"checkpoints": {n: params.checkpoints[n] for n in found}})
    table = comparison(read_results(shown, checkpoints / "reports"))
    assert list(table.rows) == ["lit", "lit_long", "lotlip", "tiny_clip", "judge"]
    assert table.foreign == {"tiny_clip", "judge"}
    assert table.rows["judge"][0] == found["judge"]["long"]["i2t_r1"]


def test_a_checkpoint_that_is_not_there(checkpoints: Path) -> None:
    with pytest.raises(ModelError, match=r"openai/clip-vit-base-patch16 is no folder here.*commit, 40 digits"):
        evaluate_checkpoint.main("gone")
    with pytest.raises(ParamsError, match=r"no checkpoint 'juge'.*did you mean 'judge'"):
        evaluate_checkpoint.main("juge")
