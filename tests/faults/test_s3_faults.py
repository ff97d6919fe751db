"""Datasets whose files lie in S3: killed, cut off and damaged in the middle, and never two runs at once."""

import errno
import multiprocessing
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from lotlip.captioning.backends import open_captioner
from lotlip.captioning.shards import caption_shards
from lotlip.captioning.tables import read_captions
from lotlip.data import packing
from lotlip.data.download import download_source
from lotlip.data.manifest import Shard, describe_file, read_manifest, write_manifest
from lotlip.data.shards import ShardReader
from lotlip.data.tables import read_rows
from lotlip.data.verify.datasets import verify_dataset
from lotlip.data.verify.repair import repair_dataset
from lotlip.errors import DataError, ModelError, StorageError
from lotlip.params import Download, ScenesSource, load_params
from lotlip.records import publish_folder
from lotlip.storage import objects
from lotlip.storage.leases import leased
from tests.captioning.samples import captioner_params
from tests.captioning.tiny import build_tiny_llava
from tests.s3_server import BUCKET, S3Server, running_s3, s3, s3_process, use
from tests.training.tiny_training import KillAt, Project

__all__ = ["s3", "s3_process"]
pytestmark = pytest.mark.server
NUM, SHARDS = 12, 3
SOURCE = ScenesSource(kind="scenes", path=Path("scenes.py"), num_images=NUM, seed=5)


