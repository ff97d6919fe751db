"""Failed rows of a published dataset are tried again by class; a table that meets all faults at once adds up."""

import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lotlip.data.download import download_source
from lotlip.data.manifest import read_manifest
from lotlip.data.shards import ShardReader
from lotlip.data.tables import Row, error_class, read_rows
from lotlip.errors import DataError
from lotlip.params import UrlTableSource
from tests.data.datasets import flip
from tests.data.fault_server import jpeg, running_server
from tests.data.folders import folder_bytes, settings, tsv_source
from tests.faults.test_download_faults import check_every_boundary
from tests.test_cli import TOP, lotlip

ROWS = [
    *("ok/0", "flaky/404/1/1", "ok/2", "html/3"),  # shard 0: one of the class
    *("ok/4", "ok/5", "flaky/410/1/6", "ok/7"),  # shard 1: none
    *("flaky/404/1/8", "flaky/404/2/9", "ok/10", "ok/0"),  # shard 2: two, of which one fails again
]


def table(tmp_path: Path, url: str) -> UrlTableSource:
    return tsv_source(tmp_path / "t.tsv", [(path, f"at {path}") for path in ROWS], url)


def read_all(out: Path) -> list[Row]:
    manifest = read_manifest(out, "images")
    return [row for shard in manifest.shards for row in read_rows(manifest.path(shard, "table"))]


def test_a_published_datasets_rows_are_tried_again_by_class(tmp_path: Path) -> None:
    out, work = tmp_path / "web", tmp_path / "work"
    with running_server() as server:
        source = table(tmp_path, server.url)
        download_source(source, "web", settings(num_retries=0), out, work)
        before, old_rows, asked = folder_bytes(out), read_all(out), Counter(server.hits)
        report = download_source(source, "web", settings(num_retries=0), out, work, retry=["HTTP 404"])
        assert server.hits - asked == {f"/{path}": 1 for path in ROWS if "404" in path}
        rows, after = read_all(out), folder_bytes(out)
        changed = [path for path, old, new in zip(ROWS, old_rows, rows, strict=True) if old != new]
        assert changed == ["flaky/404/1/1", "flaky/404/1/8"]
        assert rows[9].error == "HTTP 404"
        assert report["errors"] == {"HTTP 404": 1, "HTTP 410": 1, "not an image": 1, "repeats an earlier row": 1} | {}
        assert {name for name in after if after[name] == before[name]} == {"web-00001.tar", "web-00001.parquet"}
        manifest = read_manifest(out, "images")
        for shard in manifest.shards:
            with ShardReader(manifest.path(shard, "tar"), shard.files["tar"].sha256) as reader:
                assert all(reader.image(key) in [jpeg(number) for number in range(11)] for key in reader.keys)
        download_source(source, "web", settings(num_retries=0), out, work, retry=["HTTP 404", "HTTP 410"])
        assert [row.status for row in read_all(out)].count("success") == 10
        whole = tmp_path / "whole"
        download_source(source, "web", settings(num_retries=0), whole, work)
        assert folder_bytes(out) == folder_bytes(whole)  # as if it had never failed


def test_a_retry_without_an_aim_says_what_there_is(tmp_path: Path) -> None:
    out, work = tmp_path / "web", tmp_path / "work"
    with running_server() as server:
        source = table(tmp_path, server.url)
        download_source(source, "web", settings(num_retries=0), out, work)
        before = folder_bytes(out)
        message = r"no row that failed with timeout or tls; it has HTTP 404 \(3\), .*not an image"
        with pytest.raises(DataError, match=message):
            download_source(source, "web", settings(), out, work, retry=["timeout", "tls"])
        with pytest.raises(DataError, match="was not made from"):
            download_source(source, "web", settings(shard_size=5), out, work, retry=["HTTP 404"])
        tsv_source(tmp_path / "t.tsv", [(path, "another caption") for path in ROWS], server.url)
        with pytest.raises(DataError, match="was not made from"):
            download_source(source, "web", settings(), out, work, retry=["HTTP 404"])
        with pytest.raises(DataError, match=r"manifest\.json is missing"):
            download_source(source, "none", settings(), tmp_path / "none", work, retry=["HTTP 404"])
    assert folder_bytes(out) == before


