"""The stage script, run as DVC runs it."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lotlip.data.manifest import read_manifest

ROOT = Path(__file__).parents[2]


def run_stage(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "stages.download", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def project(tmp_path: Path) -> Path:
    text = (ROOT / "params.yaml").read_text().replace("num_images: 2000", "num_images: 5")
    (tmp_path / "params.yaml").write_text(text)
    return tmp_path


def test_stage_writes_dataset_and_report(project: Path) -> None:
    done = run_stage(project, "scenes")
    assert done.returncode == 0, done.stderr
    assert "download scenes: 5 of 5 rows in 1 shards" in done.stdout
    report = json.loads((project / "reports" / "download" / "scenes.json").read_text())
    assert read_manifest(project / "data" / "images" / "scenes", "images").num_samples == report["success"] == 5
    assert report["raw"] == {
        "images": 5,
        "texts": 5,
        "sub_captions_per_text": report["raw"]["sub_captions_per_text"],
    }
    assert 1 <= report["raw"]["sub_captions_per_text"] < 2
    first = {path.name: path.read_bytes() for path in project.rglob("scenes*") if path.is_file()}
    shutil.rmtree(project / "data")
    assert run_stage(project, "scenes").returncode == 0
    assert {path.name: path.read_bytes() for path in project.rglob("scenes*") if path.is_file()} == first


def test_unknown_source_is_one_message(project: Path) -> None:
    done = run_stage(project, "scene")
    assert done.returncode == 1
    assert done.stderr == "error: params.yaml has no source 'scene', it has scenes; did you mean 'scenes'?\n"
