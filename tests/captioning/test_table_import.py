"""Published captions joined with images by URL: a table as DreamLIP's, images downloaded from a real server."""

import csv
import gzip
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from lotlip.captioning.table_import import ROW_COUNTS, import_captions
from lotlip.captioning.tables import read_captions
from lotlip.data.download import download_source
from lotlip.data.manifest import Manifest, read_manifest, write_manifest
from lotlip.data.tables import Row, read_rows
from lotlip.errors import CeilingError, DataError
from lotlip.params import Executor, TableCaptioner, UrlTableSource
from lotlip.records import sha256_file
from stages import quality, recaption, validate
from tests.data.fault_server import FaultServer, running_server
from tests.data.folders import folder_bytes, image_folder, image_row, settings
from tests.validation.builders import write_evalset

TOP = Path(__file__).parents[2]
KINDS = [f"{kind}{name}_captions" for name in ("IB", "SV", "LLA") for kind in ("short", "long")]
NAMES = ["Image Path", "raw_caption", *KINDS]


def row(url: str, what: str) -> list[str]:
    """A row of DreamLIP's table about a thing."""
    texts = [f"{what}, {kind} by {name}." for name in ("IB", "SV", "LLA") for kind in ("short", "long")]
    return [url, f"{what} for sale", *texts]


