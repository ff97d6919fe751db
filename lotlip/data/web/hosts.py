"""Slots and pace of every host: one that is slow or dead holds nothing that the others could use."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from yarl import URL

from lotlip.data.web.fetch import FetchError
from lotlip.data.web.robots import Rules
from lotlip.params import Download

MAX_WAIT_S = 60.0  # a server that asks for a longer pause is not asked again in this run
_MAX_PAUSES_S = 300.0  # that one host may ask for in all, or it could hold up the run for days
_MAX_HOSTS = 65_536  # remembered; beyond it, the one idle for longest is forgotten


class Host:
    """An origin (scheme, name and port): its slots, when it may be asked next, its failures, its robots.txt."""

    def __init__(self, max_requests: int) -> None:
        self.slots = asyncio.Semaphore(max_requests)
        self.gate = asyncio.Lock()
        self.next_start = 0.0  # on the monotonic clock
        self.pauses_left_s = _MAX_PAUSES_S
        self.num_failures = 0  # to connect, in a row
        self.num_users = 0
        self.rules: Rules | None = None
        self.rules_until = 0.0
        self.rules_lock = asyncio.Lock()

    def pause(self, seconds: float) -> None:
        """Ask nothing more for that long, as far as the host's allowance goes."""
        now = time.monotonic()
        longer_s = now + seconds - max(now, self.next_start)
        if 0 < longer_s <= self.pauses_left_s and seconds <= MAX_WAIT_S:
            self.pauses_left_s -= longer_s
            self.next_start = now + seconds


class Hosts:
    """All hosts, and the requests in flight to all of them together."""

    def __init__(self, settings: Download) -> None:
        self._settings = settings
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._hosts: OrderedDict[URL, Host] = OrderedDict()

    @contextmanager
    def use(self, origin: URL) -> Iterator[Host]:
        """The host of that origin, which is not forgotten within the block."""
        if (host := self._hosts.get(origin)) is None:
            host = self._hosts[origin] = Host(self._settings.max_per_host)
        self._hosts.move_to_end(origin)
        host.num_users += 1
        try:
            self._forget()
            yield host
        finally:
            host.num_users -= 1

    @asynccontextmanager
    async def slot(self, host: Host) -> AsyncIterator[None]:
        """Hold a slot of the host, then one of all, within the block, which makes one request.

        At the gate one request at a time waits for the host's pace and for a slot of all, so that a host with
        many requests is no more often in that queue than a host with one.

        Raises:
            FetchError: the host is given up: connecting to it failed too often in a row.
        """
        async with host.slots:
            async with host.gate:
                if host.num_failures >= self._settings.max_connect_failures:
                    raise FetchError("host given up: too many connections failed in a row", unconnected=True)
                while (wait_s := host.next_start - time.monotonic()) > 0:
                    await asyncio.sleep(wait_s)
                await self._slots.acquire()
                host.next_start = time.monotonic() + self._settings.host_interval_s
            num_failures = 0
            try:
                yield
            except FetchError as error:
                num_failures = host.num_failures + 1 if error.unconnected and error.passing else 0
                host.pause(error.wait_s)
                raise
            finally:
                host.num_failures = num_failures
                self._slots.release()

    def _forget(self) -> None:
        if len(self._hosts) > _MAX_HOSTS:
            idle = next((origin for origin, host in self._hosts.items() if not host.num_users), None)
            if idle is not None:
                del self._hosts[idle]
