"""Repair: damaged shards leave the folder, nothing good is lost, and what is to be done is said."""

import os
import signal
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lotlip.data.manifest import read_manifest
from lotlip.data.sources.requests import read_requests
from lotlip.data.verify.datasets import verify_dataset
from lotlip.data.verify.repair import Repair, repair_dataset
from lotlip.params import UrlTableSource
from tests.data.datasets import (
    accept,
    flip,
    found,
    rewrite_table,
)
from tests.data.folders import folder_bytes

TAR, TABLE = "s-00000.tar", "s-00000.parquet"
# Of the sample `a`: header, 1,500 bytes of image, header and metadata, header and text; then `b` and `c` alike.
SAMPLE = 512 + 1536 + 2 * (512 + 512)


def repaired(folder: Path) -> Repair:
    repair = repair_dataset(verify_dataset(folder))
    assert repair is not None
    return repair


def test_repair_moves_damaged_shards_and_lists_their_rows(images: Path) -> None:
    """The table's cells come back through our own reader of URL tables."""
    before = folder_bytes(images)
    flip(images / TAR, 600)
    damaged = (images / TAR).read_bytes()
    repair = repaired(images)
    away = images.with_name("s.damaged")
    assert sorted(repair.moved) == [TABLE, TAR]
    assert (repair.shards, repair.rows, repair.without_url) == (["s-00000"], 4, 0)
    assert (away / TAR).read_bytes() == damaged
    assert folder_bytes(images).keys() == {"manifest.json", "s-00001.tar", "s-00001.parquet"}
    assert {name: data for name, data in folder_bytes(images).items() if name != "manifest.json"} == {
        name: before[name] for name in ("s-00001.tar", "s-00001.parquet")
    }
    table = UrlTableSource(
        kind="url_table", path=away / "refetch.tsv", format="tsv", url_column="url", caption_column="caption",
        url_prefix="",
    )  # fmt: skip
    assert [(one.url, one.caption) for one in read_requests(table)] == [
        *((f"http://a/{key}", f"a {key}") for key in "abc"),
        ("http://a/s-00000", "tab and line"),
    ]
    assert list(repair.lines())[-2:] == [
        f"next: lotlip download {away}/refetch.tsv NEWFOLDER --url-column url --caption-column caption",
        "or: dvc repro -f download@s",
    ]
    state = folder_bytes(images.parent)
    assert verify_dataset(images).problems == ()
    assert repair_dataset(verify_dataset(images)) is None
    assert folder_bytes(images.parent) == state


def test_repair_writes_into_no_file_that_dvc_has_linked(images: Path, tmp_path: Path) -> None:
    """As DVC leaves them: read-only hard links of its cache."""
    cache = tmp_path / "cache"
    cache.mkdir()
    flip(images / "s-00001.parquet", 50)
    for path in images.iterdir():
        path.chmod(0o444)
        os.link(path, cache / path.name)
    before = folder_bytes(cache)
    repaired(images)
    assert folder_bytes(cache) == before
    assert (images.with_name("s.damaged") / "s-00001.tar").samefile(cache / "s-00001.tar")
    assert stat.S_IMODE((images / TAR).stat().st_mode) == 0o444


def test_rows_of_a_damaged_table_come_from_the_tar(images: Path) -> None:
    flip(images / TABLE, 50)
    flip(images / TAR, SAMPLE + 3)
    (images / "s-00001.tar").unlink()
    (images / "s-00001.parquet").unlink()
    repair = repaired(images)
    lines = (images.with_name("s.damaged") / "refetch.tsv").read_text().splitlines()
    assert lines == ["url\tcaption", *(f"http://a/{key}\ta {key}" for key in "abc")]
    assert repair.without_table == ["s-00000", "s-00001"]
    assert read_manifest(images).shards == ()


def test_rows_without_url_need_their_stage(images: Path) -> None:
    rewrite_table(images / TABLE, lambda rows: [{**row, "url": None} for row in rows])
    repair = repaired(accepted_but_for_tar(images))
    assert (repair.rows, repair.without_url) == (0, 4)
    assert repair.next == ["dvc repro -f download@s"]


