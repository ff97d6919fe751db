"""The whole graph on the quick overlay, as a newcomer runs it, and what edits of it run again."""

import json
import os
import re
import signal
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lotlip.records import sha256_file
from tests.pipeline.workspace import TOP, Workspace

pytestmark = pytest.mark.pipeline

METHODS = ("lit", "lit_long", "lotlip")


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The quick overlay, run to the end."""
    workspace = Workspace(tmp_path_factory.mktemp("quick") / "project")
    workspace.succeed("lotlip", "configure", "conf/quick.yaml")
    workspace.commit("Quick overlay")
    workspace.succeed("dvc", "repro")
    workspace.commit("Run")
    return workspace


@pytest.fixture
def edited(workspace: Workspace) -> Iterator[Workspace]:
    """The workspace for a test that edits files of it; they are restored after it."""
    yield workspace
    workspace.git("checkout", "--quiet", "--", ".")


def test_every_stage_left_its_output(workspace: Workspace) -> None:
    for method in METHODS:
        assert (workspace.folder / "models" / method / "model.safetensors").is_file()
        result = json.loads((workspace.folder / f"reports/evaluate/{method}.json").read_text())
        assert result["long"]["images"] == 60
        assert result["short"]["texts"] == 300
        assert 0 <= result["classes"]["top1"] <= result["classes"]["top5"] <= 100
    table = (workspace.folder / "reports/report/comparison.md").read_text()
    assert all(method in table for method in METHODS)


@pytest.mark.parametrize("captioner", ["instructblip", "llava", "sharegpt4v"])
def test_captions_come_from_the_pixels(workspace: Workspace, captioner: str) -> None:
    """Each captioner names the right objects in images that it has never seen."""
    import pyarrow.parquet

    from lotlip.sample.caption_quality import caption_scores
    from lotlip.sample.scenes import make_scene

    rows = []
    for path in sorted((workspace.folder / "data/captions" / captioner).glob("*.parquet")):
        rows += [row for row in pyarrow.parquet.read_table(path).to_pylist() if row["kind"] == "long"]
    tables = []
    for path in sorted((workspace.folder / "data/images/scenes").glob("*.parquet")):
        tables += pyarrow.parquet.read_table(path).to_pylist()
    assert [row["key"] for row in rows] == [row["key"] for row in tables]
    scenes = [make_scene(1, index) for index in range(len(rows))]
    scores = caption_scores(scenes, [row["text"] for row in rows])
    assert scores["object_precision"] >= 0.8
    assert scores["object_recall"] >= 0.6


def test_the_example_of_the_readme_ranks_texts(workspace: Workspace, tmp_path: Path) -> None:
    from lotlip.sample.scenes import make_scene, render

    example = re.search(r"```python\n(.*?)```", (TOP / "README.md").read_text(), re.DOTALL)
    assert example
    code = example.group(1)
    for index, name in enumerate(("one.jpg", "two.jpg")):
        assert f'"{name}"' in code
        render(make_scene(42, index)).save(tmp_path / name)
        code = code.replace(name, str(tmp_path / name))
    check = "print(tuple(scores.shape), scores.abs().max().item() <= 1.0001, len(scores.unique()))"
    assert workspace.succeed("python", "-c", code + check).splitlines()[-1] == "(2, 2) True 4"


def test_second_run_runs_nothing_and_git_sees_no_trace(workspace: Workspace) -> None:
    assert "Data and pipelines are up to date." in workspace.succeed("dvc", "repro")
    assert workspace.git("status", "--porcelain") == ""


def test_another_prompt_captions_again_and_what_follows(edited: Workspace) -> None:
    edited.succeed("lotlip", "configure", "--set", "captioners.llava.prompt=Describe this image in detail")
    again = edited.stages_to_run()
    assert "recaption@llava" in again
    assert not any(name.startswith(("download", "evalset")) for name in again)


def test_another_loss_trains_again_and_does_not_caption(edited: Workspace) -> None:
    with (edited.folder / "lotlip/losses/multi_caption.py").open("a") as file:
        file.write("\n# an edit\n")
    again = edited.stages_to_run()
    assert {f"train@{method}" for method in METHODS} <= again
    assert not any(name.startswith(("download", "recaption", "validate", "evalset")) for name in again)


def test_dvc_has_something_to_say(edited: Workspace) -> None:
    edited.succeed("lotlip", "configure", "--set", "train.epochs=2")
    assert "train.epochs" in edited.succeed("dvc", "params", "diff")
    assert "long.i2t_r1" in edited.succeed("dvc", "metrics", "show")
    assert "train@lotlip" in edited.succeed("dvc", "dag")
    edited.succeed("dvc", "plots", "show", "--out", ".work/plots")
    page = (edited.folder / ".work/plots/index.html").read_text()
    assert "Training loss, lit_long" in page
    assert "<script src=" not in page, "plots must show without the web"


def test_tracking_logs_the_state_once(workspace: Workspace) -> None:
    workspace.succeed("lotlip", "track")
    first = mlflow_counts(workspace.folder / "mlflow.db")
    workspace.succeed("lotlip", "track")
    assert mlflow_counts(workspace.folder / "mlflow.db") == first
    stages = len(yaml.safe_load((workspace.folder / "dvc.lock").read_text())["stages"])
    assert first["runs"] >= stages - len(METHODS)  # a run a method covers its train and evaluate stages
    assert first["metrics"] > 50


def mlflow_counts(database: Path) -> dict[str, int]:
    with sqlite3.connect(database) as connection:
        return {
            table: connection.execute(f"select count(*) from {table}").fetchone()[0]
            for table in ("runs", "metrics", "params", "tags")
        }


def test_recaptioning_killed_in_the_middle_continues(edited: Workspace) -> None:
    """kill -9 while captions are written: the next run finishes the rest, with the bytes of a whole run."""
    captions = edited.folder / "data/captions/llava"
    before = {path.name: sha256_file(path) for path in sorted(captions.iterdir())}
    edited.succeed("lotlip", "configure", "--set", "captioners.llava.batch_size=8")
    work = edited.folder / ".work/recaption/llava"
    for path in sorted(work.rglob("*"), reverse=True):  # what the first run kept
        path.unlink() if path.is_file() else path.rmdir()
    process = edited.start("dvc", "repro", "--single-item", "recaption@llava")
    deadline = time.monotonic() + 120
    while len(list(work.rglob("batch-*.json"))) < 5 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    num_finished = 8 * len(list(work.rglob("batch-*.json")))
    assert 0 < num_finished < 192
    assert not (captions / "manifest.json").exists()
    shown = edited.succeed("dvc", "repro", "--single-item", "recaption@llava")
    assert {path.name: sha256_file(path) for path in sorted(captions.iterdir())} == before
    captioned_again = max(int(count) for count in re.findall(r"(\d+) in this run", shown))
    assert captioned_again == 192 - num_finished