def settings() -> Download:
    return load_params().download.model_copy(update={"shard_size": NUM // SHARDS})


def download(tmp_path: Path, root: str | None, out: str = "out", work: str = "unfinished/scenes") -> None:
    download_source(SOURCE, "scenes", settings(), tmp_path / out, tmp_path / work, root)


def contents(folder: Path) -> dict[str, tuple[bytes, str]]:
    """Image and caption of every sample, read as any stage reads them."""
    found = {}
    manifest = read_manifest(folder, "images")
    for shard in manifest.shards:
        with ShardReader(manifest.path(shard, "tar"), shard.files["tar"].sha256) as reader:
            found.update({key: (reader.image(key), reader.caption(key)) for key in reader.keys})
        assert {row.key for row in read_rows(manifest.path(shard, "table"))} <= found.keys()
    return found


def test_images_and_captions_lie_in_s3_and_read_as_from_disk(s3: S3Server, tmp_path: Path) -> None:
    root = f"s3://{BUCKET}/{time.time_ns()}"
    download(tmp_path, None, "here", "unfinished/here")
    download(tmp_path, root)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["manifest.json"]
    assert contents(tmp_path / "out") == contents(tmp_path / "here")
    here, there = (read_manifest(tmp_path / name, "images") for name in ("here", "out"))
    assert [shard.files["tar"].sha256 for shard in there.shards] == [shard.files["tar"].sha256 for shard in here.shards]
    captioner = open_captioner(captioner_params(build_tiny_llava(tmp_path / "llava")))
    for manifest, name, place in ((there, "captions", root), (here, "captions_here", None)):
        report = caption_shards(
            [manifest],
            tmp_path / name,
            lambda: captioner,
            batch_size=4,
            max_pixels=10**6,
            work=tmp_path / "work" / name,
            root=place,
        )
        assert report["requested"] == NUM
    assert [path.name for path in (tmp_path / "captions").iterdir()] == ["manifest.json"]
    written, expected = (read_manifest(tmp_path / name, "captions") for name in ("captions", "captions_here"))
    for shard, other in zip(written.shards, expected.shards, strict=True):
        assert read_captions(written.path(shard, "table")) == read_captions(expected.path(other, "table"))


def child(work: Callable[[], None]) -> int:
    """Run in a process of its own; minus the signal that ended it, or its exit status."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def test_killed_between_any_two_uploads_the_next_run_uploads_the_rest(s3: S3Server, tmp_path: Path) -> None:
    download(tmp_path, None, "here", "unfinished/here")
    for number in range(1, 2 * SHARDS + 1):
        root = f"s3://{BUCKET}/{time.time_ns()}"
        out, work = f"out{number}", f"unfinished{number}/scenes"

        def until_killed(number: int = number, root: str = root, out: str = out, work: str = work) -> None:
            import lotlip.data.manifest as module

            real, left = module.store, [number]

            def deadly(path: Path, root: str, sha256: str) -> str:
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(path, root, sha256)

            module.store = deadly
            download(tmp_path, root, out, work)

        assert child(until_killed) == -signal.SIGKILL
        assert not (tmp_path / out).exists()
        before = s3.list_keys(f"{root.rpartition('/')[2]}/objects")
        assert len(before) == number - 1
        s3.client().delete_object(Bucket=BUCKET, Key=f"{root.rpartition('/')[2]}/leases/unfinished{number}/scenes")
        download(tmp_path, root, out, work)
        assert contents(tmp_path / out) == contents(tmp_path / "here")


def test_an_outage_stops_the_stage_with_a_message_and_the_next_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_s3(tmp_path / "server") as server:
        use(server, monkeypatch, tmp_path)
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        root = f"s3://{BUCKET}/store"
        stopped = threading.Event()

        def stop_at_first_upload(*arguments: object) -> None:
            if not stopped.is_set():
                server.stop()
                stopped.set()

        real = packing.write_manifest
        monkeypatch.setattr(packing, "write_manifest", lambda *a: (stop_at_first_upload(), real(*a))[1])
        with pytest.raises(StorageError, match=r"cannot be used.*run again: what is finished is kept"):
            download(tmp_path, root)
        assert not (tmp_path / "out").exists()
        marks = list((tmp_path / "unfinished/scenes").rglob("*.shard.json"))
        assert len(marks) == SHARDS, "the rendered shards are kept"
        rendered = {mark: mark.stat().st_mtime_ns for mark in marks}
        server.start()
        monkeypatch.setattr(packing, "write_manifest", lambda *a: (check_kept(rendered), real(*a))[1])
        lease_of_a_dead_run(server)
        download(tmp_path, root)
        assert len(contents(tmp_path / "out")) == NUM
        server.stop()
        objects._client_of.cache_clear()
        monkeypatch.setenv("LOTLIP_CACHE_DIR", str(tmp_path / "empty"))
        with pytest.raises(StorageError, match="cannot be used"):
            contents(tmp_path / "out")


def check_kept(rendered: dict[Path, int]) -> None:
    assert {mark: mark.stat().st_mtime_ns for mark in rendered} == rendered


def lease_of_a_dead_run(server: S3Server) -> None:
    """The run that met the outage could not give its lease back: without this, the next waits for its end."""
    server.client().delete_object(Bucket=BUCKET, Key="store/leases/unfinished/scenes")


def test_two_runs_on_one_storage_and_the_second_is_told(s3: S3Server, tmp_path: Path) -> None:
    root = f"s3://{BUCKET}/{time.time_ns()}"
    with leased(f"{root}/leases/unfinished/scenes"), pytest.raises(DataError, match="Another run is at work"):
        download(tmp_path, root)
    download(tmp_path, root)


def test_verify_reads_the_objects_anew_and_repair_makes_room_for_good_ones(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = f"s3://{BUCKET}/{time.time_ns()}"
    download(tmp_path, root)
    assert not verify_dataset(tmp_path / "out").problems
    shards = read_manifest(tmp_path / "out", "images").shards
    damaged, missing = shards[0].files["tar"].path, shards[2].files["table"].path
    s3.put(damaged.removeprefix(f"s3://{BUCKET}/"), b"other bytes")
    s3.client().delete_object(Bucket=BUCKET, Key=missing.removeprefix(f"s3://{BUCKET}/"))
    findings = verify_dataset(tmp_path / "out")
    assert [problem.file for problem in findings.problems] == [damaged, missing]
    assert [shard.name for shard in findings.damaged] == ["scenes-00000", "scenes-00002"]
    repair = repair_dataset(findings)
    assert repair is not None
    assert (repair.shards, repair.without_url) == (["scenes-00000", "scenes-00002"], 2 * NUM // SHARDS)
    assert [shard.name for shard in read_manifest(tmp_path / "out").shards] == ["scenes-00001"]
    assert repair.renamed == [f"{damaged}.damaged"]
    assert objects.read_object(f"{damaged}.damaged") == b"other bytes"
    assert not verify_dataset(tmp_path / "out").problems
    download(tmp_path, root)  # the stage again
    assert damaged in [shard.files["tar"].path for shard in read_manifest(tmp_path / "out").shards]
    assert not verify_dataset(tmp_path / "out").problems
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    objects._client_of.cache_clear()
    with pytest.raises(StorageError, match="cannot be used"):  # an outage says nothing about the files
        verify_dataset(tmp_path / "out")


class Outage(KillAt):
    """A callback that takes the server away once training has started."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(step=10**9)
        self._monkeypatch = monkeypatch

    def on_start(self, step: int, num_steps: int) -> None:
        self._monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        self._monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        objects._client_of.cache_clear()


def copies(s3: S3Server, root: str) -> list[str]:
    """URLs of a training's copies below `root`."""
    return [found.url for found in objects.list_objects(f"{root}/checkpoints")]


def test_training_goes_on_on_another_machine_and_when_the_copy_fails(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    torch.set_num_threads(1)
    root = f"s3://{BUCKET}/{time.time_ns()}"
    project = Project(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        project.train(work="one", callbacks=(KillAt(step=6),), root=root, checkpoints={"every_steps": 1})
    watcher = KillAt(step=10**9)
    project.train(work="another", callbacks=(watcher,), root=root, checkpoints={"every_steps": 1})
    assert watcher.started_at == 5
    project.train(name="whole", work="third")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("model", "whole")]
    assert weights[0] == weights[1]
    for url in copies(s3, root):
        objects.delete_object(url)
    project.train(name="alone", work="fourth", callbacks=(Outage(monkeypatch),), root=root)
    assert (tmp_path / "alone" / "model.safetensors").read_bytes() == weights[0]
    assert "warning: no copy of the checkpoint" in capfd.readouterr().out


def test_the_newest_checkpoint_is_taken_wherever_it_is(s3: S3Server, tmp_path: Path) -> None:
    root, project = f"s3://{BUCKET}/{time.time_ns()}", Project(tmp_path)
    often = {"checkpoints": {"every_steps": 1}}
    for work, stops_at, starts_at in (("one", 3, 0), ("two", 9, 2), ("one", 11, 8), ("three", 12, 10)):
        watcher = KillAt(stops_at)
        with pytest.raises(KeyboardInterrupt):
            project.train(work=work, callbacks=(watcher,), root=root, **often)
        assert watcher.started_at == starts_at, work
        (url,) = copies(s3, root)
        assert url.endswith(f"step-{stops_at - 1:09d}.pt")


def test_a_damaged_copy_says_where_it_is(s3: S3Server, tmp_path: Path) -> None:
    root, project = f"s3://{BUCKET}/{time.time_ns()}", Project(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        project.train(work="one", callbacks=(KillAt(6),), root=root)
    (url,) = copies(s3, root)
    s3.overwrite(url, objects.read_object(url)[:1000])
    for _ in range(2):
        with pytest.raises(ModelError, match=f"all 1 are damaged: remove the folder, and {url.rpartition('/')[0]},"):
            project.train(work="another", root=root)
    watcher = KillAt(step=10**9)
    project.train(work="one", callbacks=(watcher,), root=root)
    assert watcher.started_at == 4


def test_shards_with_equal_bytes_are_one_object_and_whole(s3: S3Server, tmp_path: Path) -> None:
    download(tmp_path, f"s3://{BUCKET}/{time.time_ns()}")
    images = read_manifest(tmp_path / "out", "images")
    empty = tmp_path / "quarantine"
    with publish_folder(empty) as staging:
        shards = []
        for shard in images.shards:
            write_table(staging / f"{shard.name}.parquet")
            files = {"table": describe_file(staging, f"{shard.name}.parquet")}
            shards.append(Shard(shard.name, 0, files, shard.files["tar"].sha256))
        write_manifest(staging, "quarantine", shards, f"s3://{BUCKET}/equal")
    assert len({shard.files["table"].path for shard in read_manifest(empty).shards}) == 1
    for _ in range(5):
        assert not verify_dataset(empty, [tmp_path / "out"]).problems


def test_a_full_disk_says_nothing_about_objects(s3: S3Server, tmp_path: Path) -> None:
    download(tmp_path, f"s3://{BUCKET}/{time.time_ns()}")

    def on_a_small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            verify_dataset(tmp_path / "out")
        except OSError as error:
            os._exit(7 if error.errno == errno.EFBIG else 8)
        os._exit(0)

    assert child(on_a_small_disk) == 7


def write_table(path: Path) -> None:
    """An empty quarantine."""
    schema = pa.schema([(name, pa.string()) for name in ("key", "subject", "reason")])
    pq.write_table(pa.Table.from_pylist([], schema=schema), path)


@pytest.mark.parametrize("role", ["tar", "table"])
def test_an_object_damaged_in_s3_is_found_when_read(s3: S3Server, tmp_path: Path, role: str) -> None:
    root = f"s3://{BUCKET}/{time.time_ns()}"
    download(tmp_path, root)
    url = read_manifest(tmp_path / "out", "images").shards[1].files[role].path
    key = url.removeprefix(f"s3://{BUCKET}/")
    body = bytearray(s3.client().get_object(Bucket=BUCKET, Key=key)["Body"].read())
    body[len(body) // 2] ^= 1
    s3.put(key, bytes(body))
    with pytest.raises(StorageError, match=f"{key}.*the object is damaged"):
        contents(tmp_path / "out")
    s3.client().delete_object(Bucket=BUCKET, Key=key)
    with pytest.raises(StorageError, match="no such object"):
        contents(tmp_path / "out")
