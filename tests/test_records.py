"""Atomic files and folders, and locks that end with their process."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lotlip.errors import DataError
from lotlip.records import content_key, locked, publish_folder, read_json, sha256_bytes, sha256_file, write_json

HOLD = "import sys, time; from pathlib import Path; from lotlip.records import locked\n"
HOLD += "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"


def test_hashes_against_published_values(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")  # FIPS 180-2, example B.1
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256_bytes(b"abc") == sha256_file(tmp_path / "abc") == expected


def test_key_does_not_depend_on_the_order_of_keys() -> None:
    assert content_key({"a": 1, "b": [2]}) == content_key({"b": [2], "a": 1}) != content_key({"a": 1, "b": [3]})


def test_json_round_trip_and_its_errors(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.json"
    write_json(path, {"ü": 1.5})
    assert read_json(path) == {"ü": 1.5}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"loss": float("nan")})
    assert read_json(path) == {"ü": 1.5}, "a failed write leaves the old file"
    path.write_text("{")
    with pytest.raises(DataError, match="is not JSON"):
        read_json(path)
    with pytest.raises(DataError, match="new is a folder: remove it"):
        read_json(path.parent)


def test_a_failed_publication_leaves_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    with publish_folder(folder) as staging:
        (staging / "file").write_text("old")
    with pytest.raises(FileNotFoundError), publish_folder(folder) as staging:
        (staging / "file").rename(staging / "another")  # the fresh folder has no file yet
    assert (folder / "file").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    (tmp_path / f".out.{int(dead.stdout)}.tmp").mkdir()
    (tmp_path / ".out.1.tmp").mkdir()  # process 1 always runs: not ours to remove
    with publish_folder(tmp_path / "out"):
        pass
    assert {path.name for path in tmp_path.iterdir()} == {"out", ".out.1.tmp"}


def test_a_forked_child_does_not_hold_its_parents_lock(tmp_path: Path) -> None:
    forking = "import os, time; from lotlip.records import locked; from pathlib import Path\n"
    forking += (
        f"with locked(Path({str(tmp_path)!r})):\n    child = os.fork()\n    child or (os.close(1), time.sleep(60))\n"
    )
    forking += "    print(child, flush=True)\n    os.kill(os.getpid(), 9)"
    killed = subprocess.run([sys.executable, "-c", forking], stdout=subprocess.PIPE, text=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    child = int(killed.stdout)
    try:
        with locked(tmp_path):
            os.kill(child, 0)  # it lives on
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_lock_is_held_until_its_process_is_killed(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(DataError, match="Another run is at work"), locked(tmp_path):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        try:
            with locked(tmp_path):
                return
        except DataError:
            time.sleep(0.05)
    pytest.fail("the lock of a dead process stayed")
