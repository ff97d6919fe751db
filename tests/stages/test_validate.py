"""The stage script as DVC runs it: reports are written before a passed limit fails it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import yaml

from tests.validation.builders import image, long, write_captions, write_images, write_tokenizer

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
    assert done.stderr.startswith("error: validation failed 2 of 22 expectations:")
    assert "share of long texts that repeat is 0.75, at most 0.1 is allowed" in done.stderr
    assert "mean raw-word recall is 0, at least 0.3 is allowed" in done.stderr
    assert "validate llava: 4 rows, 0 rejected" in done.stdout
    summary = json.loads((tmp_path / "reports/validate/summary.json").read_text())
    assert [one["params"] for one in summary["failed"]] == [
        "validate.long.max_duplicate_share",
        "validate.long.min_raw_word_recall",
    ]
    assert (tmp_path / "reports/validate/docs/index.html").is_file()
    assert (tmp_path / "data/quarantine/manifest.json").is_file()
    assert not (tmp_path / "home").exists()
