"""Leases: of several machines that share a storage, one at a time does a piece of work.

A lease is an object that is written only where there is none (If-None-Match) and renewed only while it is
still one's own (If-Match). One that was not renewed for its lifetime, by the server's clock, may be taken over.
"""

import json
import os
import secrets
import socket
import threading
from collections.abc import Iterator
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
def leased(url: str, lifetime_s: float = LIFETIME_S) -> Iterator[None]:
    """Hold the lease at `url`, renewed in the background until the block ends.

    Raises:
        DataError: another process holds it, or it was lost in the meantime (this process slept, or the server was
            away for longer than the lifetime), so that another may have done the same work.
    """
    holder = {"host": socket.gethostname(), "process": os.getpid(), "run": secrets.token_hex(4)}
    name = json.dumps(holder).encode()
    keeper = _Keeper(url, name, _take(url, name, lifetime_s), lifetime_s)
    try:
        yield
    finally:
        keeper.stop()
    if keeper.lost:
        raise DataError(f"The lease {url} was lost: another run may have done this work, too. Run again to make sure.")


def _take(url: str, name: bytes, lifetime_s: float) -> str:
    if (etag := write_if_new(url, name)) is not None:
        return etag
    found = find_object(url)
    if found is None:  # given back this moment
        return _take(url, name, lifetime_s)
    idle_s = (server_time(url) - found.written_at).total_seconds()
    if idle_s > lifetime_s and (etag := write_if_same(url, name, found.etag)) is not None:
        return etag
    raise DataError(
        f"Another run is at work: {read_object(url).decode(errors='replace')} holds {url} and was there "
        f"{max(0.0, idle_s):.0f} s ago. Wait for it, or stop it: {lifetime_s:.0f} s later the lease is free."
    )


@contextmanager
def at_work(work: Path, root: str | None) -> Iterator[None]:
    """Do resumable work in a folder alone: on this machine, and with a storage `root` of all machines that use it.

    Raises:
        DataError: another run is at this work, or the disk is full.
        StorageError: S3 refuses or is away.
    """
    with locked(work), disk_errors(work), ExitStack() as stack:
        if root is not None:
            stack.enter_context(leased(join(root, "leases", *work.parts[-2:])))
        yield


class _Keeper:
    """Renews a lease three times in its lifetime."""

    def __init__(self, url: str, name: bytes, etag: str, lifetime_s: float) -> None:
        self.lost = False
        self._url, self._name, self._etag = url, name, etag
        self._every_s = lifetime_s / 3
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._renew_often, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Give the lease back, if it is still held; a server that is away forgets it after its lifetime."""
        self._stopped.set()
        self._thread.join()
        if not self.lost:
            with suppress(StorageError):
                delete_object(self._url)

    def _renew_often(self) -> None:
        number = 0
        while not self.lost and not self._stopped.wait(self._every_s):
            number += 1
            # The server may be back before the lease ends.
            with suppress(StorageError):
                self._renew(self._name + b" " * (number % 64))  # spaces give every renewal a tag of its own

    def _renew(self, data: bytes) -> None:
        etag = write_if_same(self._url, data, self._etag)
        if etag is None:  # an answer that got lost may have been ours
            found = find_object(self._url)
            if found is None or read_object(self._url).strip() != self._name:
                self.lost = True
                return
            etag = found.etag
        self._etag = etag
