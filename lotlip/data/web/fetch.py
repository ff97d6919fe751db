"""One HTTP request to a server that may be slow, broken or hostile, and why it failed."""

import errno
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

import aiohttp
from yarl import URL

from lotlip.data.images import has_image_magic, not_an_image
from lotlip.data.web.addresses import NOT_PUBLIC, public_socket
from lotlip.data.web.robots import check_tags
from lotlip.errors import DataError
from lotlip.params import Download

_REDIRECTS = (301, 302, 303, 307, 308)
_OTHER_TYPES = ("text/", "audio/", "video/", "font/", "application/json", "application/xml", "application/xhtml+xml")
_NUM_MAGIC_BYTES = 16
NO_MORE_FILES = (errno.EMFILE, errno.ENFILE)
Result = TypeVar("Result")


class FetchError(Exception):
    """One attempt failed.

    `passing`: another may succeed; `wait_s`: the pause that the server asked for; `unconnected`: it was the host that
    could not be reached, whatever was asked for.
    """

    def __init__(self, reason: str, passing: bool = False, wait_s: float = 0.0, unconnected: bool = False) -> None:
        super().__init__(reason)
        self.passing = passing
        self.wait_s = wait_s
        self.unconnected = unconnected


def open_session(settings: Download) -> aiohttp.ClientSession:
    """A session that verifies TLS, keeps no cookies, uses no proxy, and connects to public addresses only
    unless `settings.allow_private_hosts`. The check sees the very address of every connection, redirects
    and changing DNS answers included.
    """
    connector = aiohttp.TCPConnector(
        limit=0,  # `Hosts` has the slots
        keepalive_timeout=2.0,  # of millions of hosts, few are asked again: idle sockets would use up the files
        ttl_dns_cache=300,
        dns_cache_max_size=10_000,
        socket_factory=None if settings.allow_private_hosts else public_socket,
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(
            total=settings.timeout_s, connect=settings.connect_timeout_s, sock_read=settings.read_timeout_s
        ),
        headers={"User-Agent": settings.user_agent, "Accept": "image/*,*/*;q=0.8", "Accept-Encoding": "identity"},
    )


def parse_url(text: str) -> URL:
    """An absolute http or https URL.

    Raises:
        FetchError: it is another or none.
    """
    try:
        url = URL(text)
    except ValueError:
        raise FetchError("invalid URL") from None
    if not url.scheme or (url.scheme in ("http", "https") and not url.host):
        raise FetchError("invalid URL")
    if url.scheme not in ("http", "https"):
        raise FetchError("scheme refused: neither http nor https")
    return url


async def get(
    session: aiohttp.ClientSession,
    url: URL,
    timeout_s: float,
    read: Callable[[aiohttp.ClientResponse], Awaitable[Result]],
) -> Result | URL:
    """What `read` makes of the answer to one GET, or where the answer redirects to.

    Raises:
        FetchError: no connection, or no whole answer within `timeout_s` and the session's deadlines, or as `read`.
        OSError: this process may not open more files.
    """
    try:
        rest = session.timeout
        timeout = aiohttp.ClientTimeout(total=timeout_s, connect=rest.connect, sock_read=rest.sock_read)
        async with session.get(url, allow_redirects=False, timeout=timeout) as response:
            if response.status in _REDIRECTS and (target := response.headers.get("Location")):
                return parse_url(str(response.url.join(URL(target))))
            return await read(response)
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in NO_MORE_FILES:
            raise  # it says nothing of the row
        raise _explain(error) from error


async def read_image(response: aiohttp.ClientResponse, settings: Download) -> bytes:
    """The body of an answer that may be an image: what its headers or first bytes rule out is not read further.

    Raises:
        FetchError: the status is not 200, or the body has more than `settings.max_bytes`.
        RobotsError: the server wants no such use.
        DataError: the body is no image.
    """
    if response.status != 200:
        raise refusal(response)
    if settings.respect_robots:
        check_tags(response.headers.getall("X-Robots-Tag", ()), settings.user_agent)
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind.startswith(_OTHER_TYPES) and kind != "text/plain":  # which servers send with what they do not know
        raise DataError(f"not an image: content type {kind}")
    too_large = FetchError(f"too many bytes: more than {settings.max_bytes}")
    if (response.content_length or 0) > settings.max_bytes:
        raise too_large
    body = bytearray()
    is_checked = False
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > settings.max_bytes:
            raise too_large
        if not is_checked and len(body) >= _NUM_MAGIC_BYTES:
            is_checked = True
            if not has_image_magic(bytes(body[:_NUM_MAGIC_BYTES])):
                raise not_an_image()
    return bytes(body)


def refusal(response: aiohttp.ClientResponse) -> FetchError:
    """The error of an answer whose status is not the one hoped for."""
    passing = response.status in (408, 429) or response.status >= 500
    wait_s = _retry_after_s(response.headers.get("Retry-After", ""))
    return FetchError(f"HTTP {response.status}", passing, wait_s)


def _retry_after_s(value: str) -> float:
    """Seconds that a Retry-After header asks for (a number or an HTTP date), 0 where it says nothing."""
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return 0.0


def _explain(error: BaseException) -> FetchError:
    """The same reason for the same fault, free of addresses, ports and system texts."""
    match error:
        case aiohttp.ConnectionTimeoutError():
            return FetchError("timeout: no connection", passing=True, unconnected=True)
        case aiohttp.SocketTimeoutError():
            return FetchError("timeout: no more bytes", passing=True)
        case TimeoutError():
            return FetchError("timeout: no end", passing=True)
        case aiohttp.ClientConnectorDNSError():
            return FetchError("host not found", passing=True, unconnected=True)
        case ssl.SSLError() | ssl.CertificateError() | aiohttp.ClientSSLError():
            return FetchError("TLS failed", unconnected=True)
        case aiohttp.ClientConnectorError() if NOT_PUBLIC in str(error.os_error):
            return FetchError("address refused: not public", unconnected=True)
        case aiohttp.ClientConnectorError():
            return FetchError("cannot connect", passing=True, unconnected=True)
        case aiohttp.InvalidURL() | ValueError():
            return FetchError("invalid URL")
        case _:
            return FetchError("connection broken", passing=True)
