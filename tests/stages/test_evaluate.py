"""Stage `evaluate@<method>` run on a tiny random model."""

import json
from pathlib import Path

import pytest
import yaml

from lotlip.errors import DataError, ModelError, ParamsError
from stages import evalset, evaluate
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
    counts = {"tied_queries", "images", "texts", "truncated_text_share", "truncated_token_share"}
    assert set(report["long"]) == set(report["short"]) == ways | counts
    assert set(report["classes"]) == {
        "top1",
        "top5",
        "tied_queries",
        "images",
        "classes",
        "truncated_text_share",
        "truncated_token_share",
    }
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