def test_a_damaged_dataset_is_refused_and_left_alone(tmp_path: Path) -> None:
    """One flipped byte in a tar without a row to try again, in one with, and in a table; then a missing file."""
    out, work = tmp_path / "web", tmp_path / "work"
    with running_server() as server:
        source = table(tmp_path, server.url)
        download_source(source, "web", settings(num_retries=0), out, work)
        whole, asked = folder_bytes(out), Counter(server.hits)
        for name in ("web-00001.tar", "web-00000.tar", "web-00002.parquet"):
            flip(out / name, 700)
            damaged = folder_bytes(out)
            with pytest.raises(DataError, match=rf"{name} is damaged or missing.*`lotlip verify {out} --repair`"):
                download_source(source, "web", settings(num_retries=0), out, work, retry=["HTTP 404"])
            assert folder_bytes(out) == damaged
            flip(out / name, 700)
        (out / "web-00001.tar").unlink()
        with pytest.raises(DataError, match=r"web-00001.tar is damaged or missing"):
            download_source(source, "web", settings(num_retries=0), out, work, retry=["HTTP 404"])
        (out / "web-00001.tar").write_bytes(whole["web-00001.tar"])
        assert server.hits == asked
        report = download_source(source, "web", settings(num_retries=0), out, work, retry=["HTTP 404"])
        assert report["errors"]["HTTP 404"] == 1


def test_a_retry_with_other_filters_is_refused(tmp_path: Path) -> None:
    paths = ("ok/1", "flaky/404/1/2", "ok/3", "flaky/404/1/4")
    rows = "".join(f"{path}\ta\t0.{number}\n" for number, path in enumerate(paths))
    (tmp_path / "t.tsv").write_text(f"url\tcaption\tpunsafe\n{rows}")
    out, work = tmp_path / "web", tmp_path / "work"

    def source(most: float, url: str) -> UrlTableSource:
        return UrlTableSource.model_validate(
            {"kind": "url_table", "path": tmp_path / "t.tsv", "format": "tsv", "url_column": "url", "url_prefix": url}
            | {"caption_column": "caption", "filters": {"punsafe": {"max": most}}}
        )

    with running_server() as server:
        download_source(source(0.25, server.url), "web", settings(num_retries=0), out, work)
        before = folder_bytes(out)
        for most in (0.05, 0.15, 0.9):  # leaves out the failed row, too; a good one; none
            with pytest.raises(DataError, match=r"with these filters.*give the same table, columns, filters"):
                download_source(source(most, server.url), "web", settings(), out, work, retry=["HTTP 404"])
        assert folder_bytes(out) == before
        download_source(source(0.25, server.url), "web", settings(), out, work, retry=["HTTP 404"])
    assert [row.status for row in read_all(out)] == ["success", "success", "success", "rejected"]


def test_rejected_rows_keep_their_cells_in_a_retry(tmp_path: Path) -> None:
    """Another address of the same server: only the row that is tried again comes from there."""
    out, work = tmp_path / "web", tmp_path / "work"
    with running_server() as server:
        rows = [("flaky/404/1/1", "a"), ("ok/2", "b"), ("ok/2", "b")]
        source = tsv_source(tmp_path / "t.tsv", rows, server.url)
        download_source(source, "web", settings(num_retries=0), out, work)
        before = read_all(out)
        moved = source.model_copy(update={"url_prefix": server.url.replace("127.0.0.1", "localhost")})
        download_source(moved, "web", settings(num_retries=0), out, work, retry=["HTTP 404"])
    after = read_all(out)
    assert (after[0].status, after[0].url) == ("success", f"{moved.url_prefix}/flaky/404/1/1")
    assert after[1:] == before[1:]


def test_the_command_tries_again_by_class(tmp_path: Path) -> None:
    shutil.copy(TOP / "params.yaml", tmp_path)
    with running_server() as server:
        rows = "".join(f"{server.url}/{path}\tat {path}\n" for path in ("ok/1", "flaky/404/1/2", "flaky/410/1/3"))
        (tmp_path / "t.tsv").write_text(f"url\tcaption\n{rows}")
        command = ("download", "t.tsv", "web", "--allow-private-hosts", "--workers", "1", "--concurrency", "2")
        first = lotlip(*command, cwd=tmp_path)
        assert first.returncode == 1, first.stdout
        assert "2 of 3 rows failed" in first.stderr
        assert lotlip(*command, cwd=tmp_path).returncode == 0
        assert json.loads((tmp_path / "web" / "manifest.json").read_text())["shards"][0]["num_samples"] == 3
        again = lotlip(*command, "--retry", "HTTP 410", cwd=tmp_path)
        assert again.stderr == "error: web has no row that failed with HTTP 410; it has no failed row.\n"


