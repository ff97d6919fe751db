"""What can be wrong with a dataset folder: a line each, with what was expected and what arrived."""

import errno
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from lotlip.data.manifest import Manifest, Shard
from lotlip.data.tables import read_records
from lotlip.errors import DataError, ObjectError
from lotlip.records import sha256_file
from lotlip.storage.objects import find_object

# What `check_file` and `read_checked` find: the file is not the one that the manifest names, or cannot be used.
OF_FILES = ("missing", "truncated", "size", "sha256", "unreadable")


@dataclass(frozen=True)
class Problem:
    """One finding. `shard` and `key` are empty where none is concerned.

    `is_damage`: the shard is not what its manifest says, or does not fit itself or its images, and repair takes it out.
    """

    shard: str
    file: str
    key: str
    what: str
    expected: str
    found: str
    is_damage: bool = True

    def __str__(self) -> str:
        where = ", ".join(part for part in (self.shard, self.file, self.key and f"sample {self.key}") if part)
        return f"{where}: {self.what}: expected {self.expected}, found {self.found}"


def check_file(manifest: Manifest, shard: Shard, role: str) -> list[Problem]:
    """Whether a file is there, with its size and SHA-256; at most one problem. An object in S3 is read anew.

    Raises:
        StorageError: S3 refuses or is away, which says nothing about the file.
        OSError: nor does a full disk, or too many open files.
    """
    file = shard.files[role]

    def problem(what: str, expected: str, found: str) -> list[Problem]:
        return [Problem(shard.name, file.path, "", what, expected, found)]

    try:
        path = manifest.path(shard, role, fresh=True)
        if not path.is_file():
            return problem("missing", f"a file of {file.num_bytes} bytes", "none")
        size = path.stat().st_size
        if size != file.num_bytes:
            return problem("truncated" if size < file.num_bytes else "size", f"{file.num_bytes} bytes", f"{size}")
        found = sha256_file(path)
    except ObjectError:
        if find_object(file.path) is None:
            return problem("missing", f"an object of {file.num_bytes} bytes", "none")
        return problem("sha256", file.sha256, "another")
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return problem("unreadable", f"{file.num_bytes} bytes", str(error))
    return [] if found == file.sha256 else problem("sha256", file.sha256, found)


def read_checked(
    manifest: Manifest, shard: Shard, columns: Iterable[str]
) -> tuple[list[dict[str, Any]] | None, list[Problem]]:
    """The rows of a shard's table, None where it is not the one that its manifest names, and what is wrong with it."""
    if problems := check_file(manifest, shard, "table"):
        return None, problems
    try:
        return read_records(manifest.path(shard, "table"), columns), []
    except (DataError, ValueError) as error:
        name = shard.files["table"].path
        return None, [Problem(shard.name, name, "", "unreadable", f"columns {', '.join(columns)}", str(error))]


def check_unique(shard: Shard, role: str, keys: Iterable[tuple[str, ...]]) -> list[Problem]:
    """A problem for each key (the sample's, and what else names a row) that comes more than once."""
    return [
        Problem(shard.name, shard.files[role].path, str(key), "duplicate", _once(rest), f"{count}")
        for (key, *rest), count in Counter(keys).items()
        if count > 1
    ]


def _once(rest: list[str]) -> str:
    return f"1 ({', '.join(map(str, rest))})" if rest else "1"
