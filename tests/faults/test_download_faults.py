"""Downloads from a real server that misbehaves, and killed runs: nothing is lost, the next run goes on."""

import os
import resource
import signal
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from lotlip.data.download import download_source
from lotlip.data.manifest import read_manifest
from lotlip.data.tables import Row, read_rows
from lotlip.data.web import addresses, fetch
from lotlip.errors import CeilingError, DataError
from lotlip.params import ScenesSource, UrlTableSource
from tests.data.fault_server import FaultServer, running_server
from tests.data.folders import folder_bytes, settings, tsv_source


def download(tmp_path: Path, source: UrlTableSource, **changes: Any) -> tuple[dict[str, Any], list[Row]]:
    report = download_source(source, "web", settings(**changes), tmp_path / "out", tmp_path / "work")
    manifest = read_manifest(tmp_path / "out", "images")
    return report, [row for shard in manifest.shards for row in read_rows(manifest.path(shard, "table"))]


def one(tmp_path: Path, server: FaultServer, path: str, **changes: Any) -> Row:
    """The row of a single faulty path, beside a good one."""
    source = tsv_source(tmp_path / "t.tsv", [("ok/0", "good"), (path, "faulty")], server.url)
    _, rows = download(tmp_path, source, **changes)
    assert rows[0].status == "success"
    return rows[1]


FAULTS = {
    "ok/1": ("success", None),
    "status/404": ("failed_to_download", "HTTP 404"),
    "status/403": ("failed_to_download", "HTTP 403"),
    "status/503": ("failed_to_download", "HTTP 503"),
    "flaky/500/1/2": ("success", None),
    "flaky/429/1/3": ("success", None),
    "hang/1": ("failed_to_download", "timeout"),
    "drip/1": ("failed_to_download", "timeout"),
    "announced/200001": ("failed_to_download", "too many bytes: more than 200000"),
    "endless/1": ("failed_to_download", "too many bytes: more than 200000"),
    "cut/1": ("failed_to_download", "connection broken"),
    "loop/1": ("failed_to_download", "too many redirects: more than 5"),
    "hops/5/4": ("success", None),
    "hops/6/5": ("failed_to_download", "too many redirects: more than 5"),
    "to/ftp:~~127.0.0.1~file": ("failed_to_download", "scheme refused: neither http nor https"),
    "to/file:~~~etc~passwd": ("failed_to_download", "scheme refused: neither http nor https"),
    "corrupt/1": ("failed_to_decode", "damaged image"),
    "bomb/1": ("failed_to_decode", "image too large"),
    "html/1": ("failed_to_decode", "not an image"),
    "ftp://127.0.0.1/1": ("failed_to_download", "scheme refused: neither http nor https"),
    "http://127.0.0.1:1/refused": ("failed_to_download", "cannot connect"),
    "http://127.0.0.1:99999/": ("failed_to_download", "invalid URL"),
    "http://[bad/": ("failed_to_download", "invalid URL"),
    "http://no-such-host.invalid/1": ("failed_to_download", "host not found"),
}


def test_every_fault_becomes_a_row_with_its_reason_and_the_counts_add_up(tmp_path: Path) -> None:
    with running_server() as server:
        source = tsv_source(tmp_path / "t.tsv", [(path, f"at {path}") for path in FAULTS], server.url)
        with source.path.open("ab") as file:
            file.write(b"caf\xe9\tok/77\nat ok/1\tok/1\n")
        started = time.monotonic()
        report, rows = download(tmp_path, source, timeout_s=2.0)
        assert time.monotonic() - started < 20  # nothing hangs: two attempts of two seconds, and the pauses
        assert "/ok/77" not in server.hits
        assert server.hits["/status/404"] == 1  # will not pass: asked once
        assert server.hits["/status/503"] == server.hits["/hang/1"] == server.hits["/cut/1"] == 2
    expected = [*FAULTS.values(), ("rejected", "caption is not UTF-8"), ("rejected", "repeats row 1")]
    for row, (status, error) in zip(rows, expected, strict=True):
        assert (row.status, row.url, (row.error or "")[: len(error or "")]) == (status, row.url, error or "")
    assert [row.caption for row in rows[: len(FAULTS)]] == [f"at {path}" for path in FAULTS]
    assert len({row.key for row in rows}) == len(rows) == report["requested"]
    counted = sum(report[status] for status in ("success", "failed_to_download", "failed_to_decode", "rejected"))
    assert counted == report["requested"]
    assert sum(report["errors"].values()) == report["requested"] - report["success"]
    assert report["errors"]["timeout"] == report["errors"]["too many bytes"] == 2
    assert read_manifest(tmp_path / "out", "images").num_samples == report["success"] == 4


