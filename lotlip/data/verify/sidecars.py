"""Checks of one sidecar shard: its table against the manifest, and its keys against the images it belongs to."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lotlip.data.manifest import Kind, Manifest, Shard, read_manifest
from lotlip.data.tables import read_table
from lotlip.data.verify.problems import Problem, check_unique, read_checked
from lotlip.errors import DataError

ROW_NAMES: dict[Kind, tuple[str, ...]] = {  # the columns that together name a row
    "captions": ("key", "kind"),
    "quarantine": ("key", "subject", "reason"),
    "quality": ("key", "captioner"),
}
Images = Mapping[str, tuple[Manifest, Shard]]  # by shard name


def find_images(folder: Path) -> list[Manifest]:
    """The image folders beside a sidecar folder: `images/*` of the nearest of the two folders above that has any."""
    for top in list(folder.absolute().parents)[:2]:
        folders = [path.parent for path in sorted(top.glob("images/*/manifest.json"))]
        if found := [one for one in folders if not one.name.startswith(".") and one.suffix != ".damaged"]:
            return [read_manifest(one, "images") for one in found]
    return []


def check_sidecar(manifest: Manifest, shard: Shard, images: Images) -> list[Problem]:
    """What is wrong with a sidecar shard; its keys are compared with the images' where there are `images`."""
    columns = ROW_NAMES[manifest.kind]
    rows, problems = read_checked(manifest, shard, columns)
    if rows is not None:
        problems += check_unique(shard, "table", (tuple(row[name] for name in columns) for row in rows))
        if len(rows) != shard.num_samples:
            name = shard.files["table"].path
            problems.append(Problem(shard.name, name, "", "number of rows", f"{shard.num_samples}", f"{len(rows)}"))
    if images:
        problems += _compare(manifest, shard, rows, images)
    return problems


def check_every_shard(manifest: Manifest, images: Images) -> list[Problem]:
    """A problem for each image shard without a sidecar."""
    names = {shard.name for shard in manifest.shards}
    return [
        Problem(name, "manifest.json", "", "missing sidecar", f"one for {of.folder / name}", "none", is_damage=False)
        for name, (of, _) in images.items()
        if name not in names
    ]


def _compare(manifest: Manifest, shard: Shard, rows: list[dict[str, Any]] | None, images: Images) -> Iterator[Problem]:
    name = shard.files["table"].path
    if shard.name not in images:
        # Where none of its shards is among them, these are just not its images.
        is_damage = any(one.name in images for one in manifest.shards)
        yield Problem(shard.name, name, "", "no images", "an image shard of this name", "none", is_damage)
        return
    of, image_shard = images[shard.name]
    sha256 = image_shard.files["tar"].sha256
    if shard.of != sha256:
        yield Problem(shard.name, name, "", "made from other images", f"tar {sha256}", f"{shard.of}")
        return
    if rows is None:
        return
    try:
        keys = [row["key"] for row in read_table(of, image_shard, ("key", "status")) if row["status"] == "success"]
    except DataError as error:
        found = f"{error}"
        yield Problem(shard.name, name, "", "images not compared", "a table of images", found, is_damage=False)
        return
    known = set(keys)
    for key in dict.fromkeys(row["key"] for row in rows if row["key"] not in known):
        yield Problem(shard.name, name, key, "unknown key", f"a sample of {of.folder / image_shard.name}", "none")
    if manifest.kind == "captions":
        there = {(row["key"], row["kind"]) for row in rows}
        for kind in dict.fromkeys(row["kind"] for row in rows) or ["long"]:
            for key in keys:
                if (key, kind) not in there:
                    yield Problem(shard.name, name, key, "missing row", f"one of kind {kind}", "none")
