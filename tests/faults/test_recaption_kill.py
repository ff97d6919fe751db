"""kill -9 of captioning, at every write and from outside: it goes on without redoing finished batches."""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import yaml

from stages.recaption import main
from tests.captioning.samples import captioner_params, encode_png, make_pictures, write_images
from tests.captioning.tiny import build_tiny_llava

PROJECT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROJECT)}
ENCODED = [encode_png(image) for image in make_pictures(11)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_llava(tmp_path_factory.mktemp("llava"))


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_killed_before_and_after_every_write(checkpoint: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "images", "a", [ENCODED[:7], ENCODED[7:]])
    script = Path(__file__).with_name("recaption_killed_children.py")
    done = subprocess.run(
        [sys.executable, script, checkpoint, tmp_path / "images", tmp_path],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    records = json.loads(done.stdout)
    # Renames: 3 batches and the table of the first shard, 2 and the table of the second, manifest, folder.
    assert len(records) == 2 * 9
    assert {record["signal"] for record in records} == {signal.SIGKILL}

    whole = files_of(tmp_path / "whole/captions")
    assert set(whole) == {"a-00000.parquet", "a-00001.parquet", "manifest.json"}
    captioned = {(record["write"], record["when"]): record["images"] for record in records}
    done_after = [0, 3, 6, 7, 7, 10, 11, 11, 11, 11]  # images whose batch is saved, after so many renames
    for record in records:
        write, when = record["write"], record["when"]
        assert files_of(tmp_path / f"{write}-{when}/captions") == whole, (write, when)
        assert captioned[write, when] == 11 - done_after[write + (when == "after")], (write, when)


def wait_for_batches(project: Path, count: int, process: subprocess.Popen[bytes]) -> list[Path]:
    deadline = time.monotonic() + 400
    while time.monotonic() < deadline and process.poll() is None:
        if len(found := sorted(project.glob(".work/recaption/tiny/*/batch-*.json"))) >= count:
            return found
        time.sleep(0.005)
    raise AssertionError(f"no {count} batches; the stage ended with {process.poll()}")


def test_the_stage_killed_from_outside_goes_on(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    params = yaml.safe_load((PROJECT / "params.yaml").read_text())
    params["sources"] = {"a": {"kind": "shards", "path": "none"}}
    params["captioners"] = {"tiny": captioner_params(checkpoint, batch_size=1, max_new_tokens=20).model_dump()}
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for project in (killed, whole):
        write_images(project / "data/images/a", "a", [ENCODED * 3])
        (project / "params.yaml").write_text(yaml.safe_dump(params))
    command = [sys.executable, "-m", "stages.recaption", "tiny"]

    process = subprocess.Popen(command, cwd=killed, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    try:
        wait_for_batches(killed, 2, process)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "data/captions/tiny").exists()
    finished = {path.name for path in killed.glob(".work/recaption/tiny/*/batch-*.json")}

    for project, new in ((killed, 33 - len(finished)), (whole, 33)):
        monkeypatch.chdir(project)
        main("tiny")
        last = capsys.readouterr().out.splitlines()[-1]
        assert last.startswith("captioned 33/33 images")
        assert f"{new} in this run" in last
    assert files_of(killed / "data/captions/tiny") == files_of(whole / "data/captions/tiny")
    assert files_of(killed / "reports/recaption") == files_of(whole / "reports/recaption")


def test_a_full_disk_stops_the_stage_with_a_message_and_costs_nothing(checkpoint: Path, tmp_path: Path) -> None:
    params = yaml.safe_load((PROJECT / "params.yaml").read_text())
    params["sources"] = {"a": {"kind": "shards", "path": "none"}}
    params["captioners"] = {"tiny": captioner_params(checkpoint, batch_size=11).model_dump()}
    write_images(tmp_path / "data/images/a", "a", [ENCODED])
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    command = [sys.executable, "-m", "stages.recaption", "tiny"]

    def run(most_bytes: int) -> subprocess.CompletedProcess[str]:
        """The stage, whose files may not grow beyond so many bytes: to it, the disk is full then."""
        limit = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
        return subprocess.run(
            command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False, preexec_fn=limit
        )

    full = run(1500)
    assert full.returncode == 1
    assert "error: No space left on the disk" in full.stderr
    assert "Traceback" not in full.stderr
    assert not (tmp_path / "data/captions").exists()
    assert not list(tmp_path.rglob("*.tmp"))
    assert run(10**9).returncode == 0
    assert len(files_of(tmp_path / "data/captions/tiny")) == 2
