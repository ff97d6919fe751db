"""Many hosts: each has its slots, its pace, its deadlines and its rules, and none holds up the others."""

import asyncio
import contextlib
import itertools
import os
import resource
import socket
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lotlip.data.tables import Row, error_class
from lotlip.data.web import addresses, hosts, url_download
from lotlip.data.web.robots import RobotsError, check_tags, parse_rules
from lotlip.errors import CeilingError, ParamsError
from tests.data.fault_server import FaultServer, running_server
from tests.data.folders import settings, tsv_source
from tests.faults.test_download_faults import download, in_child

AGENT = "lotlip-download/2.0 (+https://example.org)"


def fetch_all(tmp_path: Path, urls: list[str], **changes: Any) -> list[Row]:
    source = tsv_source(tmp_path / "t.tsv", [(url, f"picture {number}") for number, url in enumerate(urls)])
    return download(tmp_path, source, **changes)[1]


def outcomes(rows: list[Row]) -> Counter[tuple[str, str | None]]:
    return Counter((row.status, row.error) for row in rows)


@contextmanager
def looked_up(names: dict[str, list[str]], monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """These names have these addresses; yields how often each was asked for."""
    asked: Counter[str] = Counter()
    really = socket.getaddrinfo

    def look_up(host: Any, *arguments: Any, **options: Any) -> list[Any]:
        asked[host] += 1
        return [found for name in names.get(host, [host]) for found in really(name, *arguments, **options)]

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", look_up)
        yield asked


def test_one_host_gets_no_more_requests_at_a_time_than_it_may(tmp_path: Path) -> None:
    with running_server() as one, running_server() as other:
        urls = [f"{server.url}/slow/{i}" for i in range(10) for server in (one, other)]
        rows = fetch_all(tmp_path, urls, max_per_host=2, shard_size=20)
        assert outcomes(rows) == {("success", None): 20}
        assert (one.peak, other.peak) == (2, 2)


def test_requests_to_one_host_keep_their_distance(tmp_path: Path) -> None:
    with running_server() as one, running_server() as other:
        urls = [f"{server.url}/ok/{i}" for i in range(5) for server in (one, other)]
        started = time.monotonic()
        fetch_all(tmp_path, urls, host_interval_s=0.2, shard_size=20)
        assert time.monotonic() - started < 1.7  # both at the same time
        for server in (one, other):
            times = sorted(when for of_path in server.times.values() for when in of_path)
            assert min(later - sooner for sooner, later in itertools.pairwise(times)) > 0.15


def test_a_host_that_hangs_holds_no_slot_of_the_others(tmp_path: Path) -> None:
    with running_server() as slow, running_server() as fast:
        urls = [f"{slow.url}/hang/{i}" for i in range(3)] + [f"{fast.url}/ok/{i}" for i in range(5)]
        changes: dict[str, Any] = {"concurrency": 2, "max_per_host": 1, "timeout_s": 1.5, "num_retries": 0}
        rows = fetch_all(tmp_path, urls, shard_size=30, **changes)
        assert outcomes(rows) == {("success", None): 5, ("failed_to_download", "timeout: no end"): 3}
        second_hang = sorted(when for of_path in slow.times.values() for when in of_path)[1]
        assert max(when for of_path in fast.times.values() for when in of_path) < second_hang


def test_a_host_that_nobody_reaches_is_given_up_and_tried_by_the_next_run(tmp_path: Path) -> None:
    with running_server() as server:
        urls = [f"http://127.0.0.1:1/{i}" for i in range(12)] + [f"{server.url}/ok/{i}" for i in range(3)]
        changes: dict[str, Any] = {"max_connect_failures": 3, "max_per_host": 1, "num_retries": 0, "shard_size": 30}
        rows = fetch_all(tmp_path, urls, **changes)
        assert outcomes(rows) == {
            ("success", None): 3,
            ("failed_to_download", "cannot connect"): 3,
            ("failed_to_download", "host given up: too many connections failed in a row"): 9,
        }
        with pytest.raises(CeilingError, match=r"12 of 15 rows failed.*host given up \(9\), cannot connect \(3\)"):
            fetch_all(tmp_path, urls, max_failed_share=0.5, **changes)


def test_rows_of_few_hosts_wait_in_a_bounded_number_of_tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    num_tasks = []
    load_one = url_download._ShardLoader._load_one

    async def counted(*arguments: Any) -> None:
        num_tasks.append(len(asyncio.all_tasks()))
        await load_one(*arguments)

    monkeypatch.setattr(url_download._ShardLoader, "_load_one", counted)
    with running_server() as server:
        urls = [*(f"http://127.0.0.1:1/{i}" for i in range(500)), f"{server.url}/ok/1"]
        rows = fetch_all(tmp_path, urls, concurrency=2, shard_size=1000, num_retries=0, max_connect_failures=1)
    assert len(rows) == len(num_tasks) == 501
    assert max(num_tasks) < 2 * url_download._ROWS_PER_SLOT + 10


def test_too_few_files_end_the_run_and_no_row(tmp_path: Path) -> None:
    with running_server() as server:
        source = tsv_source(tmp_path / "t.tsv", [(f"hang/{i}", "a") for i in range(100)], server.url)

        def with_few_files() -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (1000, 1000))
            taken = []
            with contextlib.suppress(OSError):
                while True:
                    taken.append(os.open(os.devnull, os.O_RDONLY))
            for number in taken[-40:]:
                os.close(number)
            with pytest.raises(ParamsError, match="Too many open files"):
                download(tmp_path, source, concurrency=100, max_per_host=100)

        assert in_child(with_few_files) == 0
        assert not list(tmp_path.rglob("*.parquet"))