def test_retry_after_is_waited_for(tmp_path: Path) -> None:
    with running_server() as server:
        assert one(tmp_path, server, "flaky/429/1/1").status == "success"
        first, second = server.times["/flaky/429/1/1"]
    assert 1.0 <= second - first < 5.0


def test_too_long_a_retry_after_ends_the_attempts(tmp_path: Path) -> None:
    with running_server() as server:
        assert one(tmp_path, server, "later/3600").error == "HTTP 429"
        assert server.hits["/later/3600"] == 1


def test_retry_after_may_be_a_date() -> None:
    assert 50 < fetch._retry_after_s(formatdate(time.time() + 60, usegmt=True)) <= 60
    assert fetch._retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    assert fetch._retry_after_s("2") == 2
    assert fetch._retry_after_s("soon") == fetch._retry_after_s("-5") == 0


def test_private_hosts_are_refused_by_address_and_by_name(tmp_path: Path) -> None:
    with running_server() as server:
        port = server.url.rpartition(":")[2]
        hosts = [
            "127.0.0.1",
            "localhost",
            "[::1]",
            "0.0.0.0",
            "169.254.169.254",
            "10.0.0.1",
            "[::ffff:127.0.0.1]",
        ]
        urls = [(f"http://{host}:{port}/ok/1", host) for host in hosts]
        source = tsv_source(tmp_path / "t.tsv", urls)
        with pytest.raises(CeilingError, match=r"7 of 7 rows failed.*address refused \(7\)"):
            download(tmp_path, source, allow_private_hosts=False)
        assert not server.hits


def test_a_redirect_to_a_private_address_is_refused_at_its_hop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """127.0.0.1 plays the public server, 127.0.0.2 the private one: only the rule is moved, not the check."""
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.1")
    with running_server("127.0.0.1") as public, running_server("127.0.0.2") as private:
        target = f"{private.url}/ok/2".replace("/", "~")
        row = one(tmp_path, public, f"to/{target}", allow_private_hosts=False)
        assert (row.status, row.error) == ("failed_to_download", "address refused: not public")
        assert not private.hits
        assert public.hits[f"/to/{target}"] == 1


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", True),
        ("2606:4700::1111", True),
        ("127.0.0.1", False),
        ("10.1.2.3", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("64:ff9b::808:808", True),
        ("2002:7f00:1::", False),
        ("64:ff9b:1::7f00:1", False),
        ("fec0::1", False),
        ("::127.0.0.1", False),
        ("::ffff:0:127.0.0.1", False),
        ("192.88.99.1", False),
    ],
)
def test_which_addresses_are_public(address: str, expected: bool) -> None:
    assert addresses.is_public(address) is expected


def test_above_the_ceiling_the_next_run_tries_only_the_failed_rows_again(tmp_path: Path) -> None:
    rows = [("ok/1", "a"), ("flaky/404/1/2", "b"), ("html/1", "c"), ("flaky/404/1/3", "d"), ("ok/4", "e")]
    with running_server() as server:
        source = tsv_source(tmp_path / "t.tsv", rows, server.url)
        message = r"3 of 5 rows failed \(60.0%\).*allows 30.0%.*HTTP 404 \(2\), not an image \(1\)"
        with pytest.raises(CeilingError, match=message):
            download(tmp_path, source, max_failed_share=0.3)
        assert not (tmp_path / "out").exists()
        report, table = download(tmp_path, source, max_failed_share=0.3)
        assert server.hits == {"/ok/1": 1, "/flaky/404/1/2": 2, "/html/1": 1, "/flaky/404/1/3": 2, "/ok/4": 1}
        assert [row.status for row in table] == ["success"] * 2 + ["failed_to_decode"] + ["success"] * 2
        resumed = folder_bytes(tmp_path / "out")
        download(tmp_path, source, max_failed_share=0.3)
    assert folder_bytes(tmp_path / "out") == resumed
    assert report["success"] == 4