def test_killed_at_every_write_boundary_a_retry_gives_the_same_bytes(tmp_path: Path) -> None:
    with running_server() as server:
        rows = [("ok/1", "a"), ("status/404", "b"), ("ok/2", "c")]
        source = tsv_source(tmp_path / "t.tsv", rows, server.url)
        chosen, published = settings(shard_size=2), tmp_path / "published"
        download_source(source, "web", chosen, published, tmp_path / "first")

        def run(out: Path, work: Path) -> None:
            if not out.exists() and not work.exists():
                shutil.copytree(published, out)
            download_source(source, "web", chosen, out, work, retry=["HTTP 404"])

        assert check_every_boundary(tmp_path, run, 60) > 30
        assert folder_bytes(tmp_path / "whole") == folder_bytes(published)


MIXED: dict[str, tuple[int, str, str | None]] = {  # path: how many rows, their status and class of error
    "ok/{}": (130, "success", None),
    "slow/{}": (20, "success", None),
    "closing/{}": (20, "success", None),
    "flaky/500/1/{}": (30, "success", None),
    "flaky/503/1/{}": (10, "success", None),
    "hops/5/{}": (10, "success", None),
    "status/404/{}": (20, "failed_to_download", "HTTP 404"),
    "status/503/{}": (10, "failed_to_download", "HTTP 503"),
    "hang/{}": (6, "failed_to_download", "timeout"),
    "drip/{}": (6, "failed_to_download", "timeout"),
    "cut/{}": (10, "failed_to_download", "connection broken"),
    "endless/{}": (4, "failed_to_download", "too many bytes"),
    "loop/{}": (5, "failed_to_download", "too many redirects"),
    "to/ftp:~~127.0.0.1~{}": (5, "failed_to_download", "scheme refused"),
    "http://no-such-host.invalid/{}": (2, "failed_to_download", "host not found"),
    "typed/text~html/{}": (10, "failed_to_decode", "not an image"),
    "html/{}": (10, "failed_to_decode", "not an image"),
    "corrupt/{}": (10, "failed_to_decode", "damaged image"),
    "bomb/{}": (10, "failed_to_decode", "image too large"),
    "tagged/noai/{}": (10, "rejected", "robots"),
    "secret/{}": (5, "rejected", "robots"),
}


def test_all_faults_at_once_add_up_exactly(tmp_path: Path) -> None:
    rows = [path.format(number) for path, (count, *_) in MIXED.items() for number in range(count)]
    random.Random(0).shuffle(rows)
    changes: dict[str, Any] = {"respect_robots": True, "timeout_s": 2.0, "shard_size": 50, "concurrency": 16}
    with running_server() as server:
        server.robots = (200, "User-agent: *\nDisallow: /secret\n", {})
        source = tsv_source(tmp_path / "t.tsv", [(path, f"at {path}") for path in [*rows, *rows[:7]]], server.url)
        report = download_source(
            source, "web", settings(**changes, max_per_host=16), tmp_path / "out", tmp_path / "work"
        )
        hits = server.hits
    found = Counter((row.status, row.error and error_class(row.error)) for row in read_all(tmp_path / "out"))
    expected = Counter({("rejected", "repeats an earlier row"): 7})
    for count, *outcome in MIXED.values():
        expected[tuple(outcome)] += count
    assert found == expected
    assert report["requested"] == len(rows) + 7
    assert report["errors"] == {
        error: sum(count for (_, name), count in expected.items() if name == error) for error in report["errors"]
    }
    assert sum(report["errors"].values()) == report["requested"] - report["success"]
    assert report["success"] == read_manifest(tmp_path / "out", "images").num_samples == 220
    once = ("ok/", "slow/", "closing/", "status/404", "typed/", "html/", "corrupt/", "bomb/", "tagged/", "endless/")
    assert {hits[f"/{path}"] for path in rows if path.startswith(once)} == {1}
    twice = ("flaky/", "status/503", "hang/", "drip/", "cut/")
    assert {hits[f"/{path}"] for path in rows if path.startswith(twice)} == {2}
    assert not {path for path in hits if path.startswith("/secret")}
    assert hits["/robots.txt"] == 1
