"""`track` on a real SQLite store, read back with sqlite3 and MLflow's own loader."""

import json
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lotlip.errors import DataError
from lotlip.records import sha256_file
from lotlip.tracking import TrackSummary, default_uri, track
from tests.tracking.made_up_project import (
    SCORES,
    VALIDATION,
    curve_row,
    make_project,
    save_tiny_model,
    write,
    write_lock,
)

METHODS = ("lit", "lotlip")
SECRET = "hunter2-very-secret"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        clip = {"clip_b16": {"model": "openai/clip-vit-base-patch16", "revision": "5" * 40}}
        root = make_project(tmp_path_factory.mktemp("project"), METHODS, steps=20, checkpoints=clip)
        shutil.copy(empty_database, root)
        shutil.rmtree(root / "models" / "lotlip")
        save_tiny_model(root / "models" / "lotlip")
        params = yaml.safe_load((root / "params.yaml").read_text())
        params["train"]["image_tower"] = f"https://me:{SECRET}@host/tower"
        (root / "params.yaml").write_text(yaml.safe_dump(params))
        write_lock(root, params, METHODS)
        yield root


@pytest.fixture(scope="module")
def summary(project: Path) -> TrackSummary:
    return track(project)


def query(root: Path, sql: str, *values: Any) -> list[Any]:
    with sqlite3.connect(root / "mlflow.db") as database:
        return database.execute(sql, values).fetchall()


def run_id(root: Path, name: str) -> str:
    [(found,)] = query(root, "select run_uuid from runs where name = ?", name)
    return str(found)


def metrics(root: Path, name: str) -> dict[str, float]:
    return dict(query(root, "select key, value from latest_metrics where run_uuid = ?", run_id(root, name)))


def tags(root: Path, name: str) -> dict[str, str]:
    return dict(query(root, "select key, value from tags where run_uuid = ?", run_id(root, name)))


def snapshot(root: Path) -> dict[str, list[Any]]:
    """Every row of every table."""
    names = [name for (name,) in query(root, "select name from sqlite_master where type = 'table'")]
    return {name: sorted(map(str, query(root, f'select * from "{name}"'))) for name in names}


def test_one_parent_carries_the_state(project: Path, summary: TrackSummary) -> None:
    parent = f"pipeline {summary.state[:8]}"
    assert summary.state == sha256_file(project / "dvc.lock")
    assert tags(project, parent)["pipeline_state"] == summary.state
    children = query(
        project,
        "select name from runs join tags using (run_uuid) where key = 'mlflow.parentRunId' and value = ?",
        summary.parent_run_id,
    )
    assert {name for (name,) in children} == {
        "download@scenes", "recaption@llava", "validate", "evalset@long", "lit", "lotlip", "clip_b16",
    }  # fmt: skip
    assert "| lotlip | 47.0 |" in tags(project, parent)["mlflow.note.content"]
    assert metrics(project, parent)["lotlip/long/i2t_r1"] == SCORES["lotlip"]
    assert metrics(project, parent)["recaption/llava/tokens_per_text"] == 71.5


def test_methods_have_comparable_names(project: Path, summary: TrackSummary) -> None:
    for method, corners in (("lit", "0"), ("lotlip", "2")):
        assert metrics(project, method)["long/i2t_r1"] == SCORES[method]
        assert metrics(project, method)["train/num_steps"] == 20
        params = dict(query(project, "select key, value from params where run_uuid = ?", run_id(project, method)))
        assert params["method.corner_tokens"] == corners
        assert params["train.batch_size"] == "50"


def test_a_checkpoint_is_a_run_beside_the_methods(project: Path, summary: TrackSummary) -> None:
    found, of_method = tags(project, "clip_b16"), tags(project, "lotlip")
    assert found["lotlip.kind"] == of_method["lotlip.kind"] == "method", "so the saved view shows both"
    assert (found["lotlip.trained"], of_method["lotlip.trained"]) == ("elsewhere", "here")
    assert found["lotlip.pipeline"] == of_method["lotlip.pipeline"] == f"pipeline {summary.state[:8]}"
    assert metrics(project, "clip_b16")["long/i2t_r1"] == 55.0
    assert not [name for name in metrics(project, "clip_b16") if name.startswith("train/")]
    assert metrics(project, f"pipeline {summary.state[:8]}")["clip_b16/long/i2t_r1"] == 55.0
    params = dict(query(project, "select key, value from params where run_uuid = ?", run_id(project, "clip_b16")))
    assert params["checkpoint.model"] == "openai/clip-vit-base-patch16"
    assert params["checkpoint.revision"] == "5" * 40
    [(view,)] = query(project, "select value from experiment_tags where key = 'mlflow.sharedViewState.methods'")
    columns = json.loads(view)["selectedColumns"]
    assert {"params.`train.seed`", "tags.`lotlip.pipeline`", "tags.`lotlip.trained`"} <= set(columns)


