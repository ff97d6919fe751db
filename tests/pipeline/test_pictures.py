"""Real photographs and drawings through the whole graph: nothing is lost silently, and poor captions are called so."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.pipeline.pictures import PICTURES, configure, read_pairs, serve
from tests.pipeline.workspace import Workspace

pytestmark = [
    pytest.mark.pipeline,
    pytest.mark.skipif(not PICTURES.is_dir(), reason="../shared/data/pictures is not beside the project"),
]

NUM_PICTURES = 60
BAD_ROWS = (
    b"an address where nothing is\timages/no_such_picture.jpg",
    b"a text file\ttable.tsv",
    b"a caption that is not UTF-8: \xff\xfe\timages/oca_0000.jpg?again",
    b"a file of another kind of address\tfile:///etc/hostname",
)


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    workspace = Workspace(tmp_path_factory.mktemp("pictures") / "project")
    rows = [f"{caption}\t{path}".encode() for caption, path in read_pairs(NUM_PICTURES)]
    with serve(PICTURES) as address:
        configure(
            workspace, address, [*rows, *BAD_ROWS], "train.epochs=2", "train.batch_size=16", "methods.lit_long=null"
        )
        workspace.succeed("dvc", "repro")
    return workspace


def report(workspace: Workspace, name: str) -> Any:
    return json.loads((workspace.folder / "reports" / name).read_text())


def test_every_row_has_a_status(workspace: Workspace) -> None:
    import pyarrow.parquet

    folder = workspace.folder / "data/images/mine"
    rows = [row for path in sorted(folder.glob("*.parquet")) for row in pyarrow.parquet.read_table(path).to_pylist()]
    statuses = Counter(row["status"] for row in rows)
    assert len(rows) == NUM_PICTURES + len(BAD_ROWS)
    assert statuses["success"] == NUM_PICTURES
    assert all(row["error"] for row in rows if row["status"] != "success")
    errors = {row["caption"]: row["error"] for row in rows if row["status"] != "success"}
    assert "404" in errors["an address where nothing is"]
    downloaded = report(workspace, "download/mine.json")
    assert downloaded["requested"] == len(rows)
    assert downloaded["success"] == NUM_PICTURES


def test_every_picture_was_captioned_or_counted(workspace: Workspace) -> None:
    captioned = report(workspace, "recaption/llava.json")
    assert captioned["requested"] == NUM_PICTURES
    assert captioned["captioned"] + captioned["failed"] == NUM_PICTURES


def test_validation_says_that_the_captions_do_not_fit(workspace: Workspace) -> None:
    """The sample's captioner knows only drawn scenes; what it writes about photographs must not pass."""
    summary = report(workspace, "validate/summary.json")
    assert summary["long"]["llava"]["raw_word_recall"] < 0.1
    assert "validate.long.min_raw_word_recall" in {failure["params"] for failure in summary["failed"]}
    page = (workspace.folder / "reports/report/index.html").read_text()
    assert "raw-word recall" in page


def test_models_are_evaluated_on_pictures_they_never_saw(workspace: Workspace) -> None:
    trained = report(workspace, "train/lotlip.json")
    held_out = report(workspace, "evaluate/lotlip.json")["held_out"]
    assert held_out["images"] > 0
    assert trained["num_samples"] + held_out["images"] <= NUM_PICTURES
    keys = {Path(name).stem for name in image_names(workspace)}
    assert len(keys) == held_out["images"]


def image_names(workspace: Workspace) -> list[str]:
    lines = (workspace.folder / "data/evalsets/held_out/samples.jsonl").read_text().splitlines()
    return [json.loads(line)["image"] for line in lines]