def in_child(task: Callable[[], None]) -> int:
    """Run `task` in a forked process; its exit status, or minus the signal that ended it."""
    process = os.fork()
    if process == 0:
        status = 1
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            task()
            status = 0
        except DataError as error:
            status = 3 if "No space left" in str(error) else 4
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def test_killed_in_the_middle_it_goes_on_with_the_row_where_it_stopped(tmp_path: Path) -> None:
    with running_server() as server:
        rows = [(f"slow/{i}", f"picture {i}") for i in range(40)]
        source = tsv_source(tmp_path / "t.tsv", rows, server.url)
        chosen = settings(shard_size=10, concurrency=2)
        process = os.fork()
        if process == 0:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            download_source(source, "web", chosen, tmp_path / "out", tmp_path / "work")
            os._exit(0)
        while server.hits.total() < 25:
            time.sleep(0.005)
        os.kill(process, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
        assert not (tmp_path / "out").exists()
        download_source(source, "web", chosen, tmp_path / "out", tmp_path / "work")
        assert server.hits.total() <= 40 + 4  # only what was on its way is asked for again
        assert len(server.hits) == 40
        download_source(source, "web", chosen, tmp_path / "whole", tmp_path / "other")
    assert folder_bytes(tmp_path / "out") == folder_bytes(tmp_path / "whole")


def kill_at(number: int) -> None:
    """From here on, this process kills itself just before its `number`-th step that writes for good."""
    left = [number]

    def deadly(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments, **options)

        return call

    for name in ("replace", "fsync", "link", "unlink"):
        setattr(os, name, deadly(getattr(os, name)))


def check_every_boundary(tmp_path: Path, run: Callable[[Path, Path], None], most: int) -> int:
    """Kill a run at each of its lasting steps and run again: always the bytes of an uninterrupted run."""
    run(tmp_path / "whole", tmp_path / "whole_work")
    whole = folder_bytes(tmp_path / "whole")
    for number in range(1, most):
        out, work = tmp_path / f"out{number}", tmp_path / f"work{number}"

        def until_killed(number: int = number, out: Path = out, work: Path = work) -> None:
            kill_at(number)
            run(out, work)

        status = in_child(until_killed)
        assert status in (0, -signal.SIGKILL)
        if out.exists():
            assert folder_bytes(out) == whole  # published whole or not at all
        if status == 0:
            return number
        assert in_child(lambda out=out, work=work: run(out, work)) == 0
        assert folder_bytes(out) == whole
        assert not list(tmp_path.glob(f".{out.name}.*"))
    raise AssertionError(f"still killed at step {most}")


def test_killed_at_every_write_boundary_rendering_gives_the_same_bytes(tmp_path: Path) -> None:
    source = ScenesSource(kind="scenes", path=Path("scenes.py"), num_images=2, seed=3)
    chosen = settings(shard_size=2)
    steps = check_every_boundary(tmp_path, lambda out, work: download_source(source, "web", chosen, out, work), 60)
    assert steps > 10


def test_killed_at_every_write_boundary_a_download_gives_the_same_bytes(tmp_path: Path) -> None:
    with running_server() as server:
        rows = [("ok/1", "a"), ("status/404", "b"), ("ok/2", "c"), ("ok/2", "c")]
        source = tsv_source(tmp_path / "t.tsv", rows, server.url)
        chosen = settings(shard_size=2)
        steps = check_every_boundary(tmp_path, lambda out, work: download_source(source, "web", chosen, out, work), 60)
    assert steps > 15


def test_a_journal_cut_at_any_byte_is_continued(tmp_path: Path) -> None:
    from lotlip.data.packing import Item
    from lotlip.data.web.journal import Journal
    from lotlip.records import sha256_bytes

    items = [
        Item(
            Row(f"k{i}", "u", "success", None, "c", 1, 1, sha256_bytes(bytes([i]) * 9), "0"),
            bytes([i]) * 9,
            "jpg",
        )
        for i in range(3)
    ]
    journal = Journal(tmp_path / "whole", "s")
    for item in items:
        journal.add(item)
    journal.close()
    lines = (tmp_path / "whole" / "s.rows.jsonl").read_bytes()
    images = (tmp_path / "whole" / "s.images.bin").read_bytes()
    for cut in range(0, len(lines) + 1, 17):
        for image_cut in (0, 9, 13, 27):
            folder = tmp_path / f"{cut}-{image_cut}"
            folder.mkdir()
            (folder / "s.rows.jsonl").write_bytes(lines[:cut])
            (folder / "s.images.bin").write_bytes(images[:image_cut])
            journal = Journal(folder, "s")
            kept = min(lines[:cut].count(b"\n"), image_cut // 9)
            assert [item.row.key in journal for item in items] == [i < kept for i in range(3)]
            for item in items[kept:]:
                journal.add(item)
            journal.close()
            again = Journal(folder, "s")
            assert [again.item(item.row.key) for item in items] == items
            again.close()


def test_a_full_disk_is_a_clear_error_and_the_next_run_goes_on(tmp_path: Path) -> None:
    with running_server() as server:
        rows = [(f"ok/{i}", f"picture {i}") for i in range(20)]
        source = tsv_source(tmp_path / "t.tsv", rows, server.url)
        chosen = settings(shard_size=20)

        def on_a_small_disk() -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))
            download_source(source, "web", chosen, tmp_path / "out", tmp_path / "work")

        assert in_child(on_a_small_disk) == 3
        asked = server.hits.total()
        download_source(source, "web", chosen, tmp_path / "out", tmp_path / "work")
        assert server.hits.total() < asked + 20
    assert read_manifest(tmp_path / "out", "images").num_samples == 20
