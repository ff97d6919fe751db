"""The command line: help of every command, quick start, errors without tracebacks, doctor's findings."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lotlip.data.manifest import read_manifest
from lotlip.doctor import run_checks
from lotlip.overlays import apply_overlays
from tests.data.datasets import flip, write_captions, write_images
from tests.data.fault_server import running_server
from tests.evaluation.poster.made_up_runs import usual_runs, write_runs

TOP = Path(__file__).parents[1]
COMMANDS = (
    "configure",
    "download",
    "caption",
    "import-captions",
    "verify",
    "plan",
    "stats",
    "evaluate",
    "check-set",
    "convert",
    "convert-sharegpt4v",
    "track",
    "summary",
    "table",
    "doctor",
)


def lotlip(*arguments: str, cwd: Path = TOP, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lotlip.cli", *arguments],
        cwd=cwd,
        env={**os.environ, "COLUMNS": "120", "PYTHONPATH": str(TOP), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_help_lists_every_command() -> None:
    shown = lotlip("--help").stdout
    assert all(command in shown for command in COMMANDS)


@pytest.mark.parametrize("command", [*COMMANDS, "plan recaption", "plan train"])
def test_help_of_a_command(command: str) -> None:
    done = lotlip(*command.split(), "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout


def test_heavy_packages_wait_for_their_command() -> None:
    """What makes a start slow is never imported for it: torch alone takes seconds."""
    code = "import sys, lotlip.cli; print(*sorted(sys.modules))"
    loaded = set(
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    )
    heavy = {"torch", "transformers", "mlflow", "prefect", "great_expectations", "webdataset", "pandas", "pyarrow"}
    assert not loaded & heavy


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("stats", "iiw", "nowhere"), "nowhere does not exist"),
        (("stats", "iwi", "conf"), "expected one of manifest, jsonl, csv, iiw"),
        (("evaluate", "models/none", "--dataset", "data/none"), "--dataset data/none is neither a set (sharegpt4v_1k"),
        (("evaluate", "models/none", "--dataset", "dci", "--root", "data/none"), "data/none"),
        (("caption", "data/none", "out", "--captioner", "lava"), "did you mean 'llava'?"),
        (("download", "none.tsv", "out"), "none.tsv"),
        (("import-captions", "none.csv", "data/none", "out", "--long-column", "long"), "data/none/manifest.json"),
        (("configure", "conf/none.yaml"), "the overlays here are conf/"),
        (
            ("plan", "train", "lotlp", "--pairs", "2000"),
            "no method 'lotlp', it has lit, lit_long, lotlip; did you mean",
        ),
        (("plan", "train", "--pairs", "20"), "methods.lotlip: 20 pairs do not fill one batch of train.batch_size 50"),
        (("plan", "train", "--pairs", "2000", "--gpu", "H99"), "GPU 'H99' is not known"),
        (("table", "all", "--ablations", "conf/none.yaml"), "conf/none.yaml is missing"),
        (("verify", "data/none"), "data/none/manifest.json is missing"),
        (("verify", "params.yaml"), "params.yaml is a file; expected a folder with manifest.json"),
        (("stats", "manifest", "params.yaml"), "params.yaml is a file; expected a folder with manifest.json"),
    ],
)
def test_a_users_error_is_one_message(arguments: tuple[str, ...], message: str) -> None:
    done = lotlip(*arguments)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_verify_names_repairs_and_is_quiet_afterwards(tmp_path: Path) -> None:
    images = write_images(tmp_path / "data/images/s").folder
    captions = write_captions(tmp_path / "elsewhere", read_manifest(images)).folder
    for folder in ((images,), (images / "manifest.json",), (captions, "--images", images)):
        done = lotlip("verify", *map(str, folder))
        assert (done.returncode, done.stdout.splitlines()[-1].rpartition(": ")[2]) == (0, "whole")
    flip(images / "s-00000.tar", 600)
    done = lotlip("verify", str(images), "--json", str(tmp_path / "found.json"))
    first, second, left, counts, following = done.stdout.splitlines()
    assert done.returncode == 1
    assert first.startswith("s-00000, s-00000.tar: sha256: expected ")
    assert second.startswith("s-00000, s-00000.tar, sample a: image: expected sha256 ")
    assert left.endswith("images left: expected 3, found 2 that fit the sha256 of their rows")
    assert counts == f"{images}: images, 2 shards, 5 samples: 3 problems, 1 shards damaged"
    assert "--repair" in following
    assert json.loads((tmp_path / "found.json").read_text())["damaged_shards"] == ["s-00000"]
    done = lotlip("verify", str(images), "--repair")
    assert done.returncode == 1
    table, stage = done.stdout.splitlines()[-2:]
    assert table.startswith(f"next: lotlip download {images}.damaged/refetch.tsv NEWFOLDER")
    assert stage == "or: dvc repro -f download@s"
    done = lotlip("verify", str(images), "--repair")
    assert (done.returncode, done.stdout) == (0, f"{images}: images, 1 shards, 2 samples: whole\n")
    done = lotlip("verify", str(captions), "--images", str(images))
    assert "s-00000, s-00000.parquet: no images: expected an image shard of this name, found none" in done.stdout


def test_stats_of_a_jsonl_file(tmp_path: Path) -> None:
    """Counts by hand: 3 texts of 2 images; sub-captions 2, 1 and 1; tokens 6 + 2, 2 and 2 (the points count)."""
    path = tmp_path / "texts.jsonl"
    path.write_text('{"texts": ["A red circle at the. Top.", "red ring"]}\n{"texts": ["blue ring"]}\n')
    shown = lotlip("stats", "jsonl", str(path), "--json").stdout
    assert '"images": 2' in shown
    assert '"texts": 3' in shown
    assert '"sub_captions_per_text": 1.3333' in shown
    assert '"tokens_per_text": 4.0' in shown
    shown = lotlip("stats", "jsonl", str(path), "--json", "--limit", "1").stdout
    assert '"texts": 2' in shown


def test_a_plan_of_training_is_shown_and_written() -> None:
    done = lotlip("plan", "train", "lit", "lotlip", "--pairs", "2000", "--gpus", "1", "--gpu", "A100 40GB", "--json")
    found = json.loads(done.stdout)
    assert list(found["methods"]) == ["lit", "lotlip"]
    assert found["methods"]["lotlip"]["steps"] == 400
    shown = lotlip("plan", "train", "--pairs", "2000", "--gpus", "1").stdout
    assert "pairs: 2,000 (as given); 40% of the peak is an assumption" in shown
    assert "GFLOPs a pair" in shown


def test_tables_of_the_poster_are_written(tmp_path: Path) -> None:
    write_runs(tmp_path, usual_runs())
    done = lotlip(
        "table", "token_limit", "texts", "--out", str(tmp_path), "--ablations", str(tmp_path / "ablations.yaml")
    )
    assert done.returncode == 0, done.stderr
    files = ("token_limit.md", "token_limit.png", "texts.md", "texts.png", "README.md")
    assert done.stdout.split() == [str(tmp_path / name) for name in files]
    assert "| 128 | **90.0** ± 3.3 |" in (tmp_path / "token_limit.md").read_text()


def test_doctor_finds_what_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(TOP)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@127.0.0.1:9")
    found = {check.name: check for check in run_checks()}
    assert found["params.yaml"].status == "ok"
    assert found["torch"].status == "ok"
    assert found["MLFLOW_TRACKING_URI"].status == "warning"
    assert "secret" not in found["MLFLOW_TRACKING_URI"].found
    apply_overlays([TOP / "conf/endpoint.yaml"], [], Path(shutil.copy(TOP / "params.yaml", tmp_path)))
    monkeypatch.chdir(tmp_path)
    found = {check.name: check for check in run_checks()}
    assert found["llava_served endpoint"].status == "warning"
    (tmp_path / "params.yaml").unlink()
    found = {check.name: check for check in run_checks()}
    assert found["params.yaml"].status == "failed"
    assert found["Workspace"].advice == "Run from the project's top folder."


def test_a_folder_that_is_there_is_never_replaced(tmp_path: Path) -> None:
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("keep me")
    (tmp_path / "file").write_text("keep me")
    for out in (foreign, tmp_path / "file", TOP / "lotlip"):
        for command in (
            ("caption", "data/none", str(out), "--captioner", "llava"),
            ("import-captions", "none.csv", "data/none", str(out), "--long-column", "long"),
            ("download", "none.tsv", str(out)),
        ):
            done = lotlip(*command)
            assert (done.returncode, "name a new folder" in done.stderr) == (1, True), done.stderr
    assert (foreign / "notes.txt").read_text() == "keep me"
    done = lotlip("caption", "data/none", "/proc/x/y", "--captioner", "llava")
    assert (done.returncode, "cannot be made" in done.stderr) == (1, True), done.stderr


def test_download_of_a_known_layout_in_parts(tmp_path: Path) -> None:
    (tmp_path / "cc3m").mkdir()
    with running_server() as server:
        for i in range(2):
            (tmp_path / "cc3m" / f"part-{i}.tsv").write_text(f"picture {i}\t{server.url}/ok/{i}\n")
        shutil.copy(TOP / "params.yaml", tmp_path)
        done = lotlip("download", "cc3m", "out", "--layout", "cc3m", "--allow-private-hosts", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert '"success": 2' in done.stdout
    done = lotlip("download", "cc3m", "new", "--layout", "cc33m", cwd=tmp_path)
    assert (done.returncode, "layout: Input should be 'cc3m'" in done.stderr) == (2, True), done.stderr
