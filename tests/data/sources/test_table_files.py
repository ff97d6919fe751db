"""Table files: four formats, parts, gzip, known layouts, and rows as strangers write them."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lotlip.data.sources.requests import Request, read_requests
from lotlip.data.sources.table_files import find_files, fingerprint, read_cells
from lotlip.errors import DataError
from lotlip.params import UrlTableSource
from lotlip.records import content_key, sha256_bytes

ROWS = [("http://a/1", "a dog, running"), ("http://a/2", 'a "quoted" cat'), ("http://a/3", "zwei\tHunde – schön")]


def encoded(ending: str, rows: list[tuple[str, str]], names: tuple[str, str] = ("url", "caption")) -> bytes:
    """A table of two named columns, written by the format's own library."""
    if ending == "parquet":
        buffer = io.BytesIO()
        pq.write_table(pa.table({name: [row[i] for row in rows] for i, name in enumerate(names)}), buffer)
        return buffer.getvalue()
    text = io.StringIO(newline="")
    if ending == "jsonl":
        text.writelines(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows)
    elif ending == "csv":
        csv.writer(text).writerows([names, *rows])
    else:
        text.writelines("\t".join(row).replace("zwei\t", "zwei ") + "\n" for row in [names, *rows])
    return text.getvalue().encode()


def requests(path: Path, **settings: Any) -> list[Request]:
    return list(read_requests(UrlTableSource(kind="url_table", path=path, **settings)))


@pytest.mark.parametrize("ending", ["tsv", "csv", "jsonl", "parquet", "tsv.gz", "csv.gz", "jsonl.gz"])
def test_every_format_packed_or_not_in_one_file_or_in_parts_gives_the_same_rows(tmp_path: Path, ending: str) -> None:
    plain = ending.removesuffix(".gz")

    def write(path: Path, rows: list[tuple[str, str]]) -> None:
        data = encoded(plain, rows)
        path.write_bytes(gzip.compress(data) if ending.endswith(".gz") else data)

    write(tmp_path / f"table.{ending}", ROWS)
    (tmp_path / "parts").mkdir()
    for i, row in enumerate(ROWS):
        write(tmp_path / "parts" / f"part-{i:05d}.{ending}", [row])
    (tmp_path / "parts" / "README.md").write_text("no part")
    (tmp_path / "parts" / f".hidden.{ending}").write_text("no part")
    columns = {"url_column": "url", "caption_column": "caption"}
    whole, parts = requests(tmp_path / f"table.{ending}", **columns), requests(tmp_path / "parts", **columns)
    expected = [(url, caption.replace("\t", " ") if plain == "tsv" else caption) for url, caption in ROWS]
    assert [(request.url, request.caption) for request in whole] == expected
    assert parts == whole


def test_layouts_know_their_columns(tmp_path: Path) -> None:
    url, caption = "http://a/1", "a dog"
    tables = {
        "cc3m": ("tsv", f"{caption}\t{url}\n".encode()),
        "cc12m": ("tsv", f"{url}\t{caption}\n".encode()),
        "yfcc15m": ("json", json.dumps({"caption": caption, "filename": "1.jpg", "url": url}).encode()),
        "laion": ("parquet", encoded("parquet", [(url, caption)], ("URL", "TEXT"))),
        "coyo": ("parquet", encoded("parquet", [(url, caption)], ("url", "text"))),
        "dreamlip": ("csv", encoded("csv", [(url, caption)], ("Image Path", "raw_caption"))),
    }
    for layout, (ending, data) in tables.items():
        path = tmp_path / f"{layout}.{ending}"
        path.write_bytes(data)
        (request,) = requests(path, layout=layout)
        assert (request.url, request.caption, request.reason) == (url, caption, None), layout


def test_releases_of_one_dataset_differ_and_own_columns_come_first(tmp_path: Path) -> None:
    (tmp_path / "re.parquet").write_bytes(encoded("parquet", [("http://a/1", "a dog")], ("url", "caption")))
    assert [request.caption for request in requests(tmp_path / "re.parquet", layout="laion")] == ["a dog"]
    yfcc = "photoid,title,description,downloadurl\n7,IMG_1,A dog on grass,http://a/1\n"
    (tmp_path / "yfcc.csv").write_text(yfcc)
    assert [request.caption for request in requests(tmp_path / "yfcc.csv", layout="yfcc15m")] == ["IMG_1"]
    own = requests(tmp_path / "yfcc.csv", layout="yfcc15m", caption_column="description")
    assert [(request.url, request.caption) for request in own] == [("http://a/1", "A dog on grass")]
    with pytest.raises(DataError, match="no column 'URL' or 'url'; it has photoid, title, description, downloadurl"):
        requests(tmp_path / "yfcc.csv", layout="laion")
    with pytest.raises(ValueError, match="give a layout, or url_column and caption_column"):
        UrlTableSource(kind="url_table", path=tmp_path, url_column=0)


