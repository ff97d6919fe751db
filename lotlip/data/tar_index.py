"""The index of a tar: where its files lie, found in the same pass over its bytes that feeds their hash.

The members that datasets are made of (ustar, pax and GNU long names, directories, links) are read here, some ten times
faster than by `tarfile`. At anything else, damage included, `tarfile` decides: what is read here is read the same.
"""

import hashlib
import os
import re
import tarfile
import zlib
from functools import lru_cache
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from lotlip.errors import DataError

PIECE = 1 << 20  # bytes hashed at once
HOP = 1 << 14  # bytes read at once where nothing is hashed and data may be skipped
BLOCK = tarfile.BLOCKSIZE
_END = bytes(BLOCK)
_NUMBER = re.compile(rb" *([0-7]+)[ \0]*")
_RECORD = re.compile(rb"([1-9][0-9]*) ([^=\n]+)=")
_MAX_EXTENDED = 1 << 16  # bytes of a pax header or long name
_FILES, _NO_DATA, _LONG_NAMES, _PAX = b"0\0007", b"123456", b"LK", b"xg"


class Member(NamedTuple):
    """A file in a tar: where its `size` bytes of data begin. Those of a sparse file are scattered (see `tarfile`)."""

    name: str
    offset: int
    size: int
    is_sparse: bool = False


class _Unusual(Exception):
    """Nothing that is read here."""


def index_tar(file: FileIO, path: Path, sha256: str | None = None) -> list[Member]:
    """The files of a tar in their order; of one that repeats, all.

    Args:
        file: the tar, open and unbuffered.
        path: what messages call it.
        sha256: what the whole file must have; without it data is skipped, not read.

    Raises:
        DataError: it has another hash, is no tar, is cut (also between two members), or a header is damaged.
    """
    digest = None if sha256 is None else hashlib.sha256()
    scan = _Scan(file)
    view = memoryview(bytearray(HOP if digest is None else PIECE))
    at = 0
    while count := os.preadv(file.fileno(), [view], at):
        if digest is not None:
            digest.update(view[:count])
        scan.feed(view[:count], at)
        if digest is None and scan.is_done:
            break
        at = at + count if digest is not None else scan.next_header
    if digest is not None and (found := digest.hexdigest()) != sha256:
        raise DataError(
            f"Shard {path} has sha256 {found[:12]}, its manifest says {str(sha256)[:12]}: the file is damaged "
            "or was changed. Remove it and run `dvc checkout` or its download stage again."
        )
    return scan.members if scan.is_whole else index_with_tarfile(file, path)


def index_with_tarfile(file: FileIO, path: Path) -> list[Member]:
    """What `index_tar` gives, slowly."""
    try:
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:") as tar:
            members = [member_of(info) for info in tar if info.isfile()]
            # `tarfile` takes a tar that is cut between two members, or whose header is damaged, for whole.
            if os.pread(file.fileno(), BLOCK, tar.offset) != _END:
                raise DataError(f"Shard {path} ends without the mark of a tar's end: it is truncated or damaged.")
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        raise DataError(f"Shard {path} cannot be read as a tar ({error}): it is truncated or damaged.") from error
    return members


def member_of(info: tarfile.TarInfo) -> Member:
    """A member that `tarfile` has read."""
    return Member(info.name, info.offset_data, info.size, info.issparse())


