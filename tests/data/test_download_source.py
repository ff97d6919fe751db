"""Downloading from well-behaved servers: what comes out, and that it comes out the same."""

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lotlip.data.download import download_source
from lotlip.data.manifest import read_manifest
from lotlip.data.shards import ShardReader, as_webdataset
from lotlip.data.tables import Row, read_rows
from lotlip.errors import DataError
from lotlip.params import ScenesSource, UrlTableSource
from lotlip.records import sha256_bytes
from tests.data.fault_server import jpeg, running_server
from tests.data.folders import folder_bytes, settings, tsv_source

PICTURES = Path(__file__).parents[3] / "shared" / "data" / "pictures"
RENDERER = Path("lotlip/sample/scenes.py")


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_rows_become_shards_in_the_order_of_the_table(tmp_path: Path) -> None:
    with running_server() as server:
        rows = [(f"ok/{i}", f"picture {i}") for i in range(9)]
        source = tsv_source(tmp_path / "t.tsv", rows, server.url)
        report = download_source(source, "web", settings(), tmp_path / "out", tmp_path / "work")
    manifest = read_manifest(tmp_path / "out", "images")
    assert [(shard.name, shard.num_samples) for shard in manifest.shards] == [
        ("web-00000", 4),
        ("web-00001", 4),
        ("web-00002", 1),
    ]
    table = _rows(tmp_path / "out")
    assert [(row.caption, row.sha256) for row in table] == [(f"picture {i}", sha256_bytes(jpeg(i))) for i in range(9)]
    samples = list(as_webdataset(manifest))
    assert [sample["jpg"] for sample in samples] == [jpeg(i) for i in range(9)]
    assert json.loads(samples[3]["json"]) == {
        "key": table[3].key,
        "url": f"{server.url}/ok/3",
        "caption": "picture 3",
        "width": 48,
        "height": 40,
        "sha256": table[3].sha256,
    }
    assert report == {
        "source": "web",
        "kind": "url_table",
        "requested": 9,
        "success": 9,
        "failed_to_download": 0,
        "failed_to_decode": 0,
        "rejected": 0,
        "filtered": 0,
        "failed_share": 0.0,
        "shards": 3,
        "bytes": sum(shard.files["tar"].num_bytes for shard in manifest.shards),
        "errors": {},
        "duplicates": {  # one colour each: no shape that would tell them apart
            "exact": 0,
            "near": 8,
            "near_bits": 4,
            "largest": [{"images": 9, "keys": [row.key for row in table]}],
        },
    }
    assert not [path for path in (tmp_path / "work").iterdir() if path.name != "lock"]


def test_equal_inputs_give_equal_bytes_whatever_the_order_of_arrival(tmp_path: Path) -> None:
    with running_server() as server:
        rows = [(f"{'slow' if i % 3 else 'ok'}/{i}", f"picture {i}") for i in range(10)]
        source = tsv_source(tmp_path / "t.tsv", rows, server.url)
        results = []
        for concurrency in (1, 8):
            out = tmp_path / f"out{concurrency}"
            download_source(source, "web", settings(concurrency=concurrency), out, tmp_path / "work")
            results.append(folder_bytes(out))
    assert results[0] == results[1]


def test_rejected_rows_are_never_requested(tmp_path: Path) -> None:
    with running_server() as server:
        source = tsv_source(tmp_path / "t.tsv", [("ok/1", "a"), ("ok/1", "a"), ("ok/2", "b")], server.url)
        report = download_source(source, "web", settings(), tmp_path / "out", tmp_path / "work")
        assert server.hits == {"/ok/1": 1, "/ok/2": 1}
    assert (report["success"], report["rejected"]) == (2, 1)
    assert report["errors"] == {"repeats an earlier row": 1}


def test_a_second_run_in_the_same_folder_is_turned_away(tmp_path: Path) -> None:
    with running_server() as server:
        source = tsv_source(tmp_path / "t.tsv", [("hang/1", "a"), ("ok/1", "b")], server.url)
        arguments = (
            source,
            "web",
            settings(timeout_s=3.0, num_retries=0),
            tmp_path / "out",
            tmp_path / "work",
        )
        first = threading.Thread(target=download_source, args=arguments)
        first.start()
        while not server.hits["/hang/1"]:
            time.sleep(0.005)
        with pytest.raises(DataError, match="Another run is at work"):
            download_source(*arguments)
        first.join()
    assert read_manifest(tmp_path / "out", "images").num_samples == 1


def test_scenes_are_rendered_with_keys_from_their_seed(tmp_path: Path) -> None:
    source = ScenesSource(kind="scenes", path=RENDERER, num_images=6, seed=7)
    report = download_source(source, "scenes", settings(), tmp_path / "a", tmp_path / "work")
    download_source(source, "scenes", settings(), tmp_path / "b", tmp_path / "work")
    assert folder_bytes(tmp_path / "a") == folder_bytes(tmp_path / "b")
    more = ScenesSource(kind="scenes", path=RENDERER, num_images=7, seed=7)
    download_source(more, "scenes", settings(shard_size=100), tmp_path / "c", tmp_path / "work")
    few, many = _rows(tmp_path / "a"), _rows(tmp_path / "c")
    assert many[:6] == few
    assert len({row.key for row in many}) == 7
    assert report["success"] == 6
    with ShardReader(tmp_path / "a" / "scenes-00000.tar") as reader:
        assert reader.image(reader.keys[0]).startswith(b"\x89PNG")
        assert reader.caption(reader.keys[0]) == few[0].caption


def _rows(folder: Path) -> list[Row]:
    manifest = read_manifest(folder, "images")
    return [row for shard in manifest.shards for row in read_rows(manifest.path(shard, "table"))]


@pytest.mark.skipif(not PICTURES.is_dir(), reason=f"the real pictures are not at {PICTURES}")
def test_real_pictures_of_three_formats_come_through(tmp_path: Path) -> None:
    lines = (PICTURES / "table.tsv").read_text(encoding="utf-8").splitlines()[:45]
    (tmp_path / "t.tsv").write_text("\n".join(lines), encoding="utf-8")
    with served(PICTURES) as url:
        source = UrlTableSource(
            kind="url_table",
            path=tmp_path / "t.tsv",
            format="tsv",
            url_column=0,
            caption_column=1,
            url_prefix=url,
        )
        report = download_source(source, "pictures", settings(), tmp_path / "out", tmp_path / "work")
    assert (report["requested"], report["success"]) == (45, 45)
    manifest = read_manifest(tmp_path / "out", "images")
    found = Counter(
        extension for sample in as_webdataset(manifest) for extension in ("jpg", "png", "webp") if extension in sample
    )
    assert found == Counter(line.partition("\t")[0].rpartition(".")[2] for line in lines)
    assert len(found) == 3
