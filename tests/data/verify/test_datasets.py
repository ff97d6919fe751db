"""Every kind of damage, made by hand, is found and named; repair takes it out and loses nothing."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lotlip.data.manifest import Shard, read_manifest, write_manifest
from lotlip.data.verify.datasets import verify_dataset
from lotlip.data.verify.repair import repair_dataset
from lotlip.errors import DataError
from lotlip.records import read_json
from tests.data.datasets import (
    Entry,
    accept,
    flip,
    found,
    picture,
    replace,
    rewrite_table,
    rewrite_tar,
    write_captions,
    write_images,
)
from tests.data.folders import folder_bytes, image_folder, image_row, long_row, sidecar

TAR, TABLE = "s-00000.tar", "s-00000.parquet"
# Of the sample `a`: header, 1,500 bytes of image, header and metadata, header and text; then `b` and `c` alike.
SAMPLE = 512 + 1536 + 2 * (512 + 512)


def test_whole_folders_have_no_problem(images: Path, captions: Path) -> None:
    assert found(images) == found(captions) == found(captions / "manifest.json") == []
    assert list(verify_dataset(images).lines()) == [f"{images}: images, 2 shards, 5 samples: whole"]


@pytest.mark.parametrize("name", [TAR, TABLE])
def test_a_missing_file(name: str, images: Path) -> None:
    (images / name).unlink()
    assert found(images) == [(name, "", "missing")]
    size = {file.path: file.num_bytes for shard in read_manifest(images).shards for file in shard.files.values()}[name]
    assert str(verify_dataset(images).problems[0]) == (
        f"s-00000, {name}: missing: expected a file of {size} bytes, found none"
    )


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (600, [("a", "image")]),  # in the image
        (512 + 1536 + 512, [("a", "metadata")]),
        (512 + 1536 + 512 + 512 + 512, [("a", "caption")]),
        (512 + 1510, []),  # padding after the image
        (SAMPLE + 3, [("b", "missing image")]),  # the name in the header of b.jpg
        (SAMPLE + 130, [("b", "missing image")]),  # its size
    ],
)
def test_a_flipped_byte_is_traced_to_its_sample(at: int, expected: list[tuple[str, str]], images: Path) -> None:
    flip(images / TAR, at)
    problems = found(images)
    assert problems[0] == (TAR, "", "sha256")
    assert problems[-1] == (TAR, "", "images left")
    left = verify_dataset(images).problems[-1].found
    if ("b", "missing image") in expected:
        assert (TAR, "", "damaged tar") in problems
        assert [(key, what) for _, key, what in problems if key] == [("b", "no image")]
    else:
        assert [(key, what) for _, key, what in problems if key] == expected
    is_image_lost = bool(expected) and expected[0][1] in ("image", "missing image")
    assert left == f"{2 if is_image_lost else 3} that fit the sha256 of their rows"


@pytest.mark.parametrize(
    ("size", "lost", "left"),
    [
        (0, ["a", "b", "c"], 0),
        (300, ["a", "b", "c"], 0),
        (1000, ["b", "c"], 0),  # a.jpg begins
        (SAMPLE, ["b", "c"], 1),  # between two samples: `tarfile` finds nothing wrong
        (SAMPLE + 2048, ["c"], 2),  # between two members
        (2 * SAMPLE + 700, [], 2),
        (3 * SAMPLE, [], 3),  # only the mark of the end is gone
    ],
)
def test_a_cut_tar_names_what_is_gone(size: int, lost: list[str], left: int, images: Path) -> None:
    replace(images / TAR, (images / TAR).read_bytes()[:size])
    problems = verify_dataset(images).problems
    assert (problems[0].what, problems[0].found) == ("truncated", f"{size}")
    assert "damaged tar" in {problem.what for problem in problems}
    assert [problem.key for problem in problems if problem.what == "missing sample"] == lost
    assert problems[-1].found == f"{left} that fit the sha256 of their rows"
    if size == 1000:
        assert [(p.key, p.found) for p in problems if p.what == "image"] == [
            ("a", f"{images / TAR} ends inside a.jpg: 488 of 1500 bytes are there.")
        ]


def test_lost_bytes_in_the_middle_do_not_hide_what_follows(images: Path) -> None:
    """Three bytes less, so that no later header lies at a multiple of 512."""
    data = (images / TAR).read_bytes()
    replace(images / TAR, data[:600] + data[603:])
    problems = verify_dataset(images).problems
    assert next((problem.key, problem.what) for problem in problems if problem.key) == ("a", "image")
    assert problems[-1].found == "2 that fit the sha256 of their rows"


def test_a_page_of_zeros_over_a_header_is_not_the_end(images: Path) -> None:
    data = bytearray((images / TAR).read_bytes())
    data[SAMPLE : SAMPLE + 512] = bytes(512)
    replace(images / TAR, bytes(data))
    problems = verify_dataset(images).problems
    assert [(problem.key, problem.what) for problem in problems if problem.key] == [("b", "no image")]
    assert problems[-1].found == "2 that fit the sha256 of their rows"


def without(key: str, *endings: str) -> Callable[[list[Entry]], list[Entry]]:
    names = {f"{key}.{ending}" for ending in endings}
    return lambda entries: [(info, data) for info, data in entries if info.name not in names]


def as_key(key: str, new: str) -> Callable[[list[Entry]], list[Entry]]:
    """Adds the members of a sample once more, under another key."""

    def change(entries: list[Entry]) -> list[Entry]:
        import copy

        more = [(copy.copy(info), data) for info, data in entries if info.name.startswith(f"{key}.")]
        for info, _ in more:
            info.name = info.name.replace(key, new, 1)
        return entries + more

    return change


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (without("b", "jpg", "txt", "json"), [("", "number of samples"), ("b", "missing sample")]),
        (without("b", "jpg"), [("b", "no image")]),
        (without("b", "txt"), [("b", "caption")]),
        (without("b", "json"), []),
        (as_key("a", "z"), [("", "number of samples"), ("z", "extra sample")]),
        (as_key("a", "a"), [("a", "duplicate")] * 3),
        (as_key("a", "no-s-00000"), [("", "number of samples"), ("no-s-00000", "extra sample")]),
        (lambda entries: [(i, b"other" if i.name == "c.jpg" else d) for i, d in entries], [("c", "image")]),
        (lambda entries: [(i, b"other" if i.name == "c.txt" else d) for i, d in entries], [("c", "caption")]),
    ],
)
def test_a_tar_that_does_not_fit_its_table(change: Any, expected: list[tuple[str, str]], images: Path) -> None:
    rewrite_tar(images / TAR, change)
    accept(images)
    assert [(key, what) for _, key, what in found(images) if what != "images left"] == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda rows: rows[1:], [("", "number of samples"), ("a", "extra sample")]),
        (lambda rows: [], [("", "number of samples"), *((key, "extra sample") for key in "abc")]),
        (lambda rows: [*rows, rows[0]], [("a", "duplicate"), ("", "number of samples")]),
        (lambda rows: [{**rows[0], "sha256": "0" * 64}, *rows[1:]], [("a", "image")]),
        (lambda rows: [{**rows[0], "sha256": None}, *rows[1:]], [("a", "image")]),
        (lambda rows: [{**rows[0], "caption": "other"}, *rows[1:]], [("a", "caption")]),
        (
            lambda rows: [{**rows[0], "status": "rejected"}, *rows[1:]],
            [("", "number of samples"), ("a", "extra sample")],
        ),
        (
            lambda rows: [{**rows[0], "key": "z"}, *rows[1:]],
            [("z", "missing sample"), ("a", "extra sample")],
        ),
    ],
)
def test_a_table_that_does_not_fit_its_tar(change: Any, expected: list[tuple[str, str]], images: Path) -> None:
    rewrite_table(images / TABLE, change)
    accept(images)
    assert [(key, what) for _, key, what in found(images)] == expected


def test_a_table_that_is_no_parquet_or_lacks_a_column(images: Path) -> None:
    replace(images / TABLE, b"no parquet at all")
    accept(images)
    assert found(images) == [(TABLE, "", "unreadable")]


def test_a_manifest_that_counts_wrongly(images: Path) -> None:
    shards = [Shard(shard.name, shard.num_samples + 1, shard.files) for shard in read_manifest(images).shards]
    write_manifest(images, "images", shards)
    assert {what for _, _, what in found(images)} == {"number of samples"}
    assert len(found(images)) == 4  # tar and table of both


def test_keys_twice_over_shards_and_files_that_nobody_names(images: Path) -> None:
    (images / "s-00001.tar").unlink()
    (images / "s-00001.parquet").unlink()
    for ending in ("tar", "parquet"):
        os.link(images / f"s-00000.{ending}", images / f"s-00001.{ending}")
    shards = list(read_manifest(images).shards)
    write_manifest(images, "images", [shards[0], Shard("s-00001", 3, shards[1].files)])
    accept(images)
    (images / "inner").mkdir()
    (images / "inner/notes.txt").write_text("not ours")
    assert found(images) == [
        *(("s-00001.tar", key, "duplicate") for key in "abc"),
        ("inner/notes.txt", "", "unnamed file"),
    ]
    findings = verify_dataset(images)
    assert findings.damaged == []
    assert repair_dataset(findings) is None


def test_a_manifest_that_points_outside_or_is_damaged(images: Path) -> None:
    text = (images / "manifest.json").read_text()
    for wrong, message in (
        (text.replace('"s-00000.tar"', '"../s-00000.tar"'), "expected a path inside its folder"),
        (text.replace('"kind": "images"', '"kind": "pictures"'), "kind 'pictures'"),
        (text.replace('"num_samples"', '"num_sample"'), "is no manifest or is damaged"),
        (text.replace('"tar"', '"tas"'), "names no tar"),
        ("[]", "is no manifest or is damaged"),
        (text[:-9], "is not JSON"),
    ):
        (images / "manifest.json").write_text(wrong)
        with pytest.raises(DataError, match=message):
            verify_dataset(images)


def rewritten(captions: Path, images: Path, rows: dict[str, list[dict[str, Any]]]) -> None:
    for path in captions.iterdir():
        path.unlink()
    captions.rmdir()
    sidecar(captions, "captions", read_manifest(images), rows)


def test_sidecars_whose_keys_do_not_fit(images: Path, captions: Path) -> None:
    first = [long_row(key, "text") for key in ("a", "b", "b", "z", "no-s-00000")]
    rewritten(captions, images, {"s-00000": first, "s-00001": [long_row("d", "text")]})
    assert found(captions) == [
        (TABLE, "b", "duplicate"),
        (TABLE, "z", "unknown key"),
        (TABLE, "no-s-00000", "unknown key"),
        (TABLE, "c", "missing row"),
        ("s-00001.parquet", "e", "missing row"),
    ]


def test_every_kind_of_text_that_a_captioner_wrote_is_asked_for(images: Path, captions: Path) -> None:
    rows = {
        name: [{**long_row(key, "text"), "kind": kind} for key in keys for kind in ("long", "short")]
        for name, keys in (("s-00000", "abc"), ("s-00001", "de"))
    }
    rows["s-00001"].pop()
    rewritten(captions, images, rows)
    assert found(captions) == [("s-00001.parquet", "e", "missing row")]
    assert "one of kind short" in str(verify_dataset(captions).problems[0])


def test_sidecars_of_other_images_or_of_none(images: Path, captions: Path, tmp_path: Path) -> None:
    rewrite_tar(images / TAR, lambda entries: [(i, b"new" if i.name == "c.jpg" else d) for i, d in entries])
    accept(images)
    shards = [*read_manifest(images).shards, Shard("t-00000", 0, read_manifest(images).shards[0].files)]
    write_manifest(images, "images", [shards[0], shards[2]])
    assert found(captions) == [
        (TABLE, "", "made from other images"),
        ("s-00001.parquet", "", "no images"),
        ("manifest.json", "", "missing sidecar"),
    ]
    other = write_images(tmp_path / "elsewhere").folder
    assert [problem.what for problem in verify_dataset(captions, [other]).problems] == []
    captions.rename(tmp_path / "lonely")
    findings = verify_dataset(tmp_path / "lonely")
    assert findings.problems == findings.images == ()
    assert "keys were not compared with images" in "".join(findings.lines())


def test_damaged_images_are_no_fault_of_the_sidecar(images: Path, captions: Path) -> None:
    flip(images / TABLE, 9)
    assert found(captions) == [(TABLE, "", "images not compared")]
    assert verify_dataset(captions).damaged == []


@pytest.mark.parametrize("kind", ["quarantine", "quality"])
def test_sidecars_that_need_no_row_an_image(kind: str, images: Path, tmp_path: Path) -> None:
    folder = sidecar(tmp_path / "data" / kind, "quarantine", read_manifest(images), {}).folder
    assert found(folder) == []
    flip(folder / TABLE, 9)
    assert found(folder) == [(TABLE, "", "sha256")]
    if kind == "quarantine":
        repair = repair_dataset(verify_dataset(folder))
        assert repair is not None
        assert repair.next == ["dvc repro -f validate"]


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_flipped_byte_is_found(data: st.DataObject, images: Path) -> None:
    path = images / data.draw(st.sampled_from([TAR, TABLE, "s-00001.tar", "s-00001.parquet"]))
    at, mask = data.draw(st.integers(0, path.stat().st_size - 1)), data.draw(st.integers(1, 255))
    flip(path, at, mask)
    problems = verify_dataset(images).problems
    flip(path, at, mask)
    assert (problems[0].file, problems[0].what) == (path.name, "sha256")
    assert {problem.file for problem in problems} == {path.name}
    assert verify_dataset(images).problems == ()


def test_a_manifest_that_misnames_a_shard_or_its_origin(images: Path, captions: Path) -> None:
    """What no hash protects."""
    files = folder_bytes(images)
    text = files["manifest.json"].decode()
    (images / "manifest.json").write_text(text.replace('"name": "s-00001"', '"name": "s-00009"'))
    assert [str(problem) for problem in verify_dataset(images).problems] == [
        f"s-00009, manifest.json: name: expected s-00001, as of its file s-00001.{ending}, found s-00009"
        for ending in ("tar", "parquet")
    ]
    assert [shard.name for shard in verify_dataset(images).damaged] == ["s-00009"]
    (images / "manifest.json").write_text(text.replace('"of": null', '"of": "0"', 1))
    assert [str(problem) for problem in verify_dataset(images).problems] == [
        "s-00000, manifest.json: of: expected null for images, found 0"
    ]
    (images / "manifest.json").write_text(text)
    sidecars = (captions / "manifest.json").read_text()
    (captions / "manifest.json").write_text(sidecars.replace('"name": "s-00001"', '"name": "s-00009"'))
    assert ("manifest.json", "", "name") in found(captions)


def test_the_record_holds_all_that_the_lines_say(images: Path, tmp_path: Path) -> None:
    from lotlip.records import write_json

    flip(images / TAR, 600)
    write_json(tmp_path / "found.json", verify_dataset(images).record())
    record = read_json(tmp_path / "found.json")
    assert (record["kind"], record["shards"], record["samples"]) == ("images", 2, 5)
    assert record["damaged_shards"] == ["s-00000"]
    assert record["counts"] == {"image": 1, "images left": 1, "sha256": 1}
    assert record["problems"][1]["key"] == "a"
    assert record["problems"][1]["expected"].startswith("sha256 ")
    assert len(picture("a")) == 1500


def test_captions_of_other_images_than_those_beside_them_are_not_damaged(images: Path, tmp_path: Path) -> None:
    captions = write_captions(tmp_path / "captions", read_manifest(images)).folder
    other = image_folder(tmp_path / "other", {"x-00000": [image_row("z")]})
    findings = verify_dataset(captions, [other.folder])
    assert {problem.what for problem in findings.problems} == {"no images", "missing sidecar"}
    assert not findings.damaged
    assert repair_dataset(findings) is None
    assert any("name its image folders with --images" in line for line in findings.lines())