class _Scan:
    """Reads headers from pieces of a tar that come in order and begin at a block's border.

    Headers lie at multiples of a block, so that a piece holds each whole or not at all.
    """

    def __init__(self, file: FileIO) -> None:
        self.members: list[Member] = []
        self.next_header = 0
        self.is_whole = False  # the end's mark was reached, and all before it was read
        self.is_done = False
        self._file = file
        self._told: dict[str, str | int] | None = None  # what extended headers say of the next member

    def feed(self, piece: memoryview, start: int) -> None:
        """Read the headers in `piece`, which begins at byte `start` of the tar."""
        try:
            while not self.is_done and self.next_header < start + len(piece):
                at = self.next_header - start
                self._read_header(bytes(piece[at : at + BLOCK]))
        except (_Unusual, UnicodeError):
            self.is_done = True

    def _read_header(self, header: bytes) -> None:
        if len(header) != BLOCK or (header == _END and self._told is not None):
            raise _Unusual
        if header == _END:
            self.is_done = self.is_whole = True
            return
        if _sum(header) != _sum_told(header[148:156]):
            raise _Unusual
        _check_numbers(header[100:124], header[136:148], header[329:345])
        size, kind, data = _number(header[124:136]), header[156], self.next_header + BLOCK
        if kind in _FILES:
            name = _name(header)
            if self._told is not None:
                name, size = str(self._told.get("path", name)), int(self._told.get("size", size))
            self.members.append(Member(name, data, size))
        elif kind in _NO_DATA:
            size = 0
        elif kind in _LONG_NAMES:
            text = self._extended(data, size).partition(b"\0")[0]
            self._tell({"path": text.decode("utf-8", "surrogateescape")} if kind == ord("L") else {})
        elif kind in _PAX:
            told = _pax_records(self._extended(data, size), size)
            if kind == ord("g") and told:  # holds for all that follow
                raise _Unusual
            self._tell(told)
        else:
            raise _Unusual
        if kind in _FILES or kind in _NO_DATA:
            self._told = None
        self.next_header = data + -(-size // BLOCK) * BLOCK

    def _extended(self, offset: int, size: int) -> bytes:
        if size > _MAX_EXTENDED:
            raise _Unusual
        padded = -(-size // BLOCK) * BLOCK
        if len(found := os.pread(self._file.fileno(), padded, offset)) != padded:
            raise _Unusual
        return found

    def _tell(self, told: dict[str, str | int]) -> None:
        self._told = self._told or {}
        if self._told.keys() & told.keys():
            raise _Unusual
        self._told |= told


def _sum(header: bytes) -> int:
    """The sum of its bytes. Adler-32 holds it, modulo 65521, which that of 512 ASCII characters cannot reach."""
    return (zlib.adler32(header) & 0xFFFF) - 1 if header.isascii() else sum(header)


@lru_cache(maxsize=4096)
def _sum_told(field: bytes) -> int:
    """The sum of a header by its checksum, which takes its own `field` for spaces."""
    return _number(field) - len(field) * ord(" ") + sum(field)


def _name(header: bytes) -> str:
    name = header[:100].partition(b"\0")[0]
    if name.endswith(b"/"):  # a directory of the oldest kind
        raise _Unusual
    prefix = header[345:500].partition(b"\0")[0] + b"/" if header[345] else b""
    return (prefix + name).decode("utf-8", "surrogateescape")


def _pax_records(found: bytes, size: int) -> dict[str, str | int]:
    """What matters of a pax header, `path` and `size`; `found` is padded to whole blocks."""
    if b"hdrcharset" in found or b"GNU.sparse" in found or found[size:].strip(b"\0"):
        raise _Unusual
    told: dict[str, str | int] = {}
    at = 0
    while at < size:
        record = _RECORD.match(found, at)
        end = at + int(record[1]) if record else 0
        if record is None or not record.end() < end <= size or found[end - 1 : end] != b"\n":
            raise _Unusual
        value, at = found[record.end() : end - 1], end
        if record[2] == b"path" and value and not value.endswith(b"/"):
            told["path"] = value.decode("utf-8", "surrogateescape")
        elif record[2] == b"size" and value.isdigit():
            told["size"] = int(value)
        elif record[2] in (b"path", b"size"):
            raise _Unusual
    return told


@lru_cache(maxsize=4096)
def _number(field: bytes) -> int:
    """A number of a header: octal digits, or binary where the first byte is 0x80."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    if field[:-1].isdigit() and field[-1] in b"\0 " and max(field) < ord("8"):  # nearly all
        return int(field[:-1], 8)
    if found := _NUMBER.fullmatch(field):
        return int(found[1], 8)
    if field.strip(b" \0"):
        raise _Unusual
    return 0


@lru_cache(maxsize=4096)
def _check_numbers(owner: bytes, time: bytes, device: bytes) -> None:
    """Mode, user and group; time; device: not used, but where they are no numbers it is no header."""
    for field in (owner[:8], owner[8:16], owner[16:], time, device[:8], device[8:]):
        _number(field)
