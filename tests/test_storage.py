"""Storage against a real S3 server: what is written, found, refused, and what an outage does."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lotlip.errors import DataError, StorageError
from lotlip.records import sha256_bytes, sha256_file
from lotlip.storage import copies, leases, objects
from lotlip.storage.leases import leased
from tests.s3_server import BUCKET, S3Server, running_s3, s3, s3_process, use

__all__ = ["s3", "s3_process"]
pytestmark = pytest.mark.server


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file that is uploaded in several parts."""
    path = tmp_path / "large.tar"
    path.write_bytes(b"".join(bytes([i]) * (1 << 20) for i in range(20)))
    return path


def test_a_file_goes_up_under_its_hash_and_comes_back_equal(s3: S3Server, large: Path) -> None:
    digest = sha256_file(large)
    url = objects.store(large, f"s3://{BUCKET}/up", digest)
    assert url == f"s3://{BUCKET}/up/objects/{digest[:2]}/{digest}.tar"
    copy = copies.local_copy(url, digest)
    assert copy.read_bytes() == large.read_bytes()
    head = s3.client().head_object(Bucket=BUCKET, Key=url.removeprefix(f"s3://{BUCKET}/"))
    assert "-" in head["ETag"], "20 MB go up in parts"


def test_what_is_stored_is_never_written_again(s3: S3Server, large: Path) -> None:
    digest = sha256_file(large)
    first = objects.find_object(objects.store(large, f"s3://{BUCKET}/once", digest))
    time.sleep(1.1)  # the server's clock counts seconds
    assert objects.find_object(objects.store(large, f"s3://{BUCKET}/once", digest)) == first


def test_a_damaged_object_is_refused_and_leaves_no_copy(s3: S3Server, tmp_path: Path) -> None:
    url = s3.put("damaged/object.tar", b"not what the manifest says")
    with pytest.raises(StorageError, match="the object is damaged"):
        copies.local_copy(url, sha256_bytes(b"what the manifest says"))
    assert not [path for path in (tmp_path / "objects").rglob("*") if path.is_file()]


def test_objects_below_a_prefix_come_in_order_and_only_they(s3: S3Server) -> None:
    for key in ("list/b.tar", "list/a.tar", "list/deep/c.tar", "listing/not.tar"):
        s3.put(key, key.encode())
    found = list(objects.list_objects(f"s3://{BUCKET}/list"))
    assert [one.url for one in found] == [f"s3://{BUCKET}/list/{name}" for name in ("a.tar", "b.tar", "deep/c.tar")]
    assert [one.num_bytes for one in found] == [10, 10, 15]


