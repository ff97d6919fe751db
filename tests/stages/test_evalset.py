"""Stage `evalset@<set>` run as DVC runs it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from transformers import BertTokenizerFast

from lotlip.errors import DataError, ParamsError
from lotlip.evaluation.sets import read_evalset
from stages.evalset import main

TOP = Path(__file__).parents[2]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the project's params.yaml and small sets."""
    params = yaml.safe_load((TOP / "params.yaml").read_text())
    for evalset in params["evalsets"].values():
        evalset["num_images"] = 4
    params["sources"]["scenes"]["held_out_share"] = 0.5
    params["evalsets"]["photos"] = {"kind": "holdout", "path": "data/images/scenes"}
    params["validate"]["tokenizer"] = str(TOP / params["validate"]["tokenizer"])
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(("name", "texts"), [("long", 4), ("short", 20), ("classes", 0)])
def test_writes_set_and_report(workspace: Path, name: str, texts: int) -> None:
    main(name)
    evalset = read_evalset(workspace / "data" / "evalsets" / name)
    report = json.loads((workspace / "reports" / "evalset" / f"{name}.json").read_text())
    assert (len(evalset.images), len(evalset.texts)) == (4, texts)
    assert (report["num_images"], report["num_texts"]) == (4, texts)
    if texts:
        vocabulary = BertTokenizerFast.from_pretrained(TOP / "lotlip/sample/weights/tokenizer")
        lengths = [len(vocabulary.tokenize(text)) for text in evalset.texts]
        assert report["tokens_per_text"] == round(sum(lengths) / texts, 4)


def test_unknown_set(workspace: Path) -> None:
    with pytest.raises(ParamsError, match="lnog"):
        main("lnog")


def test_held_out_set_before_its_download(workspace: Path) -> None:
    with pytest.raises(DataError, match=r"data/images/scenes/manifest\.json is missing"):
        main("photos")


def test_error_is_one_message_and_exit_status_1(workspace: Path) -> None:
    command = [sys.executable, "-m", "stages.evalset", "nothing"]
    done = subprocess.run(command, env={"PYTHONPATH": str(TOP)}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "'nothing'" in done.stderr
    assert "Traceback" not in done.stderr
