"""One stage as a process: its lines, its outcome, its failure, its lock."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from flows.repro import BusyError, StageError, only_run, reproduce


def runs(project: Path) -> list[str]:
    return (project / "runs.log").read_text().split()


def test_outcomes_and_lines(project: Path) -> None:
    lines: list[str] = []
    assert reproduce("download", project, lines.append) == "ran"
    assert "download at work" in lines
    assert not [line for line in lines if "git add" in line]
    assert reproduce("download", project, lines.append) == "unchanged"
    (project / "raw.txt").write_text("two")
    assert reproduce("download", project, lines.append) == "ran"
    (project / "raw.txt").write_text("one")
    assert reproduce("download", project, lines.append) == "restored"
    assert (project / "data.txt").read_text() == "one"
    assert runs(project) == ["download", "download"]


def test_a_failure_carries_the_end_of_the_log(project: Path) -> None:
    (project / "break-download").write_text("1")
    with pytest.raises(StageError, match=r"(?s)download failed with exit status .*no memory left"):
        reproduce("download", project, print)


def test_a_locked_project_is_busy(project: Path) -> None:
    code = (
        "import sys, time\nfrom dvc.repo import Repo\n"
        "with Repo('.').lock:\n    print('held', flush=True)\n    sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(BusyError, match="another DVC command works in this folder"):
            reproduce("download", project, print)
        holder.communicate()


def test_the_second_run_says_who_holds_the_folder(project: Path) -> None:
    code = "import sys\nfrom pathlib import Path\nfrom flows.repro import only_run\n"
    code += "with only_run(Path()):\n    print('held', flush=True)\n    sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(BusyError, match=rf"process {holder.pid}\) works in"), only_run(project):
            pass
        holder.kill()
    with only_run(project):
        pass


def test_what_a_killed_run_has_started_still_holds_the_folder(project: Path) -> None:
    code = "import sys\nfrom pathlib import Path\nfrom flows.repro import only_run, run_lines\n"
    code += "command = [sys.executable, '-c', 'import os, time; print(os.getpid(), flush=True); time.sleep(600)']\n"
    code += "with only_run(Path()):\n    run_lines(command, Path(), lambda line: print(line, flush=True), 'sleep')"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        command = psutil.Process(int(holder.stdout.readline()))
        holder.kill()
        holder.wait()
    with pytest.raises(BusyError, match=r"works in .*: wait until it ends, with all it has started"), only_run(project):
        pass
    command.kill()
    psutil.wait_procs([command], 20)
    with only_run(project):
        pass
