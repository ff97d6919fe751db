"""Fetching one image over HTTP from servers that may be slow, broken or hostile."""

import asyncio
import ipaddress
import random
import socket
import ssl
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, TypeVar

import aiohttp

from lotlip.params import Download

MAX_REDIRECTS = 5
MAX_WAIT_S = 60.0  # a server that asks for a longer pause is not asked again in this run
_BACKOFF_S = 0.5
_NOT_PUBLIC = "address is not public"
Result = TypeVar("Result")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class FetchError(Exception):
    """One attempt failed. `passing`: another may succeed; `wait_s`: the pause that the server asked for."""

    def __init__(self, reason: str, passing: bool = False, wait_s: float = 0.0) -> None:
        super().__init__(reason)
        self.passing = passing
        self.wait_s = wait_s


def open_session(settings: Download) -> aiohttp.ClientSession:
    """A session that verifies TLS, keeps no cookies, uses no proxy, and connects to public addresses only
    unless `settings.allow_private_hosts`. The check sees the very address of every connection, redirects
    and changing DNS answers included.
    """
    connector = aiohttp.TCPConnector(
        limit=settings.concurrency,
        ttl_dns_cache=300,
        socket_factory=None if settings.allow_private_hosts else _public_socket,
    )
    return aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=settings.timeout_s),
        headers={"User-Agent": "lotlip-download", "Accept": "image/*", "Accept-Encoding": "identity"},
    )


async def with_retries(attempt: Callable[[], Awaitable[Result]], slots: asyncio.Semaphore, num_retries: int) -> Result:
    """Call `attempt` until it succeeds, at most 1 + `num_retries` times.

    A slot is held during an attempt and free during the pause before the next, which is exponential with
    jitter and no shorter than the server's Retry-After.

    Raises:
        FetchError: of the last attempt.
    """
    for number in range(num_retries + 1):
        try:
            async with slots:
                return await attempt()
        except FetchError as error:
            wait_s = max(_BACKOFF_S * 2**number * random.uniform(0.5, 1.5), error.wait_s)
            if not error.passing or number == num_retries or wait_s > MAX_WAIT_S:
                raise
        await asyncio.sleep(wait_s)
    raise AssertionError("unreachable")


async def fetch(session: aiohttp.ClientSession, url: str, max_bytes: int) -> bytes:
    """The body that one GET of `url` answers with, after at most `MAX_REDIRECTS` redirects.

    Raises:
        FetchError: anything but a whole 200 answer of at most `max_bytes`, within the session's time.
    """
    try:
        async with session.get(url, max_redirects=MAX_REDIRECTS + 1) as response:
            if response.status != 200:
                raise _refusal(response)
            return await _read(response, max_bytes)
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError) as error:
        raise _explain(error) from error


async def _read(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    too_large = FetchError(f"too many bytes: more than {max_bytes}")
    if (response.content_length or 0) > max_bytes:
        raise too_large
    body = bytearray()
    async for chunk in response.content.iter_chunked(1 << 16):
        body += chunk
        if len(body) > max_bytes:
            raise too_large
    return bytes(body)


def _refusal(response: aiohttp.ClientResponse) -> FetchError:
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
        case TimeoutError():
            return FetchError("timeout", passing=True)
        case aiohttp.TooManyRedirects():
            return FetchError(f"too many redirects: more than {MAX_REDIRECTS}")
        case aiohttp.NonHttpUrlClientError():
            return FetchError("scheme refused: neither http nor https")
        case aiohttp.ClientConnectorDNSError():
            return FetchError("host not found", passing=True)
        case ssl.SSLError() | ssl.CertificateError() | aiohttp.ClientSSLError():
            return FetchError("TLS failed")
        case aiohttp.ClientConnectorError() if _NOT_PUBLIC in str(error.os_error):
            return FetchError("address refused: not public")
        case aiohttp.ClientConnectorError():
            return FetchError("cannot connect", passing=True)
        case aiohttp.InvalidURL() | ValueError():
            return FetchError("invalid URL")
        case _:
            return FetchError("connection broken", passing=True)


def _public_socket(address_info: Any) -> socket.socket:
    family, kind, protocol, _, address = address_info
    if not is_public(str(address[0])):
        raise PermissionError(_NOT_PUBLIC)
    return socket.socket(family, kind, protocol)


def is_public(address: str) -> bool:
    """Whether an IP address is reachable from everywhere: not loopback, private, link-local, reserved or
    multicast, also where an IPv6 address wraps an IPv4 one.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        embedded = [ip.ipv4_mapped, ip.sixtofour, *(ip.teredo or ())]
        if ip in _NAT64:
            embedded.append(ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF))
        if any(inner is not None and not is_public(str(inner)) for inner in embedded):
            return False
        ip = ip.ipv4_mapped or ip
    return ip.is_global and not ip.is_multicast