def test_what_the_source_rejected_is_not_listed(images: Path) -> None:
    reasons = {"a": "filtered: punsafe: 0.9 is above 0.5", "b": "repeats row 1", "no-s-00000": "robots: /b"}

    def reject(rows: list[dict[str, object]]) -> list[dict[str, object]]:
        rejected = [{**row, "key": f"not-{row['key']}", "status": "rejected"} for row in rows if row["key"] in reasons]
        broken = {**rows[-1], "url": "http://a/broken", "key": "broken", "status": "failed_to_decode"}
        return [*rows, *rejected, {**rejected[0], "url": None, "key": "pathless"}, broken]

    rewrite_table(images / TABLE, reject)
    repair = repaired(accepted_but_for_tar(images))
    assert (repair.rows, repair.without_url) == (5, 0)
    lines = (images.with_name("s.damaged") / "refetch.tsv").read_text().splitlines()
    assert [line.partition("\t")[0].rpartition("/")[2] for line in lines[1:]] == ["a", "b", "c", "s-00000", "broken"]


def test_paths_of_an_image_folder_are_no_urls(images: Path) -> None:
    urls = ["deep/a.jpg", "https://a/b", "ftp://a/c", "httpd.jpg"]
    rewrite_table(images / TABLE, lambda rows: [{**row, "url": url} for row, url in zip(rows, urls, strict=True)])
    repair = repaired(accepted_but_for_tar(images))
    assert (repair.rows, repair.without_url) == (1, 3)
    assert (images.with_name("s.damaged") / "refetch.tsv").read_text() == "url\tcaption\nhttps://a/b\ta b\n"


def accepted_but_for_tar(images: Path) -> Path:
    accept(images)
    flip(images / TAR, 600)
    return images


def test_a_second_damage_adds_to_the_first_and_overwrites_nothing(images: Path) -> None:
    whole = folder_bytes(images)
    flip(images / TAR, 600)
    repaired(images)
    for name, data in whole.items():  # brought back, as by `dvc checkout`
        (images / name).unlink(missing_ok=True)
        (images / name).write_bytes(data)
    assert repair_dataset(verify_dataset(images)) is None
    flip(images / TAR, 700)
    flip(images / "s-00001.tar", 700)
    repaired(images)
    away = images.with_name("s.damaged")
    assert (away / TAR).read_bytes() != (away / f"{TAR}.2").read_bytes()
    assert {path.name for path in away.iterdir()} == {
        "lock", "manifest.json", "refetch.tsv", TAR, f"{TAR}.2", TABLE, f"{TABLE}.2", "s-00001.tar", "s-00001.parquet"
    }  # fmt: skip
    assert len((away / "refetch.tsv").read_text().splitlines()) == 1 + 4 + 3
    assert [shard.name for shard in read_manifest(away).shards] == ["s-00000", "s-00001"]


def test_captions_are_named_to_be_made_again(captions: Path) -> None:
    flip(captions / TABLE, 9)
    repair = repaired(captions)
    assert repair.next == ["dvc repro -f recaption@llava"]
    assert (captions.with_name("llava.damaged") / "shards.txt").read_text() == "s-00000\n"
    assert found(captions) == [("manifest.json", "", "missing sidecar")]


def test_killed_before_or_after_any_rename_repair_loses_nothing(images: Path, tmp_path: Path) -> None:
    flip(images / TAR, 600)
    whole = folder_bytes(images)
    repaired(images)
    expected = contents(images.parent)
    kills = 0
    while True:
        top = tmp_path / f"killed-{kills}"
        (top / "s").mkdir(parents=True)
        for name, data in whole.items():
            (top / "s" / name).write_bytes(data)
        status = repair_killed_at(top / "s", kills)
        here = {data for name, data in folder_bytes(top).items() if name.endswith((".tar", ".parquet"))}
        assert here == {data for name, data in whole.items() if name.endswith((".tar", ".parquet"))}
        repair_dataset(verify_dataset(top / "s"))
        assert contents(top) == expected
        if status == 0:
            break
        assert status == signal.SIGKILL
        kills += 1
    assert kills == 2 * 5  # renames: rows, record, manifest, tar and table, each before and after


def contents(top: Path) -> dict[str, bytes]:
    return {name: data for name, data in folder_bytes(top).items() if not name.endswith(("/lock", ".tmp"))}


def repair_killed_at(folder: Path, moment: int) -> int:
    """Repair in a forked process that ends itself before (even) or after (odd) its rename number `moment` // 2."""
    child = os.fork()
    if child == 0:
        calls: list[int] = []

        def killing(rename: Callable[..., None]) -> Callable[..., None]:
            def call(*paths: Any) -> None:
                calls.append(1)
                for when in range(2):
                    if when:
                        rename(*paths)
                    if len(calls) == moment // 2 + 1 and moment % 2 == when:
                        os.kill(os.getpid(), signal.SIGKILL)

            return call

        os.rename, os.replace = killing(os.rename), killing(os.replace)  # type: ignore[assignment]
        status = 1
        try:
            repair_dataset(verify_dataset(folder))
            status = 0
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
