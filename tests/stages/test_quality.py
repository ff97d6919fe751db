"""Stage `quality` on rendered scenes whose captions are written by hand, under the sample's own judge."""

import json
from pathlib import Path

import pytest
import yaml

from lotlip.data.manifest import read_manifest
from lotlip.data.tables import read_records
from lotlip.errors import DataError
from lotlip.sample import habits
from lotlip.sample.scenes import make_scene
from stages import download, quality
from tests.data.folders import long_row, sidecar

TOP = Path(__file__).parents[2]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """12 scenes in two shards; captioner `good` says what is there, `other` describes the scene after it."""
    params = yaml.safe_load((TOP / "params.yaml").read_text())
    params["sources"]["scenes"]["num_images"] = 12
    params["download"]["shard_size"] = 8
    params["captioners"] = dict.fromkeys(("good", "other"), params["captioners"]["llava"])
    params["quality"]["objects"] = str(TOP / params["quality"]["objects"])
    params["quality"]["similarity"]["checkpoint"] = str(TOP / params["quality"]["similarity"]["checkpoint"])
    params["validate"]["tokenizer"] = str(TOP / params["validate"]["tokenizer"])
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    download.main("scenes")
    images = read_manifest(Path("data/images/scenes"), "images")
    for name, ahead in (("good", 0), ("other", 1)):
        rows, index = {}, 0
        for shard in images.shards:
            keys = [row["key"] for row in read_records(images.path(shard, "table"), ["key"])]
            scenes = [make_scene(params["sources"]["scenes"]["seed"], index + i + ahead) for i in range(len(keys))]
            index += len(keys)
            rows[shard.name] = [
                long_row(key, habits.sharegpt4v_caption(scene)) for key, scene in zip(keys, scenes, strict=True)
            ]
        sidecar(Path("data/captions") / name, "captions", images, rows)
    return tmp_path


def test_measures_captions_and_counts_texts(workspace: Path) -> None:
    quality.main()
    summary = json.loads(Path("reports/quality/summary.json").read_text())
    good, other = summary["captioners"]["good"], summary["captioners"]["other"]
    assert (summary["images"], good["texts"], other["texts"]) == (12, 12, 12)
    # The judge knows whose image a caption describes.
    assert good["similarity"] > good["similarity_of_next"] + 0.05
    assert other["similarity"] < other["similarity_of_next"] - 0.05
    assert summary["agreement"]["good-other"] < 0.5
    found = summary["statistics"]["good"]["sub_captions_per_text"]
    assert found == pytest.approx(good["sub_captions"], abs=1e-4)
    assert {name: found["texts"] for name, found in summary["statistics"].items()} == {
        "raw": 12,
        "good": 12,
        "other": 12,
    }
    first = Path("reports/quality/summary.json").read_bytes()
    quality.main()
    assert Path("reports/quality/summary.json").read_bytes() == first


def test_captions_that_are_not_there(workspace: Path) -> None:
    Path("data/captions/other/manifest.json").unlink()
    with pytest.raises(DataError, match=r"data/captions/other/manifest\.json is missing"):
        quality.main()
