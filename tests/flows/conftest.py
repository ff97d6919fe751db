"""One temporary Prefect server for all tests of this folder, and a tiny DVC project."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.tracking.servers import template_database

os.environ.setdefault("PREFECT_HOME", tempfile.mkdtemp(prefix="lotlip-prefect-"))  # before prefect is imported
PARAMS = Path(__file__).resolve().parents[2] / "params.yaml"

# download -> train@lit, train@lotlip -> report. A file `break-<stage>` makes a stage fail; each run is counted.
GRAPH = """
stages:
  download:
    cmd: python stage.py download data.txt
    deps: [stage.py, raw.txt]
    outs: [data.txt]
  train:
    foreach:
      - lit
      - lotlip
    do:
      cmd: python stage.py train@${item} ${item}.json
      deps: [stage.py, data.txt]
      metrics: ["${item}.json"]
  report:
    cmd: python stage.py report reports/report/comparison.md
    deps: [stage.py, lit.json, lotlip.json]
    outs: [reports/report/comparison.md]
"""
STAGE = """
import json, pathlib, sys
name, out = sys.argv[1:]
print(f"{name} at work", flush=True)
with open("runs.log", "a") as log:
    log.write(name + "\\n")
broken = pathlib.Path("break-" + name)
if broken.exists():
    left = int(broken.read_text()) - 1
    broken.write_text(str(left)) if left else broken.unlink()
    sys.exit(f"{name} has no memory left")
out = pathlib.Path(out)
out.parent.mkdir(parents=True, exist_ok=True)
table = "| method | R@1 |\\n|---|---|\\n| lotlip | 47 |\\n"
texts = {".json": json.dumps({"long": {"i2t_r1": 47.12345}}), ".md": table}
out.write_text(texts.get(out.suffix, pathlib.Path("raw.txt").read_text()))
"""


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    from prefect.testing.utilities import prefect_test_harness

    import flows  # noqa: F401  (sets the environment)

    with prefect_test_harness(server_startup_timeout=180):
        yield


@pytest.fixture(scope="session")
def blank_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A git and DVC project in which nothing ran yet."""
    folder = tmp_path_factory.mktemp("blank") / "project"
    folder.mkdir()
    text = PARAMS.read_text().replace("retry_delay_s: 10", "retry_delay_s: 0")
    assert "retries: 1" in text
    (folder / "params.yaml").write_text(text)
    (folder / "dvc.yaml").write_text(GRAPH.replace("python", sys.executable))
    (folder / "stage.py").write_text(STAGE)
    (folder / "raw.txt").write_text("one")
    for command in (["git", "init", "-q"], [sys.executable, "-m", "dvc", "init", "-q"]):
        subprocess.run(command, cwd=folder, check=True)
    return folder


@pytest.fixture
def project(blank_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it; the current folder."""
    folder = shutil.copytree(blank_project, tmp_path / tmp_path.name)
    shutil.copy(template_database(), folder)
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return folder
