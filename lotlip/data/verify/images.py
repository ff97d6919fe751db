"""Checks of one image shard: its tar and table against the manifest and against each other."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lotlip.data.manifest import Manifest, Shard
from lotlip.data.shards import IMAGE_EXTENSIONS, read_member, split_name
from lotlip.data.tables import COLUMNS
from lotlip.data.tar_index import Member, index_tar, map_file
from lotlip.data.verify.problems import Problem, check_file, check_unique, read_checked
from lotlip.data.verify.salvage import salvage_members
from lotlip.errors import DataError
from lotlip.records import sha256_bytes
from lotlip.storage.objects import is_s3

Row = dict[str, Any]
Samples = dict[str, dict[str, Member]]  # members by sample key and extension


def check_images(manifest: Manifest, shard: Shard) -> tuple[list[Problem], list[str]]:
    """What is wrong with an image shard, and its sample keys.

    Every image is hashed and compared with its row, in a damaged tar as far as its members can be found: an image
    without a problem of its own is proven good.
    """
    rows, problems = read_checked(manifest, shard, COLUMNS)
    problems += _check_rows(shard, rows) if rows is not None else ()
    damaged = check_file(manifest, shard, "tar")
    problems += damaged
    if any(problem.what in ("missing", "unreadable") for problem in damaged) or (damaged and is_s3(damaged[0].file)):
        return problems, [row["key"] for row in rows or [] if row["status"] == "success"]
    tar = _Tar(manifest.path(shard, "tar"), shard)
    samples, found = _find_samples(tar, is_damaged=bool(damaged))
    problems += found
    if rows is not None:
        compared = list(_compare(tar, samples, rows))
        problems += compared + _summarise(tar, samples, compared) * bool(damaged)
    return problems, list(samples)


def read_samples(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON records of a tar's samples, of a damaged one those that can be read."""
    data = map_file(path)
    for member in salvage_members(data, path)[0]:
        if split_name(member.name)[1] == "json":
            try:
                record = json.loads(read_member(data, path, member))
            except (DataError, ValueError):
                continue
            if isinstance(record, dict):
                yield record


class _Tar:
    """Reads members and names problems of one tar."""

    def __init__(self, path: Path, shard: Shard) -> None:
        self.path, self.shard = path, shard
        self.data = map_file(path)

    def read(self, member: Member) -> bytes:
        return read_member(self.data, self.path, member)

    def problem(self, key: str, what: str, expected: str, found: str) -> Problem:
        return Problem(self.shard.name, self.shard.files["tar"].path, key, what, expected, found)


def _check_rows(shard: Shard, rows: list[Row]) -> Iterator[Problem]:
    name = shard.files["table"].path
    yield from check_unique(shard, "table", ((row["key"],) for row in rows))
    successes = sum(row["status"] == "success" for row in rows)
    if successes != shard.num_samples:
        expected = f"{shard.num_samples} rows with status success"
        yield Problem(shard.name, name, "", "number of samples", expected, f"{successes}")


def _find_samples(tar: _Tar, is_damaged: bool) -> tuple[Samples, list[Problem]]:
    try:
        # The index of a damaged tar would end at a page of zeros as at the mark of the end.
        members, broken = salvage_members(tar.data, tar.path) if is_damaged else (index_tar(tar.data, tar.path), [])
    except DataError:
        members, broken = salvage_members(tar.data, tar.path)
    problems = [tar.problem("", "damaged tar", f"a header at byte {at}", "none") for at in broken]
    problems += check_unique(tar.shard, "tar", (split_name(member.name) for member in members))
    samples: Samples = {}
    for member in members:
        key, extension = split_name(member.name)
        samples.setdefault(key, {}).setdefault(extension, member)
    if len(samples) != tar.shard.num_samples:
        problems.append(tar.problem("", "number of samples", f"{tar.shard.num_samples}", f"{len(samples)}"))
    return samples, problems


def _compare(tar: _Tar, samples: Samples, rows: list[Row]) -> Iterator[Problem]:
    """Problems of samples without a row or of rows without a sample, and of samples that differ from their rows."""
    by_key = {row["key"]: row for row in rows}
    for key, row in by_key.items():
        if row["status"] == "success" and key not in samples:
            yield tar.problem(key, "missing sample", "the sample of a row with status success", "none")
    for key, members in samples.items():
        if key not in by_key:
            yield tar.problem(key, "extra sample", "a row in the table", "none")
        elif (status := by_key[key]["status"]) != "success":
            yield tar.problem(key, "extra sample", "a row with status success", f"status {status}")
        else:
            yield from _compare_sample(tar, key, members, by_key[key])


def _compare_sample(tar: _Tar, key: str, members: Mapping[str, Member], row: Row) -> Iterator[Problem]:
    extension = next((name for name in IMAGE_EXTENSIONS if name in members), "")
    if not extension:
        yield tar.problem(key, "no image", f"{key}.{IMAGE_EXTENSIONS[0]} or another image", ", ".join(members))
    checks = [(extension, "image", f"sha256 {row['sha256']}"), ("txt", "caption", repr(row["caption"] or ""))]
    for name, what, expected in checks:
        if what == "image" and not extension:
            continue
        try:
            data = tar.read(members[name]) if name in members else b""  # no caption is an empty one
            found = f"sha256 {sha256_bytes(data)}" if what == "image" else repr(data.decode())
        except (DataError, UnicodeDecodeError) as error:
            found = str(error)
        if found != expected:
            yield tar.problem(key, what, expected, found)
    if "json" in members:
        try:
            json.loads(tar.read(members["json"]))
        except (DataError, ValueError) as error:
            yield tar.problem(key, "metadata", "JSON", str(error))


def _summarise(tar: _Tar, samples: Samples, compared: list[Problem]) -> list[Problem]:
    """One line that says how many images of a damaged tar are proven good."""
    bad = {problem.key for problem in compared if problem.what in ("image", "no image", "extra sample")}
    good = f"{len(samples.keys() - bad)} that fit the sha256 of their rows"
    return [tar.problem("", "images left", f"{tar.shard.num_samples}", good)]
