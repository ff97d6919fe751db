"""The index of a tar: where its files lie, read from its headers in a mapping of the file.

The members that datasets are made of (ustar, pax and GNU long names, directories, links) are read here, many times
faster than by `tarfile`. At anything else, damage included, `tarfile` decides: what is read here is read the same.
"""

import hashlib
import re
import tarfile
from functools import lru_cache
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import NamedTuple
from zlib import adler32

from lotlip.errors import DataError

Data = mmap | bytes  # of a whole tar; an empty file cannot be mapped
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


def map_file(path: Path) -> Data:
    """The bytes of a file, read from the disk where they are looked at.

    It may be removed or replaced meanwhile, but not cut: then, and at an error of the disk, the system ends the process
    (SIGBUS).
    """
    with path.open("rb") as file:
        return mmap(file.fileno(), 0, access=ACCESS_READ) if path.stat().st_size else b""


def index_tar(data: Data, path: Path, sha256: str | None = None) -> list[Member]:
    """The files of a tar in their order; of one that repeats, all.

    Args:
        data: the mapped tar.
        path: where it lies.
        sha256: what the whole file must have; without it only headers are looked at.

    Raises:
        DataError: it has another hash, is no tar, is cut (also between two members), or a header is damaged.
    """
    if sha256 is not None and (found := hashlib.sha256(data).hexdigest()) != sha256:
        raise DataError(
            f"Shard {path} has sha256 {found[:12]}, its manifest says {sha256[:12]}: the file is damaged "
            "or was changed. Remove it and run `dvc checkout` or its download stage again."
        )
    try:
        return _Headers(data).read()
    except (_Unusual, ValueError):  # the latter from digits or names that are none
        return index_with_tarfile(data, path)


def index_with_tarfile(data: Data, path: Path) -> list[Member]:
    """What `index_tar` gives, slowly."""
    try:
        with tarfile.open(path, "r:") as tar:
            members = [member_of(info) for info in tar if info.isfile()]
            # `tarfile` takes a tar that is cut between two members, or whose header is damaged, for whole.
            if data[tar.offset : tar.offset + BLOCK] != _END:
                raise DataError(f"Shard {path} ends without the mark of a tar's end: it is truncated or damaged.")
    except (tarfile.TarError, OSError, ValueError, OverflowError) as error:
        raise DataError(f"Shard {path} cannot be read as a tar ({error}): it is truncated or damaged.") from error
    return members


def member_of(info: tarfile.TarInfo) -> Member:
    """A member that `tarfile` has read."""
    return Member(info.name, info.offset_data, info.size, info.issparse())


class _Headers:
    """Reads the headers of a tar from its first to the mark of its end."""

    def __init__(self, data: Data) -> None:
        self._data = data
        self._members: list[Member] = []
        self._told: dict[str, str | int] | None = None  # what extended headers say of the next member

    def read(self) -> list[Member]:
        """The files, in order."""
        at = 0
        while (header := self._data[at : at + BLOCK]) != _END:
            size = self._read_header(header, at + BLOCK)
            at += BLOCK + _padded(size)
        if self._told is not None:
            raise _Unusual
        return self._members

    def _read_header(self, header: bytes, data: int) -> int:
        """Note a header's member, if it is one, and return how many bytes of data follow at `data`."""
        if len(header) != BLOCK:
            raise _Unusual
        # The sum of 512 ASCII characters stays below the modulus of Adler-32, whose lower half is then that sum + 1.
        total = (adler32(header) & 0xFFFF) - 1 if header.isascii() else sum(header)
        if total != _sum_told(header[148:156]):
            raise _Unusual
        _check_numbers(header[100:124], header[136:148], header[329:345])
        size, kind = _number(header[124:136]), header[156]
        if kind in _FILES:
            name = _name(header)
            if self._told is not None:
                name, size = str(self._told.get("path", name)), int(self._told.get("size", size))
            self._members.append(Member(name, data, size))
            self._told = None
            return size
        if kind in _NO_DATA:
            self._told = None
            return 0
        self._read_extended(kind, self._data[data : data + _padded(size)], size)
        return size

    def _read_extended(self, kind: int, found: bytes, size: int) -> None:
        if size > _MAX_EXTENDED or len(found) < size:
            raise _Unusual
        if kind in _LONG_NAMES:
            text = found.partition(b"\0")[0]
            self._tell({"path": text.decode("utf-8", "surrogateescape")} if kind == ord("L") else {})
        elif kind in _PAX:
            told = _pax_records(found, size)
            if kind == ord("g") and told:  # holds for all that follow
                raise _Unusual
            self._tell(told)
        else:
            raise _Unusual

    def _tell(self, told: dict[str, str | int]) -> None:
        self._told = self._told or {}
        if self._told.keys() & told.keys():
            raise _Unusual
        self._told |= told


@lru_cache(maxsize=4096)
def _sum_told(field: bytes) -> int:
    """The sum of a header by its checksum, which takes its own `field` for spaces."""
    return _number(field) - len(field) * ord(" ") + sum(field)


def _padded(size: int) -> int:
    return (size + BLOCK - 1) // BLOCK * BLOCK


def _name(header: bytes) -> str:
    name = header[: header.find(0, 0, 100)] if header[99] == 0 else header[:100].partition(b"\0")[0]
    if name.endswith(b"/"):  # a directory of the oldest kind
        raise _Unusual
    if header[345]:
        name = header[345:500].partition(b"\0")[0] + b"/" + name
    return name.decode("utf-8", "surrogateescape")


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
    if field[:-1].isdigit() and field[-1] in b"\0 ":  # nearly all
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
