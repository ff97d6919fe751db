"""Sources: what is asked for, one request a sample, with a key that depends on content or URL alone."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from lotlip.data.repeats import FirstRows
from lotlip.data.url_tables import Pair, read_pairs
from lotlip.errors import DataError
from lotlip.params import UrlTableSource
from lotlip.records import sha256_bytes

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


def read_requests(source: UrlTableSource) -> Iterator[Request]:
    """Yield a request for every row of a URL table, in order, each with a key of its own.

    The key comes from the cells as they stand, so it does not change with `url_prefix`. Of rows with equal
    cells the first counts; the others are rejected with `repeats row N` (N counts rows from 1, without the
    header).

    Raises:
        DataError: as `read_pairs`, and when the table has no rows.
    """
    first_rows = FirstRows()
    num_repeats: dict[str, int] = {}
    for number, pair in enumerate(read_pairs(source), start=1):
        key = sample_key(pair.url, pair.caption)
        first = first_rows.add(bytes.fromhex(key), number)
        if first == number:
            yield _request(key, pair, source.url_prefix, pair.problem)
            continue
        num_repeats[key] = num_repeats.get(key, 0) + 1
        repeat_key = sample_key(pair.url, pair.caption, b"repeat %d" % num_repeats[key])
        yield _request(repeat_key, pair, source.url_prefix, f"repeats row {first}")
    if not first_rows:
        raise DataError(f"Table {source.path} has no rows: there is nothing to download.")


def _request(key: str, pair: Pair, prefix: str, problem: str | None) -> Request:
    url, caption = _decode(pair.url), _decode(pair.caption)
    if problem is None and url is None:
        problem = "URL is not UTF-8"
    if problem is None and not pair.url.strip():
        problem = "URL is missing"
    if problem is None and caption is None:
        problem = "caption is not UTF-8"
    shown = url if url is not None else pair.url.decode("utf-8", "backslashreplace")
    return Request(key, full_url(shown.strip(), prefix), caption, problem)


def full_url(url: str, prefix: str) -> str:
    """`url` itself when it is absolute or there is no prefix, else the two joined by one slash."""
    if not prefix or not url or _SCHEME.match(url):
        return url
    return f"{prefix.rstrip('/')}/{url.lstrip('/')}"


def _decode(cell: bytes) -> str | None:
    try:
        return cell.decode("utf-8")
    except UnicodeDecodeError:
        return None
