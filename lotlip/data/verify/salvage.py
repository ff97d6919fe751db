"""What can still be found in a damaged tar: members before the damage and, from the next good header on, after it."""

import tarfile
from pathlib import Path

from lotlip.data.tar_index import BLOCK, Data, Member, member_of

_MAGIC, _MAGIC_AT = b"ustar", 257


def salvage_members(data: Data, path: Path) -> tuple[list[Member], list[int]]:
    """Members of a damaged tar in order, and the bytes at which a header, or the mark of the end, was expected in vain.

    A member may reach beyond the end of the file, or hold damaged bytes: only a hash tells. Bytes that were lost or
    came in are no hindrance. Headers without `ustar` (the format of before 1988) are not found again after damage.
    """
    members: list[Member] = []
    broken: list[int] = []
    at: int | None = 0
    while at is not None:
        found, stopped = _read_from(path, at)
        members += found
        at = _next_header(data, stopped)
        if at is not None or data[stopped : stopped + BLOCK] != bytes(BLOCK):
            broken.append(stopped)
    return members, broken


def _read_from(path: Path, at: int) -> tuple[list[Member], int]:
    """Members from a header on, as far as `tarfile` comes, and where it stopped."""
    found = []
    with path.open("rb") as file:
        file.seek(at)
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                while (info := tar.next()) is not None:
                    at = tar.offset
                    if info.isfile():
                        found.append(member_of(info))
        except (tarfile.TarError, ValueError, OverflowError):
            pass
    return found, at


def _next_header(data: Data, at: int) -> int | None:
    """Where the next header with a right checksum begins, at `at` or later."""
    magic = data.find(_MAGIC, at + _MAGIC_AT)
    while magic >= 0:
        start = magic - _MAGIC_AT
        try:
            tarfile.TarInfo.frombuf(data[start : start + BLOCK], "utf-8", "surrogateescape")
            return start
        except tarfile.TarError:
            magic = data.find(_MAGIC, magic + 1)
    return None