def test_copies_beyond_the_limit_go_the_longest_unused_first(
    s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOTLIP_CACHE_BYTES", "2500")
    bodies = [bytes([i]) * 1000 for i in range(3)]
    urls = [s3.put(f"cache/{i}", body) for i, body in enumerate(bodies)]
    first, second = (copies.local_copy(url, sha256_bytes(body)) for url, body in zip(urls, bodies[:2], strict=False))
    os.utime(first, (1, 1))
    os.utime(second, (2, 2))
    assert copies.local_copy(urls[0], sha256_bytes(bodies[0])) == first  # and so it is used again
    third = copies.local_copy(urls[2], sha256_bytes(bodies[2]))
    assert first.exists()
    assert not second.exists()
    assert third.read_bytes() == bodies[2]


def test_conditional_writes_happen_once(s3: S3Server) -> None:
    url = f"s3://{BUCKET}/conditional/{time.time_ns()}"
    etag = objects.write_if_new(url, b"first")
    assert etag
    assert objects.write_if_new(url, b"second") is None
    newer = objects.write_if_same(url, b"third", etag)
    assert newer
    assert objects.write_if_same(url, b"fourth", etag) is None
    assert objects.read_object(url) == b"third"


def test_of_many_that_want_a_lease_one_gets_it(s3: S3Server) -> None:
    url = f"s3://{BUCKET}/leases/{time.time_ns()}"
    outcomes: list[str] = []
    together = threading.Barrier(8)

    def work() -> None:
        together.wait()
        try:
            with leased(url):
                outcomes.append("held")
                time.sleep(1.5)
        except DataError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outcomes.count("held") == 1
    assert all("Another run is at work" in outcome for outcome in outcomes if outcome != "held")
    with leased(url):  # it was given back
        pass


def test_a_held_lease_outlives_its_lifetime_and_a_dead_one_does_not(s3: S3Server) -> None:
    url = f"s3://{BUCKET}/leases/{time.time_ns()}"
    with leased(url, lifetime_s=1.5):
        time.sleep(4)
        with pytest.raises(DataError, match="Another run is at work"), leased(url, lifetime_s=1.5):
            pass
    killed = f"from lotlip.storage.leases import leased; import os\nwith leased({url!r}): os._exit(9)"
    assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == 9
    with pytest.raises(DataError, match="Another run is at work"), leased(url, lifetime_s=60):
        pass
    time.sleep(3)
    with leased(url, lifetime_s=1.5):
        pass


def test_a_lost_lease_is_an_error_at_the_end(s3: S3Server) -> None:
    url = f"s3://{BUCKET}/leases/{time.time_ns()}"

    def work() -> None:
        with leased(url, lifetime_s=1.5):
            s3.overwrite(url, b"somebody else")
            time.sleep(1)

    with pytest.raises(DataError, match="was lost"):
        work()
    assert objects.read_object(url) == b"somebody else"


def test_a_lease_that_somebody_else_took_over_is_not_given_back(s3: S3Server) -> None:
    url = f"s3://{BUCKET}/leases/{time.time_ns()}"
    steps: list[str] = []

    def lose_it() -> None:
        with leased(url, lifetime_s=3.0) as check:
            check()
            steps.append("held")
            s3.overwrite(url, b"the next holder")
            steps.append("ended before the next renewal")

    with pytest.raises(DataError, match="was lost"):
        lose_it()
    assert steps == ["held", "ended before the next renewal"]
    assert objects.read_object(url) == b"the next holder"


def test_a_lease_that_could_not_be_renewed_is_lost_by_the_clock(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"s3://{BUCKET}/leases/{time.time_ns()}"

    def away(*_: object) -> None:
        raise StorageError("away")

    def hold() -> None:
        with leased(url, lifetime_s=0.9) as check:
            monkeypatch.setattr(leases, "write_if_same", away)
            time.sleep(1.2)
            with pytest.raises(DataError, match="was lost"):
                check()

    with pytest.raises(DataError, match="was lost"):
        hold()


def test_a_write_that_was_sent_twice_is_recognised(s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"s3://{BUCKET}/leases/{time.time_ns()}"
    real = leases.write_if_new

    def answer_lost(url: str, data: bytes) -> str | None:
        real(url, data)
        return real(url, data)

    monkeypatch.setattr(leases, "write_if_new", answer_lost)
    with leased(url) as check:
        check()
    assert objects.find_object(url) is None


def test_an_object_of_another_size_is_set_aside_and_stored_again(s3: S3Server, large: Path) -> None:
    digest = sha256_file(large)
    url = objects.store(large, f"s3://{BUCKET}/aside", digest)
    s3.overwrite(url, b"cut")
    assert objects.store(large, f"s3://{BUCKET}/aside", digest) == url
    assert copies.local_copy(url, digest).read_bytes() == large.read_bytes()
    assert objects.read_object(f"{url}.damaged") == b"cut"


def test_copies_in_use_and_half_copies_stay(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOTLIP_CACHE_BYTES", "1500")
    bodies = [bytes([i]) * 1000 for i in range(3)]
    urls = [s3.put(f"use/{i}", body) for i, body in enumerate(bodies)]
    first = copies.local_copy(urls[0], sha256_bytes(bodies[0]))
    half = first.parent / ".half.1.tmp"
    half.write_bytes(bytes(2000))
    os.utime(half, (1, 1))
    assert copies.local_copy(urls[1], sha256_bytes(bodies[1])).is_file()
    assert first.is_file(), "asked for within the last minute"
    assert half.is_file(), "another process writes it"
    os.utime(first, (1, 1))
    copies.local_copy(urls[2], sha256_bytes(bodies[2]))
    assert not first.is_file()
    again = copies.local_copy(urls[0], sha256_bytes(bodies[0]))
    assert again.stat().st_mtime_ns == 0, "every copy of an object looks the same"


@pytest.mark.parametrize("url", ["s3://", "s3:/bucket/key", "http://bucket/key", "s3://UPPER/key", "s3://b/key"])
def test_no_place_in_s3(url: str) -> None:
    with pytest.raises(StorageError, match="expected s3://bucket/key"):
        objects.parse(url)


def test_errors_say_what_is_wrong(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x")
    with pytest.raises(StorageError, match="no such object"):
        objects.read_object(f"s3://{BUCKET}/nowhere")
    with pytest.raises(StorageError, match="no such bucket"):
        objects.read_object("s3://no-bucket-of-that-name/key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    objects._client_of.cache_clear()
    with pytest.raises(StorageError, match="access refused"):
        objects.upload(file, f"s3://{BUCKET}/refused")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("HOME", str(tmp_path))
    objects._client_of.cache_clear()
    with pytest.raises(StorageError, match=r"credentials.*Check AWS_ENDPOINT_URL"):
        objects.upload(file, f"s3://{BUCKET}/refused")
    assert "refused" not in s3.list_keys()


def test_an_outage_in_the_middle_of_an_upload_is_waited_out_or_said(
    tmp_path: Path, large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_s3(tmp_path / "s3") as server:
        use(server, monkeypatch, tmp_path)
        digest = sha256_file(large)
        server.stop()
        back = threading.Timer(2.0, server.start)
        back.start()
        url = objects.store(large, f"s3://{BUCKET}/outage", digest)
        back.join()
        assert copies.local_copy(url, digest).read_bytes() == large.read_bytes()
        server.stop()
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "2")
        objects._client_of.cache_clear()
        other = tmp_path / "other.tar"
        other.write_bytes(b"other")
        with pytest.raises(StorageError, match=f"{server.url} cannot be used.*run again"):
            objects.store(other, f"s3://{BUCKET}/outage", sha256_file(other))
        server.start()
        assert server.list_keys("outage") == [objects.parse(url).key]
        objects.store(other, f"s3://{BUCKET}/outage", sha256_file(other))


def test_checkpoints_come_from_prefixes(s3: S3Server) -> None:
    import torch

    from lotlip.model.image_tower import load_image_tower
    from lotlip.text.tokenizer import LotlipTokenizer

    weights = Path(__file__).parents[1] / "lotlip/sample/weights"
    for name in ("tokenizer", "vit"):
        for path in (weights / name).iterdir():
            s3.put(f"checkpoints/{name}/{path.name}", path.read_bytes())
    place = f"s3://{BUCKET}/checkpoints"
    here, there = (
        LotlipTokenizer.load(source, num_corner_tokens=2, token_limit=64)
        for source in (weights / "tokenizer", f"{place}/tokenizer")
    )
    assert there.fingerprint() == here.fingerprint()
    towers = [load_image_tower(source) for source in (str(weights / "vit"), f"{place}/vit/")]
    assert towers[0].settings == towers[1].settings
    pairs = zip(towers[0].tower.parameters(), towers[1].tower.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    with pytest.raises(StorageError, match="nothing below this prefix"):
        copies.local_path(f"{place}/none")
