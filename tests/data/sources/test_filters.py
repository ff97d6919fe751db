"""Filters: what each condition leaves out, by hand, and how the report counts it."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lotlip.data.download import download_source
from lotlip.data.manifest import read_manifest
from lotlip.data.sources.filters import left_out
from lotlip.data.sources.requests import read_requests
from lotlip.data.tables import error_class
from lotlip.errors import CeilingError, ParamsError
from lotlip.params import ColumnFilter, UrlTableSource, parse_params
from lotlip.records import sha256_bytes
from lotlip.validation.tables import image_table
from tests.data.fault_server import running_server
from tests.data.folders import settings


@pytest.mark.parametrize(
    ("rule", "cell", "reason"),
    [
        ({"max": 0.5}, b"0.5", None),
        ({"max": 0.5}, b"0.51", "0.51 is above 0.5"),
        ({"min": 0.28}, b"0.3", None),
        ({"min": 0.28}, b" 0.1 ", "0.1 is below 0.28"),
        ({"min": 0.28}, b"-inf", "-inf is below 0.28"),
        ({"min": 0, "max": 1}, b"1e9", "1e9 is above 1"),
        ({"max": 0.5}, None, "missing"),
        ({"max": 0.5}, b"", "missing"),
        ({"max": 0.5}, b"nan", "missing"),
        ({"max": 0.5}, b"unknown", "missing"),
        ({"max": 0.5, "missing": "keep"}, b"nan", None),
        ({"max": 0.5, "missing": "keep"}, b"0.6", "0.6 is above 0.5"),
        ({"in": ["en", "de"]}, b"de", None),
        ({"in": ["en"]}, b"EN", "EN is not wanted"),
        ({"in": ["en"]}, b"", "missing"),
        ({"not_in": ["NSFW", "UNSURE"]}, b"UNLIKELY", None),
        ({"not_in": ["NSFW", "UNSURE"]}, b"UNSURE", "UNSURE is not wanted"),
        ({"not_in": ["NSFW"]}, b"\xff", None),
        ({"not_in": ["NSFW"], "missing": "keep"}, None, None),
    ],
)
def test_a_condition_by_hand(rule: dict[str, Any], cell: bytes | None, reason: str | None) -> None:
    found = left_out([("column", ColumnFilter(**rule))], [cell])
    assert found == (None if reason is None else f"filtered: column: {reason}")


def test_the_first_filter_that_leaves_a_row_out_is_told() -> None:
    filters = [("punsafe", ColumnFilter(max=0.5)), (2, ColumnFilter(**{"in": ["en"]}))]
    assert left_out(filters, [b"0.1", b"fr"]) == "filtered: 2: fr is not wanted"
    assert left_out(filters, [b"0.9", b"fr"]) == "filtered: punsafe: 0.9 is above 0.5"
    assert error_class("filtered: punsafe: 0.9 is above 0.5") == "filtered: punsafe"


def test_filters_of_params(tmp_path: Path) -> None:
    source = {"kind": "url_table", "path": "t.tsv", "layout": "cc3m"}
    for rules, message in (
        ({"n": {}}, "sources.a.filters.n: a filter needs one of min, max, in, not_in"),
        ({"n": {"mx": 1}}, "sources.a.filters.n.mx: unknown key"),
        ({"n": {"in": [False]}}, "sources.a.filters.n.in"),  # YAML's `no`
    ):
        with pytest.raises(ParamsError) as error:
            parse_params({"sources": {"a": {**source, "filters": rules}}}, "params.yaml")
        assert message in str(error.value)


def test_what_is_left_out_is_counted_and_never_fetched(tmp_path: Path) -> None:
    columns = {
        "URL": [f"ok/{i}" for i in range(8)],
        "TEXT": [f"picture {i}" for i in range(8)],
        "punsafe": pa.array([0.0, 0.9, None, float("nan"), 0.5, 0.2, 0.6, 0.1], pa.float32()),
        "LANGUAGE": ["en", "en", "en", "en", "fr", "en", "fr", None],
    }
    (tmp_path / "laion").mkdir()
    pq.write_table(pa.table(columns), tmp_path / "laion" / "part-00000.parquet")
    rules = {"punsafe": {"max": 0.5}, "LANGUAGE": {"in": ["en"]}}
    with running_server() as server:
        values = {"kind": "url_table", "path": tmp_path / "laion", "layout": "laion", "url_prefix": server.url}
        source = UrlTableSource.model_validate({**values, "filters": rules})
        # 6 of 8 rows are left out, yet nothing failed: the ceiling is on what was wanted.
        report = download_source(source, "web", settings(max_failed_share=0.0), tmp_path / "out", tmp_path / "work")
        assert set(server.hits) == {"/ok/0", "/ok/5"}
        nothing = source.model_copy(update={"filters": {"punsafe": ColumnFilter(min=2.0)}})
        with pytest.raises(CeilingError, match=r"all 8 rows were left out: filtered: punsafe \(8\)"):
            download_source(nothing, "none", settings(), tmp_path / "none", tmp_path / "work2")
    counts = {name: report[name] for name in ("requested", "success", "rejected", "filtered", "failed_share")}
    assert counts == {"requested": 8, "success": 2, "rejected": 6, "filtered": 6, "failed_share": 0.0}
    assert report["errors"] == {"filtered: punsafe": 4, "filtered: LANGUAGE": 2}
    judged = image_table([read_manifest(tmp_path / "out", "images")])
    assert (len(judged), judged["failed"].sum()) == (2, 0.0)


@pytest.mark.parametrize("twins", [("0.9",), ("0.9", "0.8", "bad"), ()])
def test_rows_that_stay_do_not_depend_on_twins_that_are_left_out(twins: tuple[str, ...], tmp_path: Path) -> None:
    """The hash of the plain cells is the key of the first row that stays, wherever it is."""
    cells = [*twins, "0.1", *twins, "0.2"]
    (tmp_path / "t.tsv").write_text("url\tcaption\tpunsafe\n" + "".join(f"u\ta\t{cell}\n" for cell in cells))
    source = UrlTableSource.model_validate(
        {"kind": "url_table", "path": tmp_path / "t.tsv", "format": "tsv", "url_column": "url", "url_prefix": ""}
        | {"caption_column": "caption", "filters": {"punsafe": {"max": 0.5}}}
    )
    requests = list(read_requests(source))
    stay = [request for request in requests if not (request.reason or "").startswith("filtered: punsafe: ")]
    assert [request.reason for request in stay] == [None, f"repeats row {len(twins) + 1}"]
    assert [request.key for request in stay] == [sha256_bytes(cells)[:20] for cells in (b"u\na", b"u\na\nrepeat 1")]
    assert len({request.key for request in requests}) == len(requests) == 2 * len(twins) + 2


def test_repeats_of_what_is_left_out_are_no_failures(tmp_path: Path) -> None:
    rows = "".join(f"ok/{i % 2}\ta\t{i % 2}\n" for i in range(10))  # the five rows of ok/1 are left out
    (tmp_path / "t.tsv").write_text(f"url\tcaption\tpunsafe\nok/2\tb\t0\nok/2\tb\t9\n{rows}")
    with running_server() as server:
        source = UrlTableSource.model_validate(
            {"kind": "url_table", "path": tmp_path / "t.tsv", "format": "tsv", "url_column": "url"}
            | {"caption_column": "caption", "url_prefix": server.url, "filters": {"punsafe": {"max": 0.5}}}
        )
        report = download_source(source, "web", settings(), tmp_path / "out", tmp_path / "work")
    assert report["errors"] == {"filtered: punsafe": 6, "repeats an earlier row": 4}
    assert (report["success"], report["filtered"], report["failed_share"]) == (2, 6, round(4 / 6, 6))
