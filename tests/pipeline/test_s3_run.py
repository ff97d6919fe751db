"""The whole graph from and to a real S3 server: the table lies there, pictures come over a faulty network, shards and
sidecars go there, and another machine takes over from DVC's remote in the same bucket.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lotlip.data.manifest import read_manifest
from lotlip.data.tables import error_class, read_rows
from lotlip.records import write_text
from lotlip.storage import objects
from tests.pipeline.pictures import PICTURES, FaultyHandler, configure, fault_of, read_pairs, serve
from tests.pipeline.workspace import Workspace
from tests.s3_server import BUCKET, S3Server, running_s3, use

pytestmark = [
    pytest.mark.pipeline,
    pytest.mark.server,
    pytest.mark.skipif(not PICTURES.is_dir(), reason="../shared/data/pictures is not beside the project"),
]
NUM_PICTURES = 120
ROOT = f"s3://{BUCKET}/store"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    folder = tmp_path_factory.mktemp("s3")
    with running_s3(folder / "server") as server, pytest.MonkeyPatch.context() as patch:
        use(server, patch, folder)
        patch.delenv("LOTLIP_CACHE_DIR")  # each workspace has its own
        yield server
    objects._client_of.cache_clear()


@pytest.fixture(scope="module")
def workspace(server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """The graph, run to the end and pushed."""
    workspace = Workspace(tmp_path_factory.mktemp("first") / "project")
    rows = [f"{caption}\t{path}".encode() for caption, path in read_pairs(NUM_PICTURES)]
    url = server.put("sources/pictures.tsv", b"\n".join(rows) + b"\n")
    with serve(PICTURES, FaultyHandler) as address:
        configure(
            workspace,
            address,
            rows,
            f"sources.mine.path={url}",
            f"storage.root={ROOT}",
            "download.num_retries=1",
            "train.epochs=2",
            "train.batch_size=16",
            "methods.lit_long=null",
            "captioners.instructblip=null",
            "captioners.sharegpt4v=null",
        )
        workspace.succeed("dvc", "repro")
    workspace.succeed("dvc", "remote", "add", "--default", "store", f"s3://{BUCKET}/dvc")
    workspace.commit("Run")
    workspace.succeed("dvc", "push")
    return workspace


def report(workspace: Workspace, name: str) -> Any:
    return json.loads((workspace.folder / "reports" / name).read_text())


def expected() -> tuple[int, Counter[str]]:
    """Good rows, and errors by class, as the server's faults make them."""
    outcomes = [fault_of(path)[1] for _, path in read_pairs(NUM_PICTURES)]
    return outcomes.count(None), Counter(outcome for outcome in outcomes if outcome)


def test_the_counts_are_those_of_the_injected_faults(workspace: Workspace) -> None:
    good, errors = expected()
    assert len(errors) == 3, "the pictures meet every fault"
    downloaded = report(workspace, "download/mine.json")
    assert (downloaded["requested"], downloaded["success"]) == (NUM_PICTURES, good)
    assert downloaded["errors"] == dict(errors)
    funnel = report(workspace, "validate/summary.json")["funnel"]
    captioned = report(workspace, "recaption/llava.json")
    assert captioned["requested"] == captioned["captioned"] + captioned["failed"] == good
    assert next(iter(funnel.values())) == NUM_PICTURES


def test_folders_hold_manifests_alone_and_the_bucket_the_rest(workspace: Workspace, server: S3Server) -> None:
    for name in ("images/mine", "captions/llava", "quarantine", "quality"):
        folder = workspace.folder / "data" / name
        assert [path.name for path in folder.iterdir()] == ["manifest.json"]
        for shard in read_manifest(folder).shards:
            for file in shard.files.values():
                assert file.path.startswith(f"{ROOT}/objects/{file.sha256[:2]}/{file.sha256}")
    assert [key for key in server.list_keys("store/checkpoints") if key.endswith(".pt")]
    assert not server.list_keys("store/leases"), "every lease was given back"


def test_another_machine_goes_on_from_the_bucket(workspace: Workspace, tmp_path: Path) -> None:
    other = Workspace(tmp_path / "other")
    shutil.rmtree(other.folder)
    workspace.git("clone", "--quiet", str(workspace.folder), str(other.folder))
    other.succeed("dvc", "pull")
    assert "up to date" in other.succeed("dvc", "status")
    assert not (other.folder / ".work").exists()
    shown = other.succeed("lotlip", "verify", "data/images/mine")
    assert f"{expected()[0]} samples: whole" in shown
    other.succeed("lotlip", "verify", "data/captions/llava")
    other.succeed("lotlip", "configure", "--set", "methods.lotlip.corner_tokens=4")
    assert "Running stage 'train@lotlip'" in other.succeed("dvc", "repro", "train@lotlip")


def test_shards_in_a_bucket_are_a_source(workspace: Workspace, server: S3Server, tmp_path: Path) -> None:
    manifest = read_manifest(workspace.folder / "data/images/mine", "images")
    for shard in manifest.shards:
        for role, ending in (("tar", "tar"), ("table", "parquet")):
            path = shard.files[role].path.removeprefix(f"s3://{BUCKET}/")
            server.put(f"foreign/{shard.name}.{ending}", server.read(path))
    text = f"sources: {{mine: null, again: {{kind: shards, path: 's3://{BUCKET}/foreign'}}}}\nevalsets: null\n"
    again = Workspace(tmp_path / "again")
    write_text(again.folder / "params.yaml", (workspace.folder / "params.yaml").read_text())
    write_text(again.folder / "conf/again.yaml", text.replace("evalsets: null\n", ""))
    again.succeed(
        "lotlip", "configure", "conf/again.yaml", "--set", "evalsets.held_out=null", "--set",
        "evalsets.long={kind: scenes, path: lotlip/sample/scenes.py, texts: reference, num_images: 2, seed: 1}",
    )  # fmt: skip
    again.succeed("dvc", "repro", "download@again")
    good, errors = expected()
    found = read_manifest(again.folder / "data/images/again", "images")
    rows = [row for shard in found.shards for row in read_rows(found.path(shard, "table"))]
    assert len(rows) == NUM_PICTURES
    assert Counter(row.status for row in rows)["success"] == good
    assert Counter(error_class(row.error) for row in rows if row.error) == errors
    digests = [shard.files["tar"].sha256 for shard in found.shards]
    assert digests == [shard.files["tar"].sha256 for shard in manifest.shards], "good tars are taken byte by byte"
