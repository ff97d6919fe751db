"""What works on this machine, and what to do about what does not: the checks behind `lotlip doctor`."""

import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

from lotlip.errors import LotlipError

Status = Literal["ok", "warning", "failed"]
PACKAGES = (
    "torch",
    "transformers",
    "ray",
    "openai",
    "dvc",
    "mlflow",
    "prefect",
    "great_expectations",
    "webdataset",
    "boto3",
)
PORTS = {5000: "MLflow", 4200: "Prefect"}
TELEMETRY_OFF = {
    "DVC_NO_ANALYTICS": "1",
    "DO_NOT_TRACK": "1",
    "GX_ANALYTICS_ENABLED": "false",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
}


@dataclass(frozen=True)
class Check:
    """One finding: `advice` says what to do about it and is empty when there is nothing to do."""

    name: str
    status: Status
    found: str
    advice: str = ""


def run_checks() -> list[Check]:
    """All findings, in the order of the table that the command line prints."""
    rooms: tuple[Callable[[], Iterator[Check]], ...] = (
        _python,
        _packages,
        _devices,
        _disk,
        _workspace,
        _params,
        _ports,
        _servers,
        _credentials,
        _storage,
        _telemetry,
    )
    return [check for room in rooms for check in room()]


def _python() -> Iterator[Check]:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if sys.version_info[:2] == (3, 11):
        yield Check("Python", "ok", found)
    else:
        yield Check("Python", "warning", found, "The pinned packages are tested on Python 3.11.")


def _packages() -> Iterator[Check]:
    pins = _pins(Path("requirements.txt"))
    for package in PACKAGES:
        wanted = pins.get(package)
        try:
            found = version(package)
        except PackageNotFoundError:
            yield Check(package, "failed", "not installed", "make install")
            continue
        if wanted is None or found.split("+")[0] == wanted:
            yield Check(package, "ok", found)
        else:
            yield Check(package, "warning", f"{found}, pinned {wanted}", "make install")


