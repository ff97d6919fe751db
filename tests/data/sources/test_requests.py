"""URL tables: every layout, and every way in which a file or a row can be wrong."""

import csv
import hashlib
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lotlip.data.sources.requests import full_url, read_requests
from lotlip.errors import DataError
from lotlip.params import UrlTableSource


def table(
    path: Path, kind: str = "tsv", url: str | int = 1, caption: str | int = 0, prefix: str = ""
) -> UrlTableSource:
    values: dict[str, Any] = {"kind": "url_table", "path": path, "format": kind, "url_prefix": prefix}
    return UrlTableSource(**values, url_column=url, caption_column=caption)


def read(source: UrlTableSource) -> list[tuple[str, str | None, str | None]]:
    return [(request.url, request.caption, request.reason) for request in read_requests(source)]


def test_cc3m_layout_with_mark_quotes_carriage_returns_and_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "t.tsv"
    path.write_bytes(b'\xef\xbb\xbfa 5" pipe\thttp://a/1\r\n\r\n"open\thttp://a/2\nlast\thttp://a/3')
    assert read(table(path)) == [
        ("http://a/1", 'a 5" pipe', None),
        ("http://a/2", '"open', None),
        ("http://a/3", "last", None),
    ]


def test_named_columns_of_tsv_csv_and_parquet_give_the_same_requests(tmp_path: Path) -> None:
    rows = [("http://a/1", "a dog, running"), ("http://a/2", "ein Hund im Gras – schön")]
    (tmp_path / "t.tsv").write_text("id\turl\ttext\n" + "".join(f"7\t{u}\t{c}\n" for u, c in rows))
    with (tmp_path / "t.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "url"), *((c, u) for u, c in rows)])
    columns = {"url": [u for u, _ in rows], "text": [c for _, c in rows], "n": [1, 2]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    results = [
        list(read_requests(table(tmp_path / f"t.{kind}", kind, "url", "text"))) for kind in ("tsv", "csv", "parquet")
    ]
    assert results[0] == results[1] == results[2]
    assert [(r.url, r.caption) for r in results[0]] == rows


def test_parquet_columns_by_number_and_nulls(tmp_path: Path) -> None:
    pq.write_table(pa.table({"c": ["a", None, "b"], "u": ["http://a/1", "http://a/2", None]}), tmp_path / "t")
    assert read(table(tmp_path / "t", "parquet")) == [
        ("http://a/1", "a", None),
        ("http://a/2", "", None),
        ("", "b", "URL is missing"),
    ]


def test_a_csv_cell_may_hold_line_breaks(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('"two\nlines",http://a/1\nplain,http://a/2\n')
    assert [caption for _, caption, _ in read(table(tmp_path / "t.csv", "csv"))] == ["two\nlines", "plain"]


def test_key_is_the_hash_of_the_cells_and_not_of_the_prefix(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("a cat\timages/1.jpg\n")
    expected = hashlib.sha256(b"images/1.jpg\na cat").hexdigest()[:20]
    for prefix in ("http://x:1", "http://x:2/base/"):
        (request,) = read_requests(table(tmp_path / "t.tsv", prefix=prefix))
        assert request.key == expected
        assert request.url == f"{prefix.rstrip('/')}/images/1.jpg"


def test_absolute_urls_ignore_the_prefix() -> None:
    assert full_url("https://b/1", "http://a") == "https://b/1"
    assert full_url("wiki/File:1.jpg", "http://a/") == "http://a/wiki/File:1.jpg"
    assert full_url("http://a/1", "") == "http://a/1"


@pytest.mark.parametrize("kind", ["tsv", "csv", "parquet"])
def test_captions_that_are_not_utf8_are_rejected_row_by_row(tmp_path: Path, kind: str) -> None:
    rows = [(b"caf\xe9", b"http://a/1"), ("café".encode(), b"http://a/2"), (b"ok", b"http://a/\xff")]
    path = tmp_path / "t"
    if kind == "parquet":  # a string column whose bytes were never checked, as careless writers leave it
        offsets = pa.array([0, 4, 9, 11], pa.int32()).buffers()[1]
        data = pa.py_buffer(b"".join(caption for caption, _ in rows))
        captions = pa.StringArray.from_buffers(3, offsets, data)
        pq.write_table(pa.table({"c": captions, "u": pa.array([url for _, url in rows])}), path)
    else:
        separator = b"\t" if kind == "tsv" else b","
        path.write_bytes(b"\n".join(separator.join(row) for row in rows))
    assert read(table(path, kind)) == [
        ("http://a/1", None, "caption is not UTF-8"),
        ("http://a/2", "café", None),
        ("http://a/\\xff", "ok", "URL is not UTF-8"),
    ]


def test_repeated_rows_stay_rows_with_keys_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("a\tu\nb\tu\na\tu\na\tu\n")
    requests = list(read_requests(table(tmp_path / "t.tsv")))
    assert [request.reason for request in requests] == [None, None, "repeats row 1", "repeats row 1"]
    assert len({request.key for request in requests}) == 4


def test_rows_without_enough_columns_or_url_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("a\thttp://a/1\nalone\nb\t \n")
    assert [reason for *_, reason in read(table(tmp_path / "t.tsv"))] == [
        None,
        "too few columns: 1, expected 2",
        "URL is missing",
    ]


@pytest.mark.parametrize(
    ("content", "kind", "columns", "message"),
    [
        (None, "tsv", (1, 0), "is missing: check `path`"),
        ("", "tsv", (1, 0), "has no rows"),
        ("url\tcaption\n", "tsv", ("url", "caption"), "has no rows"),
        ("", "csv", ("url", "caption"), "has no rows"),
        ("link,text\nu,c\n", "csv", ("url", "text"), "no column 'url'; it has link, text"),
        ("a\tu\n", "tsv", (5, 0), "no column 5: it has 2"),
        ("a\tu\n", "tsv", (-1, 0), "no column -1"),
        ("url,c\n", "csv", ("url", 1), "mix names with numbers"),
        ('url,c\nu,"never closed\nu2,b\n', "csv", ("url", "c"), "line 3: .*Mend the quotes"),
        ("no parquet", "parquet", ("url", "c"), "not readable as parquet"),
    ],
)
def test_a_table_that_cannot_be_read_says_why(
    tmp_path: Path, content: str | None, kind: str, columns: tuple[str | int, str | int], message: str
) -> None:
    path = tmp_path / "t"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=message):
        list(read_requests(table(path, kind, *columns)))


def test_a_parquet_column_of_numbers_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"url": ["u"], "n": [1]}), tmp_path / "t")
    with pytest.raises(DataError, match="'n' holds int64; expected text"):
        list(read_requests(table(tmp_path / "t", "parquet", "url", "n")))


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("uv")), min_size=1, max_size=12))
def test_no_row_is_lost_and_no_key_repeats(rows: list[tuple[str, str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "t.tsv"
        path.write_text("".join(f"{caption}\t{url}\n" for caption, url in rows))
        requests = list(read_requests(table(path)))
    assert [(request.caption, request.url) for request in requests] == rows
    assert len({request.key for request in requests}) == len(rows)
    assert sum(request.reason is None for request in requests) == len(set(rows))
