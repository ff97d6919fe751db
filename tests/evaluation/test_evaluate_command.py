"""`lotlip evaluate` and `lotlip check-set` as a user runs them, on tiny copies of published sets."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from lotlip import LotlipModel, LotlipProcessor
from lotlip.cli.app import app
from lotlip.errors import DataError
from tests.evaluation import tiny_sets
from tests.evaluation.tiny_model import save_tiny_model
from tests.test_cli import lotlip

RECALLS = [f"{way}_r{k}" for way in ("i2t", "t2i") for k in (1, 5, 10)]


def run(*arguments: str) -> str:
    """What a command prints, run in this process; the errors that `main` shows come through."""
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False).output


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def embed(model: Path, texts: list[str], images: list[Path]) -> tuple[torch.Tensor, torch.Tensor]:
    """Texts and images one by one, through the public interface."""
    loaded, processor = LotlipModel.from_pretrained(model).eval(), LotlipProcessor.from_pretrained(model)
    with torch.no_grad():
        text = [loaded.get_text_features(**processor(text=[one]))[0] for one in texts]
        image = [loaded.get_image_features(processor(images=[Image.open(p)])["pixel_values"])[0] for p in images]
    return torch.nn.functional.normalize(torch.stack(text), dim=1), torch.nn.functional.normalize(
        torch.stack(image), dim=1
    )


def test_retrieval_on_dci(model: Path, tmp_path: Path) -> None:
    images = [tmp_path / "dci" / image for image in tiny_sets.dci(tmp_path / "dci")]
    out = tmp_path / "out.json"
    command = ("evaluate", str(model), "--dataset", "dci", "--root", str(tmp_path / "dci"), "--device", "cpu")
    done = lotlip(*command, "--json", str(out))
    assert done.returncode == 0, done.stderr
    assert "4 images with 4 texts; the whole set has 7,805: this is only a part of it" in " ".join(done.stdout.split())
    result = json.loads(out.read_text())
    texts, shown = embed(
        model, [f"A {tiny_sets.THINGS[i]}. Big {tiny_sets.THINGS[i]}. Left" for i in (2, 0, 3, 1)], images
    )
    scores = shown @ texts.T
    own = scores.diag()
    ranks = {"i2t": (scores >= own[:, None]).sum(1), "t2i": (scores >= own[None]).sum(0)}
    expected = {
        f"{way}_r{k}": 100 * float((rank <= k).float().mean()) for way, rank in ranks.items() for k in (1, 5, 10)
    }
    assert {name: result[name] for name in RECALLS} == pytest.approx(expected, abs=1e-4)
    assert (result["images"], result["texts"], result["missing_images"]) == (4, 4, 0)
    assert (result["is_whole_set"], result["set_images"]) == (False, 7805)
    assert (result["model"], result["dataset"], result["root"]) == (str(model), "dci", str(tmp_path / "dci"))
    assert result["tied_queries"] == 0

    images[1].unlink()
    done = lotlip(*command)
    assert done.returncode == 1
    assert f"missing images: 1\n  {images[1]}" in done.stderr
    assert "--allow-missing" in done.stderr
    run(*command, "--allow-missing", "--json", str(out))
    result = json.loads(out.read_text())
    assert (result["images"], result["missing_images"]) == (3, 1)


def test_classification_on_imagenet(model: Path, tmp_path: Path) -> None:
    tiny_sets.imagenet(tmp_path / "set")
    out = tmp_path / "out.json"
    own = ("evaluate", str(model), "--device", "cpu", "--batch-size", "1000", "--json", str(out))
    run(*own, "--dataset", "imagenet", "--root", str(tmp_path / "set"))
    result = json.loads(out.read_text())
    assert (result["images"], result["classes"], result["set_images"]) == (5, 1000, 50000)
    assert 0 <= result["top1"] <= result["top5"] <= 100
    assert set(result) >= {"top1", "top5", "tied_queries", "missing_images"}


def test_ones_own_file_and_a_folder_of_the_project(model: Path, tmp_path: Path) -> None:
    tiny_sets.jsonl(tmp_path)
    out = tmp_path / "out.json"
    own = ("evaluate", str(model), "--device", "cpu", "--json", str(out))
    for root in (tmp_path, tmp_path / "mine.jsonl"):
        run(*own, "--dataset", "jsonl", "--root", str(root))
        result = json.loads(out.read_text())
        assert (result["images"], result["texts"], result["is_whole_set"]) == (2, 4, True)
    rows = [{"image": "a.jpg", "texts": ["a"]}, {"image": "b.jpg", "texts": ["b", "c"]}]
    tiny_sets.write_lines(tmp_path / "samples.jsonl", rows)
    counts = {"num_images": 2, "num_texts": 3, "classes": [], "templates": []}
    tiny_sets.write_json(tmp_path / "set.json", {"task": "retrieval", **counts})
    run(*own, "--dataset", str(tmp_path))
    assert json.loads(out.read_text())["texts"] == 3


def test_wrong_sets(tmp_path: Path) -> None:
    assert "--root" in run("evaluate", "m", "--dataset", "dci")
    for option in ("--allow-missing", "--no-normalize-long"):
        assert "need --root" in run("evaluate", "m", "--dataset", str(tmp_path), option)
    for command in (("dci", "--decode"), ("dci", "--json", str(tmp_path / "out.json")), ("--root", str(tmp_path))):
        assert "needs the name of a set and --root" in " ".join(run("check-set", *command).replace("│", "").split())
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file" / "out.json"):
        for command in (("evaluate", "m", "--dataset", str(tmp_path)), ("check-set", "dci", "--root", str(tmp_path))):
            assert "name a file" in " ".join(run(*command, "--json", str(place)).replace("│", "").split())
    with pytest.raises(DataError, match="No set is called 'dcii'"):
        run("evaluate", "m", "--dataset", "dcii", "--root", str(tmp_path))
    with pytest.raises(DataError, match=f"missing: {tmp_path}/none"):
        run("evaluate", "m", "--dataset", "dci", "--root", str(tmp_path / "none"))


def test_check_set_says_what_is_missing(tmp_path: Path) -> None:
    listed = run("check-set")
    assert "imagenet: 50,000 images, published at https://image-net.org" in listed
    assert "docci_descriptions.jsonlines" in run("check-set", "docci")
    images = tiny_sets.docci(tmp_path)
    done = CliRunner().invoke(app, ["check-set", "docci", "--root", str(tmp_path), "--decode"])
    assert done.output.startswith(f"docci in {tmp_path}: 3 images with 3 texts; the whole set has 5,000")
    assert (len(done.output.splitlines()), done.exit_code) == (1, 1)
    tiny_sets.csv(tmp_path)
    assert CliRunner().invoke(app, ["check-set", "csv", "--root", str(tmp_path)]).exit_code == 0
    (tmp_path / images[0]).write_bytes(b"\xff\xd8\xff")
    (tmp_path / images[1]).unlink()
    out = tmp_path / "found.json"
    options = ["check-set", "docci", "--root", str(tmp_path), "--decode", "--json", str(out)]
    done = CliRunner().invoke(app, options)
    assert done.exit_code == 1
    assert f"damaged: {tmp_path / images[0]}: not an image" in done.output
    found = json.loads(out.read_text())
    assert found["missing_images"] == [str(tmp_path / images[1])]
    assert len(found["damaged"]) == 1
    assert (found["images"], found["set_images"]) == (2, 5000)