def _pins(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    lines = (line.partition("==") for line in path.read_text().splitlines())
    return {name.lower().replace("-", "_"): pin for name, equals, pin in lines if equals}


def _devices() -> Iterator[Check]:
    yield Check("CPU", "ok", f"{len(os.sched_getaffinity(0))} cores")
    try:
        import torch
    except ImportError as error:
        yield Check("GPU", "failed", f"torch does not import: {error}", "make install")
        return
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            yield Check("GPU", "ok", f"cuda:{index} {properties.name}, {properties.total_memory / 2**30:.0f} GiB")
    else:
        yield Check("GPU", "ok", "none: everything runs on the CPU", "Real captioners need one; the sample does not.")


def _disk() -> Iterator[Check]:
    free = shutil.disk_usage(".").free / 2**30
    found = f"{free:.1f} GiB free here"
    if free < 2:
        yield Check("Disk", "failed", found, "The demo needs about 2 GiB: `make clean` frees what runs have made.")
    else:
        yield Check("Disk", "ok", found)


def _workspace() -> Iterator[Check]:
    if shutil.which("git") is None:
        yield Check("git", "failed", "not found", "Install git: DVC needs it.")
    if not Path("dvc.yaml").is_file():
        yield Check("Workspace", "failed", f"no dvc.yaml in {Path.cwd().name}", "Run from the project's top folder.")
        return
    inside = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    if inside.returncode != 0:
        yield Check("Workspace", "warning", "not a git clone", "Clone the project, so that runs can name a commit.")
    else:
        yield Check("Workspace", "ok", f"commit {inside.stdout.strip()[:12]}")


def _params() -> Iterator[Check]:
    from lotlip.params import load_params
    from lotlip.storage.objects import is_s3

    try:
        params = load_params()
    except LotlipError as error:
        yield Check("params.yaml", "failed", str(error), "Correct params.yaml.")
        return
    yield Check("params.yaml", "ok", f"{len(params.sources)} sources, {len(params.methods)} methods")
    captioners = params.captioners.items()
    for name, one in captioners:
        if one.kind == "endpoint" and not _answers(one.url):
            yield Check(
                f"{name} endpoint", "warning", f"{_without_secrets(one.url)} does not answer", "Start the server."
            )
        elif one.kind == "endpoint":
            yield Check(f"{name} endpoint", "ok", f"{_without_secrets(one.url)} answers")
        elif one.kind == "table" and isinstance(one.path, Path) and not one.path.exists():
            advice = "Put the table there, or correct the captioner's `path`."
            yield Check(f"{name} table", "warning", f"{one.path} is missing", advice)
    checkpoints = {name: one.checkpoint for name, one in captioners if one.kind == "transformers"}
    checkpoints |= {"quality's judge": params.quality.similarity.checkpoint}
    checkpoints |= {"image tower": params.train.image_tower, "tokenizer": params.train.tokenizer}
    for name, checkpoint in checkpoints.items():
        if Path(checkpoint).is_dir() or is_s3(checkpoint):
            yield Check(f"{name} checkpoint", "ok", checkpoint)
        else:
            yield Check(
                f"{name} checkpoint",
                "warning",
                f"{checkpoint} is no folder here",
                "Taken for a hub id: it is downloaded at first use.",
            )


def _ports() -> Iterator[Check]:
    for port, server in PORTS.items():
        with socket.socket() as probe:
            probe.settimeout(0.5)
            is_taken = probe.connect_ex(("127.0.0.1", port)) == 0
        if is_taken:
            yield Check(f"Port {port}", "warning", "in use", f"`make ui` gives {server} another port.")
        else:
            yield Check(f"Port {port}", "ok", f"free for {server}")


def _servers() -> Iterator[Check]:
    for variable, default in (
        ("MLFLOW_TRACKING_URI", "mlflow.db in the project"),
        ("PREFECT_API_URL", "a server of its own for each run"),
    ):
        address = os.environ.get(variable)
        if not address or not address.startswith("http"):
            yield Check(variable, "ok", address or f"not set: {default}")
        elif _answers(address):
            yield Check(variable, "ok", f"{_without_secrets(address)} answers")
        else:
            yield Check(variable, "warning", f"{_without_secrets(address)} does not answer", "Start it, or unset it.")


def _answers(address: str) -> bool:
    from urllib.parse import urlsplit

    parts = urlsplit(address)
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
        with socket.create_connection((parts.hostname or "", port), timeout=2):
            return True
    except (OSError, ValueError):
        return False


def _without_secrets(address: str) -> str:
    scheme, separator, rest = address.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}"


def _credentials() -> Iterator[Check]:
    import boto3

    found = boto3.Session().get_credentials()
    if found is None:
        yield Check("S3 credentials", "ok", "none", "Needed for s3:// paths and an S3 DVC remote only.")
    else:
        yield Check("S3 credentials", "ok", f"from {found.method}")
    token = "HF_TOKEN" in os.environ or (Path.home() / ".cache/huggingface/token").is_file()
    advice = "" if token else "Needed for gated hub checkpoints only."
    yield Check("Hub token", "ok", "found" if token else "none", advice)


def _storage() -> Iterator[Check]:
    from lotlip.params import load_params
    from lotlip.storage.objects import list_objects

    try:
        root = load_params().storage.root
    except LotlipError:  # said above
        return
    if root is None:
        return
    try:
        next(list_objects(root), None)
    except LotlipError as error:
        yield Check("storage.root", "failed", str(error), "Data stages cannot keep their shards there.")
    else:
        yield Check("storage.root", "ok", f"{root} can be listed")


def _telemetry() -> Iterator[Check]:
    loud = [name for name, value in TELEMETRY_OFF.items() if os.environ.get(name, "").lower() != value]
    if loud:
        yield Check(
            "Telemetry",
            "warning",
            f"not switched off in this shell: {', '.join(loud)}",
            "make and lotlip switch it off; for your own shell: "
            + " ".join(f"export {name}={TELEMETRY_OFF[name]};" for name in loud),
        )
    else:
        yield Check("Telemetry", "ok", "off")
