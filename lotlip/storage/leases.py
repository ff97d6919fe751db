"""Leases: of several machines that share a storage, one at a time does a piece of work.

A lease is an object that is written only where there is none (If-None-Match) and renewed only while it is
still one's own (If-Match). One that was not renewed for its lifetime, by the server's clock, may be taken over.
"""

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from lotlip.errors import DataError, StorageError
from lotlip.records import disk_errors, locked
from lotlip.storage.objects import (
    delete_object,
    find_object,
    join,
    read_object,
    server_time,
    write_if_new,
    write_if_same,
)

LIFETIME_S = 120.0


@contextmanager
def leased(url: str, lifetime_s: float = LIFETIME_S) -> Iterator[Callable[[], None]]:
    """Hold the lease at `url`, renewed in the background until the block ends; yields what checks that it is held.

    The check, and the end of the block, raise where the lease was lost in the meantime (this process slept, or the
    server was away for longer than the lifetime), so that another may have done the same work.

    Raises:
        DataError: another process holds it, or it was lost.
    """
    holder = {"host": socket.gethostname(), "process": os.getpid(), "run": secrets.token_hex(4)}
    name = json.dumps(holder).encode()
    keeper = _Keeper(url, name, _take(url, name, lifetime_s), lifetime_s)
    try:
        yield keeper.check
    finally:
        keeper.stop()
    keeper.check()


def _take(url: str, name: bytes, lifetime_s: float) -> str:
    if (etag := write_if_new(url, name)) is not None:
        return etag
    found = find_object(url)
    if found is None:  # given back this moment
        return _take(url, name, lifetime_s)
    if read_object(url) == name:  # the answer to our own write got lost, and it was sent again
        return found.etag
    idle_s = (server_time(url) - found.written_at).total_seconds()
    if idle_s > lifetime_s and (etag := write_if_same(url, name, found.etag)) is not None:
        return etag
    raise DataError(
        f"Another run is at work: {read_object(url).decode(errors='replace')} holds {url} and was there "
        f"{max(0.0, idle_s):.0f} s ago. Wait for it, or stop it: {lifetime_s:.0f} s later the lease is free."
    )


@contextmanager
def at_work(work: Path, root: str | None) -> Iterator[Callable[[], None]]:
    """Do resumable work in a folder alone: on this machine, and with a storage `root` of all machines that use it.

    Yields what is to be called before anything is published: it raises where another run may be at the same work.

    Raises:
        DataError: another run is at this work, or the disk is full.
        StorageError: S3 refuses or is away.
    """
    with locked(work), disk_errors(work), ExitStack() as stack:
        if root is None:
            yield _alone
        else:
            yield stack.enter_context(leased(join(root, "leases", *work.parts[-2:])))


def _alone() -> None:
    """The lock of this machine cannot be lost."""


class _Keeper:
    """Renews a lease three times in its lifetime."""

    def __init__(self, url: str, name: bytes, etag: str, lifetime_s: float) -> None:
        self._url, self._name, self._etag = url, name, etag
        self._lifetime_s = lifetime_s
        self._held_until = time.monotonic() + lifetime_s
        self._is_lost = False
        self._number = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._renew_often, daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise where the lease was lost."""
        if self._is_lost or time.monotonic() > self._held_until:
            raise DataError(
                f"The lease {self._url} was lost: another run may have done this work, too. Run again to make sure."
            )

    def stop(self) -> None:
        """Give the lease back, if it is still held; a server that is away forgets it after its lifetime."""
        self._stopped.set()
        self._thread.join()
        with suppress(StorageError):
            self._renew()  # only what is still ours is deleted
            if not self._is_lost:
                delete_object(self._url)

    def _renew_often(self) -> None:
        while not self._is_lost and not self._stopped.wait(self._lifetime_s / 3):
            with suppress(StorageError):  # the server may be back before the lease ends
                self._renew()

    def _renew(self) -> None:
        asked_at = time.monotonic()
        self._number += 1
        data = self._name + b" " * (self._number % 64)  # spaces give every renewal a tag of its own
        etag = write_if_same(self._url, data, self._etag)
        if etag is None:  # an answer that got lost may have been ours
            found = find_object(self._url)
            if found is None or read_object(self._url).strip() != self._name:
                self._is_lost = True
                return
            etag = found.etag
        self._etag = etag
        self._held_until = asked_at + self._lifetime_s