def test_the_curve_is_whole(project: Path, summary: TrackSummary) -> None:
    rows = query(
        project,
        "select step, value from metrics where run_uuid = ? and key = 'train/loss' order by step",
        run_id(project, "lotlip"),
    )
    assert [step for step, _ in rows] == list(range(1, 21))
    assert rows[6][1] == pytest.approx(curve_row("lotlip", 7)["loss"], abs=1e-12)


def test_datasets_carry_the_manifests_digests(project: Path, summary: TrackSummary) -> None:
    digest = sha256_file(project / "data/captions/llava/manifest.json")
    rows = query(project, "select digest, dataset_profile from datasets where name = 'data/captions/llava'")
    assert rows == [(digest[:36], json.dumps({"manifest_sha256": digest}))]


def test_files_are_logged(project: Path, summary: TrackSummary) -> None:
    folder = project / "mlruns" / summary.parent_run_id / "artifacts"
    assert (folder / "validate/docs/index.html").read_text() == "<h1>Data Docs</h1>"
    assert (folder / "validate/docs/summary.html").is_file()
    assert json.loads((folder / "validate/summary.json").read_text()) == VALIDATION
    assert (folder / "report/comparison.csv").is_file()
    assert "train@lotlip" in json.loads((folder / "dvc.lock.json").read_text())


def test_what_validation_found_is_numbers_to_compare(project: Path, summary: TrackSummary) -> None:
    expected = {
        "funnel/kept": 1986,
        "images/leaks/long": 3,
        "images/leaks/short": 0,
        "images/rejected_by/leak:long": 3,
        "raw/rejected_by/html": 4,
        "raw/rejected_by/language": 2,
        "raw/languages/de": 6,
        "drift/distances/long_tokens_llava": 0.25,
        "expectations/failed": 1,
    }
    of_stage, of_parent = metrics(project, "validate"), metrics(project, f"pipeline {summary.state[:8]}")
    for name, value in expected.items():
        assert of_stage[name] == value
        assert of_parent[f"validate/{name}"] == value


def test_the_model_loads_and_embeds(project: Path, summary: TrackSummary, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow
    import numpy as np
    import pandas as pd
    from PIL import Image

    from lotlip import LotlipModel, LotlipProcessor

    folder = project / "models" / "lotlip"
    model, processor = LotlipModel.from_pretrained(folder).eval(), LotlipProcessor.from_pretrained(folder)
    texts = ["a red boat", "two cats"]
    Image.new("RGB", (40, 30), "red").save(project / "red.png")
    [(model_id,)] = query(project, "select model_id from logged_models where name = 'lotlip'")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", default_uri(project))
    loaded = mlflow.pyfunc.load_model(f"models:/{model_id}")
    expected = model.get_text_features(**processor(text=texts)).detach().numpy()
    assert np.allclose(loaded.predict(pd.DataFrame({"text": texts})), expected, atol=1e-6)
    pixels = processor(images=[project / "red.png"])
    found = loaded.predict(pd.DataFrame({"image": [str(project / "red.png")]}))
    assert np.allclose(found, model.get_image_features(**pixels).detach().numpy(), atol=1e-6)


def test_no_secret_is_stored(project: Path, summary: TrackSummary) -> None:
    assert SECRET not in str(snapshot(project))
    assert "https://***@host/tower" in str(snapshot(project)["params"])
    files = [path for path in (project / "mlruns").rglob("*") if path.is_file()]
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]


def test_the_environment_is_left_alone(summary: TrackSummary) -> None:
    assert "MLFLOW_TRACKING_URI" not in os.environ


def test_twice_adds_nothing(project: Path, summary: TrackSummary) -> None:
    before = snapshot(project)
    again = track(project)
    assert snapshot(project) == before
    assert (again.created, again.updated, again.adopted) == ([], [], [])
    assert len(again.unchanged) == 8
    assert again.parent_run_id == summary.parent_run_id


def test_another_state_is_another_parent_and_reports_are_checked(project: Path, summary: TrackSummary) -> None:
    """A report that is not the one DVC recorded is refused, and filled in once it is right."""
    params = yaml.safe_load((project / "params.yaml").read_text())
    report = project / "reports/recaption/llava.json"
    write(project, "reports/recaption/llava.json", {"texts": 1234})
    write_lock(project, params, METHODS)
    right = report.read_text()
    report.write_text('{"texts": 666}')
    first = track(project)
    assert first.parent_run_id != summary.parent_run_id
    assert any("reports/recaption/llava.json is not the one in dvc.lock" in text for text in first.warnings)
    report.write_text(right)
    second = track(project)
    assert "recaption@llava" in second.updated
    assert "lotlip" in second.unchanged
    values = query(project, "select value from latest_metrics where key = 'texts' order by value")
    assert values == [(1234.0,), (1990.0,)]
    assert track(project).updated == []


def test_without_dvc_lock_the_next_step_is_named(tmp_path: Path, project: Path) -> None:
    shutil.copy(project / "params.yaml", tmp_path)
    with pytest.raises(DataError, match=r"dvc\.lock is missing: run `dvc repro` first"):
        track(tmp_path)
