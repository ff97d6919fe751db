"""Atomic files: a reader sees the whole new file or the old one, never half of it.

Every write goes to a temporary sibling, is flushed to disk, and is renamed into place.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from safetensors import SafetensorError

from lotlip.errors import DataError

_held: set[IO[str]] = set()  # files of the locks that this process holds
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def sha256_bytes(data: bytes) -> str:
    """Hex SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file, read in one-megabyte pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def content_key(value: Any) -> str:
    """Hex SHA-256 of a JSON-able value, the same for equal values whatever their key order."""
    return sha256_bytes(json.dumps(value, sort_keys=True, separators=(",", ":")).encode())


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is fsynced and renamed to `path`, on error removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 `text` to `path` atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with a final newline, atomically; NaN is refused."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Parse a JSON file.

    Raises:
        DataError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except NotADirectoryError:
        raise DataError(f"{path.parent} is a file; expected a folder with {path.name}.") from None
    except FileNotFoundError:
        raise DataError(f"{path} is missing: run the stage that writes it (`dvc repro`).") from None
    except IsADirectoryError:
        raise DataError(f"{path} is a folder: remove it and run the stage that writes it.") from None
    except ValueError as error:
        raise DataError(f"{path} is not JSON ({error}): remove it and run its stage again.") from None


@contextmanager
def publish_folder(folder: Path) -> Iterator[Path]:
    """Yield a fresh sibling folder; on success it replaces `folder` by rename, on error it is removed.

    What is half written is never visible under the final name, and an old `folder` is not lost before the new one is
    there (`recover_folder`).
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    recover_folder(folder)
    for stale in folder.parent.glob(f".{folder.name}.*.tmp"):  # left by a killed process
        if stale.is_dir() and not _is_running(stale.name.split(".")[-2]):
            shutil.rmtree(stale, ignore_errors=True)
    staging = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        yield staging
        if folder.exists():
            folder.replace(_old(folder))
        staging.replace(folder)
        shutil.rmtree(_old(folder), ignore_errors=True)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def recover_folder(folder: Path) -> None:
    """Bring back the old folder that a process was killed while it replaced."""
    if _old(folder).exists() and not folder.exists():
        _old(folder).replace(folder)
    shutil.rmtree(_old(folder), ignore_errors=True)


@contextmanager
def locked(work: Path) -> Iterator[None]:
    """Hold the lock of a work folder; the system frees it when the process ends, however it ends.

    Raises:
        DataError: another process holds it.
    """
    work.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            process = f" (process {found})" if (found := file.read().strip()) else ""
            raise DataError(f"Another run is at work in {work}{process}: wait for it, or stop it first.") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        _held.add(file)
        try:
            yield
        finally:
            _held.discard(file)


@contextmanager
def disk_errors(work: Path) -> Iterator[None]:
    """Turn a full disk into a message for the user; `work` keeps what is finished.

    Raises:
        DataError: there was no space left for a file.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        if _errno(error) not in _DISK_FULL:
            raise
        raise DataError(
            f"No space left on the disk ({error}): free some and run again; {work} keeps what is finished."
        ) from error


def _errno(error: Exception) -> int | None:
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error (\d+)\)", str(error))  # safetensors' way to say it
    return int(found[1]) if found else None


def _old(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _is_running(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except (ProcessLookupError, ValueError):
        return False
    except PermissionError:
        pass
    return True


def _let_go() -> None:
    """In a forked child: a lock belongs to its parent alone, or the child would hold it when the parent is killed."""
    for file in _held:
        file.close()
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
