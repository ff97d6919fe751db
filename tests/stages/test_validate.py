"""The stage script as DVC runs it: reports are written before a passed limit fails it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from lotlip.data.manifest import read_manifest
from tests.validation.builders import (
    image,
    long,
    square,
    write_captions,
    write_evalset,
    write_images,
    write_tokenizer,
)

ROOT = Path(__file__).parents[2]


def test_a_passed_ceiling_fails_the_stage_after_its_reports(tmp_path: Path) -> None:
    keys = [f"k{i}" for i in range(4)]
    images = write_images(tmp_path / "data/images/scenes", {"scenes-00000": [image(key) for key in keys]})
    texts = [long(key, text="The dog and a cat sleep on the sofa.") for key in keys]
    write_captions(tmp_path / "data/captions/llava", images, {"scenes-00000": texts})
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["validate"]["tokenizer"] = write_tokenizer(tmp_path / "tokenizer")
    params["sources"] = {"scenes": params["sources"]["scenes"]}
    params["captioners"] = {"llava": params["captioners"]["llava"]}
    params["validate"]["baseline"] = None
    write_evalset(tmp_path / "data/evalsets/long", {"one.png": square("another picture")})
    params["evalsets"] = {"long": params["evalsets"]["long"]}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    done = subprocess.run(
        [sys.executable, "-m", "stages.validate"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("error: validation failed 2 of 30 expectations:")
    assert "share of long texts that repeat is 0.75, at most 0.1 is allowed" in done.stderr
    assert "mean raw-word recall is 0, at least 0.3 is allowed" in done.stderr
    assert "validate llava: 4 rows, 0 rejected" in done.stdout
    summary = json.loads((tmp_path / "reports/validate/summary.json").read_text())
    assert [one["params"] for one in summary["failed"]] == [
        "validate.long.max_duplicate_share",
        "validate.long.min_raw_word_recall",
    ]
    assert summary["images"]["leaks"] == {"long": 0}
    for page in ("index.html", "summary.html"):
        assert (tmp_path / "reports/validate/docs" / page).is_file()
    assert (tmp_path / "data/quarantine/manifest.json").is_file()
    assert not (tmp_path / "home").exists()


def test_a_baseline_is_written_by_command_and_held_against_what_comes_later(tmp_path: Path) -> None:
    project = tmp_path / "project"
    keys = [f"k{i}" for i in range(4)]
    write_images(project / "data/images/scenes", {"scenes-00000": [image(key) for key in keys]})
    images = read_manifest(project / "data/images/scenes", "images")
    write_captions(project / "data/captions/llava", images, {"scenes-00000": [long(key) for key in keys]})
    write_evalset(project / "data/evalsets/long", {"one.png": square("another picture")})
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["validate"]["tokenizer"] = write_tokenizer(tmp_path / "tokenizer")
    params["captioners"] = {"llava": params["captioners"]["llava"]}
    params["evalsets"] = {"long": params["evalsets"]["long"]}
    params["validate"]["baseline"] = "mine"
    (project / "params.yaml").write_text(yaml.safe_dump(params))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *command], cwd=project, env=environment, capture_output=True, text=True
        )

    missing = run("stages.validate")
    assert "conf/baselines/mine.json is missing: `lotlip baseline mine` writes it" in missing.stderr
    assert "is no name" in run("lotlip.cli", "baseline", "../mine").stderr
    written = run("lotlip.cli", "baseline", "mine")
    assert written.returncode == 0, written.stderr
    assert "conf/baselines/mine.json is written" in written.stdout
    passed = run("stages.validate")
    assert passed.returncode == 0, passed.stderr
    distances = json.loads((project / "reports/validate/summary.json").read_text())["drift"]["distances"]
    assert set(distances.values()) == {0.0}