def test_hosts_are_remembered_up_to_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    from yarl import URL

    monkeypatch.setattr(hosts, "_MAX_HOSTS", 3)
    known = hosts.Hosts(settings())
    with known.use(URL("http://kept/")) as kept:
        for number in range(20):
            with known.use(URL(f"http://host{number}/")):
                pass
        with known.use(URL("http://kept/")) as again:
            assert again is kept
    assert len(known._hosts) == 3


@contextmanager
def deaf_address() -> Iterator[str]:
    """A port whose queue is full: no connection to it comes about, and none is refused."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        waiting = []
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(listening.getsockname())
            waiting.append(client)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        for client in waiting:
            client.close()


def test_each_deadline_ends_what_it_is_for(tmp_path: Path) -> None:
    with running_server() as server, deaf_address() as deaf:
        urls = [f"{deaf}/1", f"{server.url}/hang/1", f"{server.url}/drip/1", f"{server.url}/slow/1"]
        deadlines = {"connect_timeout_s": 0.3, "read_timeout_s": 0.5, "timeout_s": 1.2}
        started = time.monotonic()
        rows = fetch_all(tmp_path, urls, num_retries=0, **deadlines)
        assert time.monotonic() - started < 4
    assert [row.error for row in rows] == ["timeout: no connection", "timeout: no more bytes", "timeout: no end", None]


def test_the_total_deadline_holds_over_redirects(tmp_path: Path) -> None:
    with running_server() as server:
        urls = [f"{server.url}/slowhops/4/1", f"{server.url}/slowhops/0/2"]
        rows = fetch_all(tmp_path, urls, timeout_s=1.0, num_retries=0)
        assert [row.error for row in rows] == ["timeout: no end", None]
        assert "/ok/1" not in server.hits


def test_a_retry_after_is_kept_by_all_requests_to_the_host(tmp_path: Path) -> None:
    with running_server() as server:
        urls = [f"{server.url}/flaky/429/1/1", *(f"{server.url}/ok/{i}" for i in range(2, 5))]
        rows = fetch_all(tmp_path, urls, max_per_host=1)
        assert outcomes(rows) == {("success", None): 4}
        refused = server.times["/flaky/429/1/1"][0]
        assert all(when - refused >= 1.0 for path, (when, *_) in server.times.items() if path.startswith("/ok"))


def test_a_name_is_looked_up_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_server() as server, looked_up({"pictures.test": ["127.0.0.1"]}, monkeypatch) as asked:
        port = server.url.rpartition(":")[2]
        rows = fetch_all(tmp_path, [f"http://pictures.test:{port}/closing/{i}" for i in range(30)])
    assert outcomes(rows) == {("success", None): 30}
    assert asked["pictures.test"] == 1


@pytest.mark.parametrize("order", [["::1", "127.0.0.1"], ["127.0.0.1", "::1"]])
def test_of_several_addresses_only_the_public_one_is_connected_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, order: list[str]
) -> None:
    """127.0.0.1 plays the public address, ::1 the private one."""
    monkeypatch.setattr(addresses, "is_public", lambda address: address == "127.0.0.1")
    with running_server() as server, looked_up({"two.test": order}, monkeypatch):
        port = int(server.url.rpartition(":")[2])
        with socket.create_server(("::1", port), family=socket.AF_INET6) as private:
            urls = [f"http://two.test:{port}/closing/{i}" for i in range(3)]
            assert outcomes(fetch_all(tmp_path, urls, allow_private_hosts=False)) == {("success", None): 3}
            urls = [f"http://[::1]:{port}/ok/1", f"{server.url}/ok/2"]
            refused, _ = fetch_all(tmp_path, urls, allow_private_hosts=False, respect_robots=True)
            assert refused.error == "address refused: not public"
            private.setblocking(False)
            with pytest.raises(BlockingIOError):
                private.accept()


def test_robots_txt_is_not_followed_to_a_private_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(addresses, "is_public", lambda address: address != "127.0.0.2")
    with running_server() as good, running_server() as public, running_server("127.0.0.2") as private:
        public.robots = (302, "", {"Location": f"{private.url}/robots.txt"})
        urls = [f"{public.url}/ok/1", f"{good.url}/ok/2"]
        row, _ = fetch_all(tmp_path, urls, allow_private_hosts=False, respect_robots=True)
        assert row.error == "address refused: not public"
        assert public.hits == {"/robots.txt": 1}
        assert not private.hits


def robots_run(tmp_path: Path, server: FaultServer, **changes: Any) -> list[Row]:
    """Two paths of the server, beside a good row of another one."""
    with running_server() as good:
        urls = [f"{server.url}/ok/1", f"{server.url}/typed/image~jpeg/2", f"{good.url}/ok/3"]
        return fetch_all(tmp_path, urls, **{"respect_robots": True, "user_agent": AGENT, **changes})[:2]


def test_robots_txt_is_asked_once_and_obeyed(tmp_path: Path) -> None:
    with running_server() as server:
        server.robots = (200, "\ufeffUser-agent: *\nDisallow: /\n\nUser-Agent: Lotlip-Download\nDisallow: /typed\n", {})
        allowed, forbidden = robots_run(tmp_path, server)
        assert allowed.status == "success"
        assert (forbidden.status, forbidden.error) == ("rejected", "robots: forbidden by robots.txt")
        assert server.hits == {"/robots.txt": 1, "/ok/1": 1}
        assert [row.status for row in robots_run(tmp_path, server, respect_robots=False)] == ["success"] * 2


@pytest.mark.parametrize("answer", [(404, "", {}), (403, "", {}), (302, "", {"Location": "/robots.txt"})])
def test_without_a_robots_txt_all_is_allowed(tmp_path: Path, answer: tuple[int, str, dict[str, str]]) -> None:
    with running_server() as server:
        server.robots = answer
        assert [row.status for row in robots_run(tmp_path, server)] == ["success"] * 2


def test_while_robots_txt_cannot_be_had_nothing_is_allowed(tmp_path: Path) -> None:
    with running_server() as server:
        server.robots = (503, "User-agent: *\nAllow: /\n", {})
        rows = robots_run(tmp_path, server)
        assert outcomes(rows) == {("failed_to_download", "robots.txt unreachable: HTTP 503"): 2}
        assert server.hits == {"/robots.txt": 2}  # and tried again once, for both rows


def test_the_rules_of_a_redirects_target_count(tmp_path: Path) -> None:
    with running_server() as server, running_server() as other:
        other.robots = (200, "User-agent: *\nDisallow: /ok/", {})
        target = f"{other.url}/ok/5".replace("/", "~")
        urls = [f"{server.url}/to/{target}", f"{server.url}/ok/1"]
        row, _ = fetch_all(tmp_path, urls, respect_robots=True)
        assert (row.status, row.error) == ("rejected", "robots: forbidden by robots.txt")
        assert other.hits == {"/robots.txt": 1}


def test_a_host_that_is_not_there_is_no_matter_of_robots_txt(tmp_path: Path) -> None:
    with running_server() as server:
        urls = ["http://127.0.0.1:1/a", "http://127.0.0.1:1/b", f"{server.url}/ok/1"]
        assert [row.error for row in fetch_all(tmp_path, urls, respect_robots=True)] == ["cannot connect"] * 2 + [None]


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ((), None),
        (("noindex, nofollow",), None),
        (("noai",), "noai"),
        (("NoAI",), "noai"),
        (("noindex, noimageai",), "noimageai"),
        (("noindex", "noai"), "noai"),
        (("otherbot: noai",), None),
        (("otherbot: noindex, noai",), None),
        (("lotlip-download: noai",), "noai"),
        (("otherbot: noai, Lotlip-Download: noimageai",), "noimageai"),
        (("*: noai",), "noai"),
        (("unavailable_after: 25 Jun 2030 15:00:00 PST, noai",), "noai"),
        (("max-snippet: 20",), None),
        (("", ","), None),
    ],
)
def test_which_tags_forbid(headers: tuple[str, ...], reason: str | None) -> None:
    if reason is None:
        return check_tags(headers, AGENT)
    with pytest.raises(RobotsError, match=f"^robots: {reason}$"):
        check_tags(headers, AGENT)


def test_what_a_status_says_of_robots_txt() -> None:
    text = b"User-agent: *\nDisallow: /"
    assert parse_rules(500, text) is None
    assert parse_rules(429, text).parsed is None
    assert parse_rules(200, text).parsed is not None
    assert parse_rules(200, b"\xff\xfe<html>").parsed.can_fetch("http://a/b", "x")


def test_headers_that_rule_an_image_out(tmp_path: Path) -> None:
    kinds = {
        "typed/text~html;charset=utf-8": "not an image: content type text/html",
        "typed/application~json": "not an image: content type application/json",
        "typed/application~octet-stream": None,
        "typed/text~plain": None,
        "typed/image~png": None,
        "tagged/noai": "robots: noai",
        "tagged/somebot:noai": None,
    }
    with running_server() as server:
        rows = fetch_all(tmp_path, [f"{server.url}/{kind}/{i}" for i, kind in enumerate(kinds)], respect_robots=True)
    assert [row.error for row in rows] == list(kinds.values())
    assert [error_class(row.error) for row in rows if row.error] == ["not an image"] * 2 + ["robots"]
    assert [row.status for row in rows if row.error] == ["failed_to_decode"] * 2 + ["rejected"]
