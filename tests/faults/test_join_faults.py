"""Joining samples into a table while processes are killed or come at once, on a full disk, and over damaged files."""

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import lotlip.data.loading.join as join
from lotlip.data.loading.join import join_samples
from lotlip.errors import DataError
from tests.data.folders import folder_bytes
from tests.data.loading.test_join import folders, many_shards


def fail_at(monkeypatch: pytest.MonkeyPatch, calls: int, how: Any) -> None:
    """From the `calls`-th table on, reading fails."""
    read, left = join.read_table, [calls]

    def failing(*arguments: Any) -> Any:
        left[0] -= 1
        return read(*arguments) if left[0] else how()

    monkeypatch.setattr(join, "read_table", failing)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("calls", [1, 4, 8])
def test_nothing_of_a_killed_process_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    inputs, work = many_shards(tmp_path, 4), tmp_path / "work"
    with monkeypatch.context() as patch:
        fail_at(patch, calls, die)
        child = multiprocessing.get_context("fork").Process(target=join_samples, args=inputs, kwargs={"work": work})
        child.start()
        child.join()
        assert child.exitcode == -signal.SIGKILL
    (left,) = folders(work)
    assert left.name.startswith("."), "what is half written has another name"
    assert len(join_samples(*inputs, work=work)) == 1200
    assert left not in folders(work)


def test_a_full_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, work = many_shards(tmp_path, 4), tmp_path / "work"

    def full() -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        fail_at(patch, 6, full)
        with pytest.raises(DataError, match=r"No space left on the disk .*: free some and run again"):
            join_samples(*inputs, work=work)
    assert folders(work) == []
    assert len(join_samples(*inputs, work=work)) == 1200


def test_processes_that_come_at_once_get_one_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, work = many_shards(tmp_path, 2), tmp_path / "work"
    context = multiprocessing.get_context("fork")
    start, results = context.Barrier(3), context.Queue()
    write, notes = join.write_table, tmp_path / "notes"

    def noting(*arguments: Any) -> None:
        with notes.open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.3)
        write(*arguments)

    def work_on() -> None:
        start.wait()
        table = join_samples(*inputs, work=work)
        results.put((table.texts_hash, len(list(table)), str(next(work.glob("samples/*/samples.arrow")).stat().st_ino)))

    monkeypatch.setattr(join, "write_table", noting)
    children = [context.Process(target=work_on) for _ in range(3)]
    for child in children:
        child.start()
    found = [results.get(timeout=60) for _ in children]
    for child in children:
        child.join()
    assert len(set(found)) == 1
    assert found[0][1] == 600
    assert len(notes.read_text().split()) == 1, "one of them wrote it"


@pytest.mark.parametrize("damage", ["cut", "no description", "empty description", "another file"])
def test_a_damaged_table_is_made_again(tmp_path: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
    inputs, work = many_shards(tmp_path, 2), tmp_path / "work"
    expected = list(join_samples(*inputs, work=work))
    whole = folder_bytes(work)
    (folder,) = folders(work)
    path, about = folder / "samples.arrow", folder / "about.json"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
    elif damage == "another file":
        path.write_bytes(bytes(path.stat().st_size))
    elif damage == "no description":
        about.unlink()
    else:
        about.write_text("")
    assert list(join_samples(*inputs, work=work)) == expected
    assert "made again" in capsys.readouterr().out
    assert folder_bytes(work) == whole
