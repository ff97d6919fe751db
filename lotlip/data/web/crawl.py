"""Fetching images from many hosts as they want it: robots.txt, slots and pace at every hop, retries with pauses."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from typing import TypeVar

from aiohttp import ClientResponse, ClientSession
from yarl import URL

from lotlip.data.web.fetch import FetchError, get, parse_url, read_image, refusal
from lotlip.data.web.hosts import MAX_WAIT_S, Host, Hosts
from lotlip.data.web.robots import MAX_ROBOTS_BYTES, Rules, parse_rules
from lotlip.params import Download

MAX_REDIRECTS = 5
_BACKOFF_S = 0.5
_KEEP_RULES_S = 24 * 3600.0  # RFC 9309, 2.4
Result = TypeVar("Result")


async def with_retries(attempt: Callable[[], Awaitable[Result]], num_retries: int) -> Result:
    """Call `attempt` until it succeeds, at most 1 + `num_retries` times.

    The pause before the next is exponential with jitter and no shorter than the server's Retry-After.

    Raises:
        FetchError: of the last attempt.
    """
    for number in range(num_retries + 1):
        try:
            return await attempt()
        except FetchError as error:
            wait_s = max(_BACKOFF_S * 2**number * random.uniform(0.5, 1.5), error.wait_s)
            if not error.passing or number == num_retries or wait_s > MAX_WAIT_S:
                raise
        await asyncio.sleep(wait_s)
    raise AssertionError("unreachable")


class Crawler:
    """Fetches images with shared connections, and remembers hosts."""

    def __init__(self, session: ClientSession, settings: Download) -> None:
        self._session = session
        self._settings = settings
        self._hosts = Hosts(settings)

    def image(self, url: str) -> AbstractAsyncContextManager[bytes]:
        """One attempt to get the image at `url`, for the time of the block: its slots are held as long as its
        bytes are in memory.

        Raises:
            FetchError: anything but a whole 200 answer of at most `max_bytes` within `timeout_s`.
            RobotsError: the server forbids it.
            DataError: the answer is no image.
        """
        return self._answer(url, partial(read_image, settings=self._settings), self._settings.respect_robots)

    @asynccontextmanager
    async def _answer(
        self, text: str, read: Callable[[ClientResponse], Awaitable[Result]], respect_robots: bool
    ) -> AsyncIterator[Result]:
        url = parse_url(text)
        left_s = self._settings.timeout_s  # of the time spent on requests; waiting for a slot does not count
        for _ in range(MAX_REDIRECTS + 1):
            with self._hosts.use(url.origin()) as host:
                if respect_robots:
                    await self._check_rules(url, host)
                async with self._hosts.slot(host):
                    started = time.monotonic()
                    answer = await get(self._session, url, left_s, read)
                    if not isinstance(answer, URL):
                        yield answer
                        return
            url = answer
            left_s -= time.monotonic() - started
            if left_s <= 0:
                raise FetchError("timeout: no end", passing=True)
        raise FetchError(f"too many redirects: more than {MAX_REDIRECTS}")

    async def _check_rules(self, url: URL, host: Host) -> None:
        async with host.rules_lock:
            if host.rules is None or time.monotonic() > host.rules_until:
                host.rules = await self._load_rules(url.origin())
                host.rules_until = time.monotonic() + _KEEP_RULES_S
        if host.rules.unreachable is not None:
            raise FetchError(host.rules.unreachable)
        host.rules.check(url, self._settings.user_agent)

    async def _load_rules(self, origin: URL) -> Rules:
        async def attempt() -> Rules:
            async with self._answer(str(origin / "robots.txt"), _read_rules, respect_robots=False) as rules:
                return rules

        try:
            return await with_retries(attempt, self._settings.num_retries)
        except FetchError as error:
            if str(error).startswith("too many redirects"):
                return Rules()  # RFC 9309, 2.3.1.2
            # A host that nobody reaches has no robots.txt to blame.
            return Rules(unreachable=str(error) if error.unconnected else f"robots.txt unreachable: {error}")


async def _read_rules(response: ClientResponse) -> Rules:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) >= MAX_ROBOTS_BYTES:
            break
    if (rules := parse_rules(response.status, bytes(body))) is None:
        raise refusal(response)
    return rules
