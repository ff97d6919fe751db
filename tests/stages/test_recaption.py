"""The stage `recaption@<captioner>` on real shards with a real tiny captioner."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml

from lotlip.data.manifest import read_manifest
from lotlip.errors import ParamsError
from stages import run
from stages.recaption import main
from tests.captioning.samples import captioner_params, encode_png, make_pictures, write_images
from tests.captioning.tiny import build_tiny_llava

PROJECT = Path(__file__).parents[2]
SOURCES = {name: {"kind": "shards", "path": "none"} for name in ("first", "second")}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_llava(tmp_path_factory.mktemp("llava"))


@pytest.fixture
def project(checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project folder with two downloaded sources and one captioner, `tiny`."""
    params = yaml.safe_load((PROJECT / "params.yaml").read_text())
    params["sources"] = SOURCES
    params["captioners"] = {"tiny": captioner_params(checkpoint).model_dump()}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    encoded = [encode_png(image) for image in make_pictures(6)]
    write_images(tmp_path / "data/images/first", "first", [encoded[:3], [b"no image"]])
    write_images(tmp_path / "data/images/second", "second", [encoded[3:]])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_stage_captions_all_sources_and_reports(project: Path) -> None:
    main("tiny")
    manifest = read_manifest(project / "data/captions/tiny", "captions")
    assert [shard.name for shard in manifest.shards] == ["first-00000", "first-00001", "second-00000"]
    report = json.loads((project / "reports/recaption/tiny.json").read_text())
    assert report["requested"] == manifest.num_samples == 7
    assert report["captioned"] + report["failed"] == 7
    assert report["failures"]["not an image"] == 1


def test_outputs_emptied_by_dvc_come_back_with_the_same_bytes(project: Path) -> None:
    main("tiny")
    outputs = [*sorted((project / "data/captions/tiny").iterdir()), project / "reports/recaption/tiny.json"]
    before = [path.read_bytes() for path in outputs]
    shutil.rmtree(project / "data/captions")
    shutil.rmtree(project / "reports")
    main("tiny")
    assert [path.read_bytes() for path in outputs] == before


def test_an_unknown_captioner_is_an_error_that_lists_those_there_are(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ParamsError, match="tiny"):
        main("lava")
    monkeypatch.setattr(sys, "argv", ["recaption", "lava"])
    with pytest.raises(SystemExit) as stopped:
        run(main)
    assert stopped.value.code == 1
    assert "'lava'" in capsys.readouterr().err
