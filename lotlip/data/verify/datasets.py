"""Verify: is a dataset folder whole, and if not, what exactly is wrong with it."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lotlip.data.manifest import Manifest, Shard, read_manifest
from lotlip.data.verify.images import check_images
from lotlip.data.verify.problems import Problem
from lotlip.data.verify.sidecars import Images, check_every_shard, check_sidecar, find_images
from lotlip.errors import DataError
from lotlip.storage.objects import is_s3


@dataclass(frozen=True)
class Findings:
    """What `verify_dataset` found; `images` are the folders that a sidecar was compared with."""

    manifest: Manifest
    images: tuple[Path, ...]
    problems: tuple[Problem, ...]

    @property
    def damaged(self) -> list[Shard]:
        """Shards that are not what they should be, in order."""
        names = {problem.shard for problem in self.problems if problem.is_damage}
        return [shard for shard in self.manifest.shards if shard.name in names]

    def lines(self) -> Iterator[str]:
        """For people: a line a problem, and what it comes to."""
        yield from map(str, self.problems)
        folder, kind = self.manifest.folder, self.manifest.kind
        if kind != "images" and not self.images:
            yield "keys were not compared with images, none are beside it: name their folders with --images"
        if any(problem.what == "no images" and not problem.is_damage for problem in self.problems):
            yield f"it belongs to no shard of {', '.join(map(str, self.images))}: name its image folders with --images"
        size = f"{folder}: {kind}, {len(self.manifest.shards)} shards, {self.manifest.num_samples} samples"
        if not self.problems:
            yield f"{size}: {'whole' if self.manifest.shards else 'nothing is left in it'}"
            return
        yield f"{size}: {len(self.problems)} problems, {len(self.damaged)} shards damaged"

    def record(self) -> dict[str, Any]:
        """As JSON: counts, then the problems."""
        return {
            "folder": str(self.manifest.folder),
            "kind": self.manifest.kind,
            "shards": len(self.manifest.shards),
            "samples": self.manifest.num_samples,
            "images": [str(folder) for folder in self.images],
            "damaged_shards": [shard.name for shard in self.damaged],
            "counts": dict(sorted(Counter(problem.what for problem in self.problems).items())),
            "problems": [asdict(problem) for problem in self.problems],
        }


def verify_dataset(folder: Path, images: Sequence[Path] = ()) -> Findings:
    """Read every byte of a dataset folder of any kind and compare all that can be compared, shards in parallel.

    The keys of all image shards are held in memory, some 150 bytes each.

    Args:
        folder: with `manifest.json`, or that file.
        images: the image folders of a sidecar; by default those of `images/` beside it, if there are any.

    Raises:
        DataError: a manifest is missing or damaged, or names a file outside of its folder.
    """
    folder = folder.parent if folder.name == "manifest.json" else folder
    manifest = read_manifest(folder)
    _check_paths(manifest)
    of: list[Manifest] = []
    if manifest.kind != "images":
        of = [read_manifest(path, "images") for path in images] or find_images(folder)
    by_name = {shard.name: (one, shard) for one in of for shard in one.shards}
    problems = _check_names(manifest)
    problems += _check_shards(manifest, by_name)
    problems += check_every_shard(manifest, by_name)
    problems += _unnamed_files(manifest)
    return Findings(manifest, tuple(one.folder for one in of), tuple(problems))


def _check_shards(manifest: Manifest, images: Images) -> list[Problem]:
    def check(shard: Shard) -> tuple[list[Problem], list[str]]:
        if manifest.kind == "images":
            return check_images(manifest, shard)
        return check_sidecar(manifest, shard, images), []

    problems: list[Problem] = []
    first: dict[str, str] = {}  # shard by key
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        for shard, (found, keys) in zip(manifest.shards, threads.map(check, manifest.shards), strict=True):
            problems += found
            for key in keys:
                if (other := first.setdefault(key, shard.name)) != shard.name:
                    expected, name = "each key in one shard", shard.files["tar"].path
                    problem = Problem(shard.name, name, key, "duplicate", expected, f"it in {other}, too", False)
                    problems.append(problem)
    return problems


def _check_paths(manifest: Manifest) -> None:
    for shard in manifest.shards:
        if (
            missing := {"table", "tar"} - shard.files.keys()
            if manifest.kind == "images"
            else {"table"} - set(shard.files)
        ):
            raise DataError(
                f"{manifest.folder}/manifest.json: shard {shard.name} names no {', '.join(sorted(missing))}."
            )
        for file in shard.files.values():
            path = PurePosixPath(file.path)
            if path.is_absolute() or ".." in path.parts:
                raise DataError(
                    f"{manifest.folder}/manifest.json names {file.path!r}: expected a path inside its folder."
                )


def _check_names(manifest: Manifest) -> list[Problem]:
    counts = Counter(shard.name for shard in manifest.shards)
    return [
        Problem(name, "manifest.json", "", "duplicate", "shards with names of their own", f"{count}", is_damage=False)
        for name, count in counts.items()
        if count > 1
    ] + [problem for shard in manifest.shards for problem in _check_name(manifest, shard)]


def _check_name(manifest: Manifest, shard: Shard) -> Iterator[Problem]:
    """What no hash protects: a shard's files here bear its name, and images are made from no other images."""
    for file in shard.files.values():
        if not is_s3(file.path) and (stem := PurePosixPath(file.path).stem) != shard.name:
            yield Problem(shard.name, "manifest.json", "", "name", f"{stem}, as of its file {file.path}", shard.name)
    if manifest.kind == "images" and shard.of is not None:
        yield Problem(shard.name, "manifest.json", "", "of", "null for images", str(shard.of))


def _unnamed_files(manifest: Manifest) -> list[Problem]:
    named = {"manifest.json", *(file.path for shard in manifest.shards for file in shard.files.values())}
    found = (path.relative_to(manifest.folder).as_posix() for path in manifest.folder.rglob("*") if not path.is_dir())
    return [
        Problem("", name, "", "unnamed file", "only files that the manifest names", "this one", is_damage=False)
        for name in sorted(set(found) - named)
    ]
