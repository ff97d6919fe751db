"""Repair: damaged shards leave a dataset folder for `<folder>.damaged`, with a list of what to get again.

Shards are known by their hashes, and sidecars point at them: none is ever changed, only moved; an object in S3 whose
bytes are not those of its name is renamed. The order makes a kill harmless at any time: first the lists and the record
of what is damaged, then the manifest without it, then the files. What a killed repair left behind in the folder, the
next one moves.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lotlip.data.manifest import Kind, Manifest, Shard, read_manifest, write_manifest
from lotlip.data.tables import read_records
from lotlip.data.verify.datasets import Findings
from lotlip.data.verify.images import read_samples
from lotlip.data.verify.problems import OF_FILES
from lotlip.errors import ObjectError
from lotlip.records import locked, write_text
from lotlip.storage.objects import find_object, is_s3, set_aside

HEADER = "url\tcaption"
_ONE_LINE = str.maketrans("\t\r\n", "   ")


@dataclass
class Repair:
    """What a repair did and what it leaves to do.

    `rows` were written to `refetch.tsv`; `without_url` others no download can bring back. Neither counts what the
    source rejected (filters, repeats, robots): nobody asked for its images. Of the shards `without_table` only samples
    with readable metadata are among them. Any one command of `next` may do.
    """

    folder: str
    shards: list[str]
    moved: list[str] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)
    rows: int = 0
    without_url: int = 0
    without_table: list[str] = field(default_factory=list)
    next: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"repaired: {len(self.shards)} shards out of the manifest, {len(self.moved)} files now in {self.folder}"
        yield from (f"renamed: {url}" for url in self.renamed)
        if self.rows:
            yield f"{self.folder}/refetch.tsv has the URL and caption of {self.rows} rows to get again"
        if self.without_url:
            yield f"{self.without_url} rows have no http(s) URL: only their stage can bring them back"
        if self.without_table:
            names = ", ".join(self.without_table)
            yield f"tables damaged, only rows of samples with readable metadata are listed: {names}"
        for number, command in enumerate(self.next):
            yield f"{'or' if number else 'next'}: {command}"


def repair_dataset(findings: Findings) -> Repair | None:
    """Move the damaged shards of a folder to `<folder>.damaged`; None where there is nothing to move.

    Raises:
        DataError: another repair is at work there.
    """
    manifest, damaged = findings.manifest, findings.damaged
    folder = manifest.folder if manifest.folder.name not in ("", "..") else manifest.folder.resolve()
    away = folder.with_name(f"{folder.name}.damaged")
    if not damaged and not _left_behind(manifest, away):
        return None
    repair = Repair(str(away), [shard.name for shard in damaged])
    with locked(away):
        if damaged:
            if manifest.kind == "images":
                _list_rows(findings, away, repair)
            else:
                _add_lines(away / "shards.txt", repair.shards)
            known = read_manifest(away).shards if (away / "manifest.json").is_file() else ()
            write_manifest(away, manifest.kind, [*known, *(shard for shard in damaged if shard not in known)])
            kept = [shard for shard in manifest.shards if shard not in damaged]
            manifest = write_manifest(manifest.folder, manifest.kind, kept)
        for problem in findings.problems:
            if problem.what == "sha256" and is_s3(problem.file) and find_object(problem.file) is not None:
                repair.renamed.append(set_aside(problem.file))  # or the stage would take it for the one it makes
        for name in _left_behind(manifest, away):
            _move(manifest.folder / name, away / name)
            repair.moved.append(name)
    repair.next = _next_steps(manifest.kind, folder.name, away, repair)
    return repair


def _left_behind(manifest: Manifest, away: Path) -> list[str]:
    """Files of the damaged shards that are still in the folder and that its manifest does not name."""
    if not (away / "manifest.json").is_file():
        return []
    named = {file.path for shard in manifest.shards for file in shard.files.values()}
    names = [file.path for shard in read_manifest(away).shards for file in shard.files.values()]
    return [name for name in dict.fromkeys(names) if name not in named and os.path.lexists(manifest.folder / name)]


def _move(path: Path, target: Path) -> None:
    """Move a file, never onto another: the second of its name ends with `.2`."""
    number, free = 1, target
    while os.path.lexists(free):
        number += 1
        free = target.with_name(f"{target.name}.{number}")
    free.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(path, free)


def _list_rows(findings: Findings, away: Path, repair: Repair) -> None:
    manifest = findings.manifest
    bad_files = {problem.file for problem in findings.problems if problem.what in OF_FILES}
    lines = [HEADER]
    for shard in findings.damaged:
        if shard.files["table"].path in bad_files:
            repair.without_table.append(shard.name)
        for url, caption in _rows(manifest, shard, shard.name not in repair.without_table):
            if url.startswith(("http://", "https://")):  # an image folder's rows hold paths
                lines.append(f"{_cell(url)}\t{_cell(caption)}")
            else:
                repair.without_url += 1
    repair.rows = _add_lines(away / "refetch.tsv", lines) - 1


def _rows(manifest: Manifest, shard: Shard, has_table: bool) -> Iterator[tuple[str, str]]:
    """URL and caption of every row that was wanted, or of every sample with readable metadata if there is no table."""
    if has_table:
        for row in read_records(manifest.path(shard, "table"), ("url", "caption", "status")):
            if row["status"] != "rejected":
                yield row["url"] or "", row["caption"] or ""
    elif (tar := _tar_here(manifest, shard)) is not None:
        for record in read_samples(tar):
            yield str(record.get("url") or ""), str(record.get("caption") or "")


def _tar_here(manifest: Manifest, shard: Shard) -> Path | None:
    try:
        path = manifest.path(shard, "tar")
    except ObjectError:
        return None
    return path if path.is_file() else None


def _cell(text: str) -> str:
    """Text for a table whose cells know no quotes: what would end a cell or a line becomes a space."""
    return text.translate(_ONE_LINE).encode("utf-8", "replace").decode()


def _add_lines(path: Path, lines: list[str]) -> int:
    """Add those that are not there yet; returns how many there are now."""
    known = path.read_text(encoding="utf-8").split("\n")[:-1] if path.is_file() else []
    every = list(dict.fromkeys([*known, *lines]))
    write_text(path, "".join(f"{line}\n" for line in every))
    return len(every)


def _next_steps(kind: Kind, name: str, away: Path, repair: Repair) -> list[str]:
    if kind == "captions":
        return [f"dvc repro -f recaption@{name}"]
    if kind != "images":
        return [f"dvc repro -f {'validate' if kind == 'quarantine' else kind}"]
    table = f"lotlip download {away}/refetch.tsv NEWFOLDER --url-column url --caption-column caption"
    return [*([table] if repair.rows else []), f"dvc repro -f download@{name}"]
