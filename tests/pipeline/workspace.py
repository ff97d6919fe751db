"""A copy of the project in a folder of its own, with its own git and DVC, where the whole graph can run."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).parents[2]


class Workspace:
    """The project as a fresh clone would have it; commands run in it with this environment's tools."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=TOP,
            capture_output=True,
            check=True,
        ).stdout.decode()
        for name in filter(None, listed.split("\0")):
            if (TOP / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(TOP / name, folder / name)
        (folder / "dvc.lock").unlink(missing_ok=True)
        self.git("init", "--quiet")
        self.commit("The project")

    def run(self, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end, whatever its exit status; output and errors are captured together."""
        return subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment(**environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def succeed(self, *command: str, **environment: str) -> str:
        """Run a command that must succeed, and return its output."""
        done = self.run(*command, **environment)
        assert done.returncode == 0, f"{' '.join(command)} exited {done.returncode}:\n{done.stdout[-4000:]}"
        return done.stdout

    def start(self, *command: str) -> subprocess.Popen[str]:
        """Start a command in a process group of its own."""
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=self.environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def environment(self, **changes: str) -> dict[str, str]:
        tools = str(Path(sys.executable).parent)
        telemetry_off = {"DVC_NO_ANALYTICS": "1", "DO_NOT_TRACK": "1", "MLFLOW_DISABLE_TELEMETRY": "true"}
        path = f"{tools}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, **telemetry_off, "PATH": path, "PYTHONPATH": str(self.folder), **changes}

    def git(self, *arguments: str) -> str:
        identity = ["-c", "user.name=test", "-c", "user.email=test@localhost"]
        return self.succeed("git", *identity, *arguments)

    def commit(self, message: str) -> None:
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", message)

    def stages_to_run(self) -> set[str]:
        """Names of the stages that `dvc repro` would run now, directly or because of what they depend on."""
        lines = self.succeed("dvc", "repro", "--dry").splitlines()
        return {line.split("'")[1] for line in lines if line.startswith("Running stage")}