def test_odd_lines_of_json(tmp_path: Path) -> None:
    lines = [
        b'\xef\xbb\xbf{"url": "u1", "caption": "one", "n": 1}',
        b"",
        b'{"url": "u2", "caption": "caf\xe9"}',
        b'{"url": "u3", "caption": "\\ud800"}',
        b'{"url": "u4"}',
        b'{"url": "u5", "caption": ["a", "b"]}',
        b'{"url": "u6", "caption": 2012}',
        b"{broken",
        b"[1, 2]",
        b'{"url": "u7", "caption": "nul \\u0000 inside"}',
        b"\xff\xfe",
        b'{"caption": "no url"}',
        b'{"url": "u8", "caption": "' + b"long " * 200_000 + b'"}',
        b"[" * 100_000,
    ]
    (tmp_path / "t.jsonl").write_bytes(b"\r\n".join(lines))
    found = requests(tmp_path / "t.jsonl", url_column="url", caption_column="caption")
    assert [(request.url[:2], request.reason) for request in found] == [
        ("u1", None),
        ("u2", "caption is not UTF-8"),
        ("u3", "caption is not UTF-8"),
        ("u4", None),
        ("u5", "no text: caption"),
        ("u6", None),
        ("{b", "line is no JSON object"),
        ("[1", "line is no JSON object"),
        ("u7", None),
        ("\\x", "line is no JSON object"),
        ("", "URL is missing"),
        ("u8", None),
        ("[[", "line is no JSON object"),
    ]
    assert (found[5].caption, found[8].caption, len(found[11].caption or "")) == ("2012", "nul \0 inside", 1_000_000)


def test_odd_rows_of_csv_and_tsv(tmp_path: Path) -> None:
    huge = "x" * 1_000_000
    rows = f'url,caption,more\nu1,"say ""hi""\nhere",1\n\nu2\nu3,nul \0 inside,2\nu4,{huge},3\nu5,it\'s 5" wide,4,5,6\n'
    (tmp_path / "t.csv").write_bytes(rows.encode() + b"u6,caf\xe9,7\n")
    found = requests(tmp_path / "t.csv", url_column="url", caption_column="caption")
    assert [(request.url, request.caption, request.reason) for request in found] == [
        ("u1", 'say "hi"\nhere', None),
        ("u2", "", "too few columns: 1, expected 2"),
        ("u3", "nul \0 inside", None),
        ("u4", huge, None),
        ("u5", "it's 5\" wide", None),
        ("u6", None, "caption is not UTF-8"),
    ]
    (tmp_path / "t.tsv").write_bytes(f'a "b\tu1\n\r\nnul \0\tu2\n{huge}\tu3\nalone\n'.encode())
    found = requests(tmp_path / "t.tsv", layout="cc3m")
    assert [(request.url, request.caption, request.reason) for request in found] == [
        ("u1", 'a "b', None),
        ("u2", "nul \0", None),
        ("u3", huge, None),
        ("", "alone", "too few columns: 1, expected 2"),
    ]


def test_typed_columns_come_as_short_text(tmp_path: Path) -> None:
    columns = {
        "t": pa.array(["x", None], pa.large_string()),
        "f": pa.array([0.3, float("nan")], pa.float32()),
        "i": pa.array([7, None]),
        "b": pa.array([True, False]),
        "d": pa.array(["en", "de"]).dictionary_encode(),
    }
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    rows = [record.cells for record in read_cells(tmp_path / "t.parquet", None, ["t"], ["f", "i", "b", "d"])]
    assert rows == [(b"x", b"0.3", b"7", b"true", b"en"), (None, b"nan", None, b"false", b"de")]
    pq.write_table(pa.table({"t": [["a", "b"]]}), tmp_path / "list.parquet")
    with pytest.raises(DataError, match=r"'t' holds list<.*expected text"):
        list(read_cells(tmp_path / "list.parquet", None, ["t"]))


def test_the_fingerprint_is_that_of_the_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("one")
    (tmp_path / "b.csv").write_text("two")
    assert fingerprint(tmp_path / "a.csv") == sha256_bytes(b"one")
    assert fingerprint(tmp_path) == content_key([sha256_bytes(b"one"), sha256_bytes(b"two")])


def test_files_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    (tmp_path / "t.xls").write_text("x")
    with pytest.raises(DataError, match=r"does not say its format; set `format` or end it in .tsv"):
        find_files(tmp_path / "t.xls")
    with pytest.raises(DataError, match="holds no file that ends in"):
        find_files(tmp_path)
    (tmp_path / "t.csv").write_text("u,c\n")
    (tmp_path / "t.jsonl").write_text("{}")
    with pytest.raises(DataError, match="holds csv, jsonl; expected parts of one format"):
        find_files(tmp_path)
    assert find_files(tmp_path, "csv") == ("csv", [tmp_path / "t.csv"])
    (tmp_path / "t.jsonl").write_text('{"url": "u"}')
    with pytest.raises(DataError, match=r"no column numbers; its columns are url"):
        list(read_cells(tmp_path / "t.jsonl", None, [0]))
    packed = gzip.compress(b"url,caption\n" + b"".join(b"u%d,c\n" % i for i in range(9999)))
    for damaged in (packed[:-20], b"no gzip", packed[:500] + b"\0\0\0" + packed[503:]):
        (tmp_path / "t.csv.gz").write_bytes(damaged)
        with pytest.raises(DataError, match="cannot be unpacked"):
            list(read_cells(tmp_path / "t.csv.gz", None, ["url", "caption"]))