def write_table(path: Path, rows: list[list[str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([NAMES, *rows])
    return path


def table_settings(path: Path, **changes: Any) -> TableCaptioner:
    values = {"kind": "table", "path": path, "layout": "dreamlip", "long_column": "longIB_captions"}
    return TableCaptioner.model_validate({**values, "max_failed_share": 1.0, **changes})


def join(images: list[Manifest], tmp_path: Path, captioner: TableCaptioner, **options: Any) -> dict[str, Any]:
    return import_captions(images, tmp_path / "captions", captioner, work=tmp_path / "work", **options)


def captions(folder: Path) -> dict[str, list[tuple[str, str, str | None]]]:
    """(kind, text, failure) of each key."""
    manifest = read_manifest(folder, "captions")
    found: dict[str, list[tuple[str, str, str | None]]] = {}
    for shard in manifest.shards:
        for one in read_captions(manifest.path(shard, "table")):
            found.setdefault(one["key"], []).append((one["kind"], one["text"], one["failure"]))
    return found


def url_rows(urls: dict[str, str | None]) -> list[Row]:
    """Successful rows by key."""
    return [Row(key, url, "success", None, "A dog.", 8, 8, None, "0" * 16) for key, url in urls.items()]


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with running_server() as running:
        yield running


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: FaultServer) -> Path:
    """20 rows of a DreamLIP table, of which 15 images come (some in two rows), as shards of 4 in data/images/web."""
    urls = [f"{server.url}/ok/{i}" for i in range(14)] + [f"{server.url}/status/404", f"{server.url}/corrupt/1"]
    things = [f"A {what} red circle" for what in "abcdefghijklmnop"]
    rows = [row(url, thing) for url, thing in zip(urls, things, strict=True)]
    other = row(f"{server.url}/ok/3", "The third again")
    source = write_table(tmp_path / "source.csv", [*rows, other])
    download_source(
        UrlTableSource(kind="url_table", path=source, layout="dreamlip"),
        "web",
        settings(),
        tmp_path / "data/images/web",
        tmp_path / "work",
    )
    rows[5][NAMES.index("longIB_captions")] = "  "
    rows[6][NAMES.index("shortIB_captions")] = ""
    rows[7][0] = f"  {rows[7][0]} "
    table = [*rows[:12], row("http://elsewhere/1", "Another"), row(rows[0][0], "The first again"), row("", "Nothing")]
    write_table(tmp_path / "dreamlip.csv", [*table, ["alone"], rows[14], row("http://elsewhere/1", "Another")])
    params = yaml.safe_load((TOP / "params.yaml").read_text())
    params["sources"] = {"web": {"kind": "url_table", "path": "source.csv", "layout": "dreamlip"}}
    params["captioners"] = {
        f"dreamlip_{name.lower()}": {
            "kind": "table",
            "path": "dreamlip.csv",
            "layout": "dreamlip",
            "long_column": f"long{name}_captions",
            "short_column": f"short{name}_captions",
        }
        for name in ("IB", "SV")
    }
    params["evalsets"] = {"long": params["evalsets"]["long"]}
    write_evalset(tmp_path / "data/evalsets/long", {})
    params["validate"] |= {
        "tokenizer": str(TOP / params["validate"]["tokenizer"]),
        "on_breach": "report",
        "baseline": None,
    }
    params["quality"]["objects"] = str(TOP / params["quality"]["objects"])
    params["quality"]["similarity"]["checkpoint"] = str(TOP / params["quality"]["similarity"]["checkpoint"])
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_dreamlip_from_table_to_the_stages_that_read_captions(workspace: Path) -> None:
    images = read_manifest(Path("data/images/web"), "images")
    assert images.num_samples == 15  # 14 images, one of them with two raw captions
    for name in ("dreamlip_ib", "dreamlip_sv"):
        recaption.main(name)
    report = json.loads(Path("reports/recaption/dreamlip_ib.json").read_text())
    assert report["table"] == {
        "sha256": sha256_file(Path("dreamlip.csv")),
        "rows": 18,
        "matched": 12,
        "repeated": 1,
        "without_image": 3,  # twice http://elsewhere/1, and the one that the server has not
        "unreadable": 2,
    }
    # 15 images: 12 rows have 13 of them, one text is empty; two URLs are not in the table.
    assert (report["requested"], report["captioned"], report["failed"]) == (15, 12, 3)
    assert report["failures"] == {"empty caption": 1, "no row in the table": 2}
    assert (report["short_captions"], report["short_failed"]) == (12, 3)
    assert report["mean_tokens"] is None
    texts = captions(Path("data/captions/dreamlip_ib"))
    by_url: dict[str, list[str]] = {}
    for shard in images.shards:
        for one in read_rows(images.path(shard, "table")):
            if one.status == "success":
                by_url.setdefault(str(one.url).rpartition("/")[2], []).append(one.key)
    first, second = by_url["3"]
    assert (
        texts[first]
        == texts[second]
        == [
            ("long", "A d red circle, long by IB.", None),
            ("short", "A d red circle, short by IB.", None),
        ]
    )
    assert texts[by_url["0"][0]][0] == ("long", "A a red circle, long by IB.", None)
    assert texts[by_url["5"][0]] == [("long", "", "empty caption"), ("short", "A f red circle, short by IB.", None)]
    assert texts[by_url["6"][0]][1] == ("short", "", "empty caption")
    assert texts[by_url["7"][0]][0] == ("long", "A h red circle, long by IB.", None)
    assert texts[by_url["13"][0]] == [("long", "", "no row in the table"), ("short", "", "no row in the table")]
    assert not list(Path(".work/recaption/dreamlip_ib").glob("import*"))
    validate.main()
    summary = json.loads(Path("reports/validate/summary.json").read_text())
    assert summary["long"]["dreamlip_ib"]["kept"] + summary["long"]["dreamlip_ib"]["rejected"] > 0
    quality.main()
    assert json.loads(Path("reports/quality/summary.json").read_text())["captioners"]["dreamlip_sv"]["texts"] == 13


def test_the_command_and_the_stage_write_the_same_bytes(workspace: Path) -> None:
    def lotlip(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "lotlip.cli", *arguments],
            env={**os.environ, "PYTHONPATH": str(TOP)},
            capture_output=True,
            text=True,
        )

    columns = ("--layout", "dreamlip", "--long-column", "longIB_captions", "--short-column", "shortIB_captions")
    done = lotlip("import-captions", "dreamlip.csv", "data/images/web", "mine", *columns)
    assert done.returncode == 0, done.stderr
    recaption.main("dreamlip_ib")
    assert json.loads(done.stdout) == json.loads(Path("reports/recaption/dreamlip_ib.json").read_text())
    assert folder_bytes(Path("mine")) == folder_bytes(Path("data/captions/dreamlip_ib"))
    done = lotlip("caption", "data/images/web", "again", "--captioner", "dreamlip_ib")
    assert folder_bytes(Path("again")) == folder_bytes(Path("mine")), done.stderr
    done = lotlip("plan", "recaption", "--images", "100")
    assert done.returncode == 0
    assert "dreamlip_sv: imported from dreamlip.csv, nothing to generate." in done.stderr
    done = lotlip("import-captions", "dreamlip.csv", "data/images/web", "new", *columns, "--max-failed-share", "0.1")
    assert (done.returncode, Path("new").exists()) == (1, False)
    assert "3 of 15 images have no caption (20.0%)" in done.stderr
    done = lotlip("import-captions", "dreamlip.csv", "data/images/web", "new", "--long-column", "longIB")
    assert done.stderr.startswith("error: ")
    assert "no column 'url'; it has Image Path, raw_caption" in done.stderr
    done = lotlip("import-captions", "a", "b", "c", "--long-column", "x", "--layout", "dreamlib")
    assert done.returncode == 2
    assert "Input should be 'dreamlip' or 'recap_long'" in done.stderr


def test_counts_add_up_in_every_format_and_over_many_groups(tmp_path: Path) -> None:
    """100 shards of 3 images; every third URL twice; the table in parts, packed, and with workers."""
    urls = {f"k{i}": f"http://a/{i if i % 3 else i // 2}" for i in range(300)}
    keys = list(urls)
    shards = {f"s-{i:05d}": url_rows({key: urls[key] for key in keys[3 * i : 3 * i + 3]}) for i in range(100)}
    images = image_folder(tmp_path / "images", shards)
    told = [(f"http://a/{i}", f"Text {i}.") for i in range(0, 400, 2)] + [("http://a/0", "Again."), ("", "Nobody.")]
    wanted = {url for url, _ in told}
    expected = {key: f"Text {url.rpartition('/')[2]}." for key, url in urls.items() if url in wanted}
    found, bytes_of = [], []
    for name in ("csv", "jsonl", "parquet", "parts"):
        columns = {"url": [url for url, _ in told], "long": [text for _, text in told]}
        path = tmp_path / f"table.{name}"
        if name == "csv":
            with path.open("w", newline="") as file:
                csv.writer(file).writerows([("url", "long"), *told])
        elif name == "parquet":
            pq.write_table(pa.table(columns), path)
        else:
            lines = [json.dumps({"url": url, "long": text}) + "\n" for url, text in told]
            if name == "jsonl":
                path.write_text("".join(lines))
            else:
                path.mkdir()
                for i in range(0, len(lines), 50):
                    (path / f"part-{i:05d}.jsonl.gz").write_bytes(gzip.compress("".join(lines[i : i + 50]).encode()))
        captioner = table_settings(path, layout=None, url_column="url", long_column="long")
        workers = Executor(kind="local", workers=2, num_gpus=0.0, address=None, retries=0)
        options = {"executor": workers} if name == "parts" else {}
        report = join([images], tmp_path, captioner, **options)
        counts = report["table"]
        assert counts["rows"] == sum(counts[one] for one in ROW_COUNTS if one != "rows") == 202
        assert counts["matched"] == len(wanted & set(urls.values()))
        assert (counts["repeated"], counts["unreadable"]) == (1, 1)
        assert (report["requested"], report["captioned"]) == (300, len(expected))
        assert report["failures"] == {"no row in the table": 300 - len(expected)}
        texts = {key: rows[0][1] for key, rows in captions(tmp_path / "captions").items()}
        assert list(texts) == keys
        assert {key: text for key, text in texts.items() if text} == expected
        found.append(report)
        bytes_of.append(
            [
                [{**one, "captioner": ""} for one in read_captions(path)]
                for path in sorted((tmp_path / "captions").glob("*.parquet"))
            ]
        )
    assert bytes_of[0] == bytes_of[1] == bytes_of[2] == bytes_of[3]
    assert len({report["table"]["sha256"] for report in found}) == 4


def test_texts_as_strangers_write_them(tmp_path: Path) -> None:
    urls = {"a": "http://a/1", "b": "http://a/2", "c": "http://a/3", "d": "http://a/4", "e": None, "f": "http://ä/6"}
    images = image_folder(tmp_path / "images", {"s-00000": [*url_rows(urls), Row("x", "http://a/9", "rejected", "no")]})
    huge = "Huge. " * 200_000
    lines = [b"Image Path,longIB_captions", b"http://a/1,caf\xe9", b'http://a/2,"two', b'""lines"""']
    lines += [
        b"http://a/3,nul \0 inside",
        b"http://a/4," + huge.encode(),
        "http://ä/6,schön".encode(),
        b"http://a/9,no",
    ]
    (tmp_path / "t.csv").write_bytes(b"\n".join(lines))
    report = join([images], tmp_path, table_settings(tmp_path / "t.csv"))
    assert captions(tmp_path / "captions") == {
        "a": [("long", "", "caption is not UTF-8")],
        "b": [("long", 'two\n"lines"', None)],
        "c": [("long", "nul \0 inside", None)],
        "d": [("long", huge.strip(), None)],
        "e": [("long", "", "no URL")],
        "f": [("long", "schön", None)],
    }
    assert report["reasons"] == {"repetition": 1}
    assert report["table"]["without_image"] == 1  # an image that never came is none


def test_the_identity_is_the_table_and_its_columns(tmp_path: Path) -> None:
    images = image_folder(tmp_path / "images", {"s-00000": url_rows({"a": "http://a/1"})})
    table = write_table(tmp_path / "t.csv", [row("http://a/1", "One")])

    def identity(**changes: Any) -> str:
        join([images], tmp_path, table_settings(table, **changes))
        return str(read_captions(tmp_path / "captions" / "s-00000.parquet")[0]["captioner"])

    first = identity()
    assert identity(sha256=sha256_file(table)) == first
    assert len({first, identity(long_column="longSV_captions"), identity(short_column="shortIB_captions")}) == 3
    with pytest.raises(DataError, match="the captioner's `sha256` is 0000"):
        identity(sha256="0" * 64)
    write_table(table, [row("http://a/1", "Two")])
    assert identity() != first


def test_what_cannot_be_joined_says_why(tmp_path: Path) -> None:
    images = image_folder(tmp_path / "images", {"s-00000": url_rows({"a": "http://a/1"})})
    table = write_table(tmp_path / "t.csv", [row("http://b/1", "One")])
    with pytest.raises(CeilingError, match=r"Of 1 rows 0 found an image. Is url_column the images' URL\?"):
        join([images], tmp_path, table_settings(table, max_failed_share=0.5))
    with pytest.raises(DataError, match="no column 'longXX'; it has Image Path, raw_caption"):
        join([images], tmp_path, table_settings(table, long_column="longXX"))
    with pytest.raises(DataError, match="Two image shards share a name"):
        join([images, images], tmp_path, table_settings(table))
    with pytest.raises(DataError, match="is missing: check `path`"):
        join([images], tmp_path, table_settings(tmp_path / "none.csv"))
    recap = table_settings(table, layout="recap_long", long_column=5)
    with pytest.raises(DataError, match="mix names with numbers"):
        join([images], tmp_path, recap)
    with pytest.raises(ValueError, match="give a layout, or url_column"):
        table_settings(table, layout=None)
    (tmp_path / "images" / "s-00000.parquet").write_bytes(b"damaged")
    with pytest.raises(DataError, match="another sha256 than its manifest says"):
        join([images], tmp_path, table_settings(table))
    assert not (tmp_path / "captions").exists()


def test_what_a_killed_import_left_is_not_taken_up(tmp_path: Path) -> None:
    images = image_folder(tmp_path / "images", {"s-00000": url_rows({"a": "http://a/1", "b": "http://a/2"})})
    table = write_table(tmp_path / "t.csv", [row("http://a/1", "One")])
    left = tmp_path / "work" / "import"
    left.mkdir(parents=True)
    (left / "group-000.jsonl").write_text('["http://a/2", "of another table"]\n["half')
    (left / "s-00000.parquet").write_text("half")
    report = join([images], tmp_path, table_settings(table))
    assert report["failures"] == {"no row in the table": 1}
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["lock"]


def test_no_shard_at_all(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    images = write_manifest(tmp_path / "images", "images", [])
    table = write_table(tmp_path / "t.csv", [row("http://a/1", "One")])
    report = join([images], tmp_path, table_settings(table))
    assert (report["requested"], report["table"]["without_image"]) == (0, 1)
    images = image_folder(tmp_path / "others", {"s-00000": [image_row("a")]})
    report = join([images], tmp_path, table_settings(table))
    assert report["failures"] == {"no URL": 1}
