"""Sources: what is asked for, one request a sample, with a key that depends on content or URL alone."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from lotlip.data.sources.filters import left_out
from lotlip.data.sources.repeats import FirstRows
from lotlip.data.sources.table_files import Wanted, read_cells
from lotlip.data.sources.table_layouts import LAYOUTS
from lotlip.errors import DataError
from lotlip.params import UrlTableSource
from lotlip.records import sha256_bytes
from lotlip.storage.copies import local_path

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True, slots=True)
class Request:
    """One row of a URL table; `reason` says why it is rejected before anything is fetched."""

    key: str
    url: str
    caption: str | None
    reason: str | None = None


def sample_key(*parts: bytes) -> str:
    """20 hex digits of the SHA-256 of the parts, joined by newlines."""
    return sha256_bytes(b"\n".join(parts))[:20]


class Keys:
    """Gives every row of a source a key of its own; of rows with equal parts the first that stays counts.

    That one has the plain key of its parts, whatever comes before it. Rows with a problem, those that a filter leaves
    out included, have keys of a series of their own: they take no other row's key, and are nobody's first row.
    """

    def __init__(self) -> None:
        self._first_rows = FirstRows()
        self._num_repeats: dict[str, int] = {}
        self._num_rows = 0

    def __bool__(self) -> bool:
        return bool(self._num_rows)

    def take(self, *parts: bytes, problem: str | None = None) -> tuple[str, str | None]:
        """The next row's key, and why it is rejected: its problem, or `repeats row N` (rows counted from 1)."""
        self._num_rows += 1
        if problem is not None:
            parts = (b"left out", *parts)
        key = sample_key(*parts)
        first = self._first_rows.add(bytes.fromhex(key), self._num_rows)
        if first == self._num_rows:
            return key, problem
        self._num_repeats[key] = self._num_repeats.get(key, 0) + 1
        return sample_key(*parts, b"repeat %d" % self._num_repeats[key]), problem or f"repeats row {first}"


def read_requests(source: UrlTableSource) -> Iterator[Request]:
    """Yield a request for every row of a URL table, in order, each with a key of its own.

    The key comes from the cells as they stand, so it does not change with `url_prefix`. What the source's filters
    leave out is rejected as `filtered: <column>: <reason>`. Of the other rows with equal cells the first counts; the
    rest are rejected with `repeats row N` (N counts rows from 1, without the header).

    Raises:
        DataError: as `read_cells`, and when the table has no rows.
    """
    keys = Keys()
    filters = list(source.filters.items())
    for record in read_cells(local_path(source.path), source.format, _columns(source), list(source.filters)):
        url, caption = (cell or b"" for cell in record.cells[:2])
        key, problem = keys.take(url, caption, problem=record.problem or left_out(filters, record.cells[2:]))
        yield _request(key, url, caption, source.url_prefix, problem)
    if not keys:
        raise DataError(f"Table {source.path} has no rows: there is nothing to download.")


def full_url(url: str, prefix: str) -> str:
    """`url` itself when it is absolute or there is no prefix, else the two joined by one slash."""
    if not prefix or not url or _SCHEME.match(url):
        return url
    return f"{prefix.rstrip('/')}/{url.lstrip('/')}"


def _columns(source: UrlTableSource) -> tuple[Wanted, Wanted]:
    """Columns of URL and caption: those named in the source, else those of its layout."""
    layout = LAYOUTS[source.layout] if source.layout is not None else None
    url = source.url_column if source.url_column is not None or layout is None else layout.url
    caption = source.caption_column if source.caption_column is not None or layout is None else layout.caption
    assert url is not None
    assert caption is not None
    return url, caption


def _request(key: str, url: bytes, caption: bytes, prefix: str, problem: str | None) -> Request:
    address, text = decode(url), decode(caption)
    if problem is None and address is None:
        problem = "URL is not UTF-8"
    if problem is None and not url.strip():
        problem = "URL is missing"
    if problem is None and text is None:
        problem = "caption is not UTF-8"
    shown = address if address is not None else url.decode("utf-8", "backslashreplace")
    return Request(key, full_url(shown.strip(), prefix), text, problem)


def decode(cell: bytes) -> str | None:
    """The text of a cell, None where it is not UTF-8."""
    try:
        return cell.decode("utf-8")
    except UnicodeDecodeError:
        return None
