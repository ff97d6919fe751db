"""Copies here of what lies in S3.

Objects of shards are named by their SHA-256, so a copy stays good for ever. Copies lie in LOTLIP_CACHE_DIR
(.work/objects); above LOTLIP_CACHE_BYTES the longest unused ones go. What has no such name is copied under the tags of
its objects.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

from lotlip.errors import ObjectError, StorageError
from lotlip.records import content_key, publish_folder
from lotlip.storage.objects import download, find_object, is_s3, list_objects, parse

IN_USE_NS = 60 * 10**9


def local_copy(url: str, sha256: str, *, fresh: bool = False) -> Path:
    """A file here with the object's bytes, downloaded if there is none yet or if it is to be `fresh`.

    Raises:
        ObjectError, StorageError: as `download`.
    """
    folder = _cache_folder()
    path = folder / sha256[:2] / f"{sha256}{Path(parse(url).key).suffix}"
    if not fresh and _touch(path):
        return path
    _make_room(folder, url)
    download(url, path, sha256)
    _touch(path)
    return path


def _touch(path: Path) -> bool:
    """Note that a copy is used; False where there is none. The time of change is the same for every copy of it."""
    try:
        os.utime(path, ns=(time.time_ns(), 0))
    except FileNotFoundError:
        return False
    return True


def local(location: str, sha256: str) -> Path:
    """The file at an absolute path or an `s3://` URL; the latter is copied here."""
    return local_copy(location, sha256) if is_s3(location) else Path(location)


def find_size(location: str) -> int:
    """Bytes of the file at a path or `s3://` URL, 0 where there is none."""
    if is_s3(location):
        found = find_object(location)
        return found.num_bytes if found is not None else 0
    return Path(location).stat().st_size if Path(location).is_file() else 0


def local_path(location: str | Path) -> Path:
    """A path as it is; an object or all objects below a prefix as a file or folder here, kept until they change.

    Raises:
        ObjectError: there is nothing of that name.
        StorageError: the server refuses or is away.
    """
    if not is_s3(location):
        return Path(location)
    url = str(location).rstrip("/")
    found = find_object(url) if parse(url).key else None
    objects = [found] if found is not None else list(list_objects(url))
    if not objects:
        raise ObjectError(f"{location}: there is no such object, and nothing below this prefix.")
    base = url.rpartition("/")[0] if found is not None else url
    folder = _cache_folder() / "folders" / content_key([[one.url, one.etag] for one in objects])[:20]
    if not folder.is_dir():
        with publish_folder(folder) as staging:
            for one in objects:
                relative = Path(one.url.removeprefix(f"{base}/"))
                if ".." in relative.parts:
                    raise StorageError(f"{one.url} leads out of its prefix: rename it.")
                download(one.url, staging / relative)
    return folder / Path(url).name if found is not None else folder


def _cache_folder() -> Path:
    return Path(os.environ.get("LOTLIP_CACHE_DIR", ".work/objects"))


def _make_room(folder: Path, url: str) -> None:
    """Remove the longest unused copies until the object fits into LOTLIP_CACHE_BYTES.

    What was asked for within the last minute stays, whatever the limit: its reader may not have opened it yet.
    """
    limit = os.environ.get("LOTLIP_CACHE_BYTES")
    if limit is None:
        return
    if not limit.isdecimal():
        raise StorageError(f"LOTLIP_CACHE_BYTES is {limit!r}; expected a number of bytes.")
    coming = find_object(url)
    copies = []
    for file in folder.glob("??/[!.]*"):
        with suppress(FileNotFoundError):  # another process makes room, too
            copies.append((file.stat(), file))
    total = sum(stat.st_size for stat, _ in copies) + (coming.num_bytes if coming else 0)
    for stat, file in sorted(copies, key=lambda entry: entry[0].st_atime_ns):
        if total <= int(limit) or time.time_ns() - stat.st_atime_ns < IN_USE_NS:
            return
        file.unlink(missing_ok=True)  # whoever has it open reads on
        total -= stat.st_size
