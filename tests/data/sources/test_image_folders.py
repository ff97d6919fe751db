"""Folders of images on disk, made here: every image and every caption becomes a row, nothing outside is read."""

import io
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lotlip.data.download import download_source
from lotlip.data.manifest import read_manifest
from lotlip.data.shards import ShardReader
from lotlip.data.tables import Row, read_rows
from lotlip.errors import DataError
from lotlip.params import ImageFolderSource
from lotlip.records import sha256_bytes
from tests.data.fault_server import jpeg
from tests.data.folders import folder_bytes, settings


def put(root: Path, files: dict[str, bytes | str]) -> None:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)


def bring_in(tmp_path: Path, caption_column: str | None = None, **changes: Any) -> tuple[dict[str, Any], list[Row]]:
    source = ImageFolderSource(kind="image_folder", path=tmp_path / "in", caption_column=caption_column)
    report = download_source(source, "mine", settings(**changes), tmp_path / "out", tmp_path / "work")
    manifest = read_manifest(tmp_path / "out", "images")
    return report, [row for shard in manifest.shards for row in read_rows(manifest.path(shard, "table"))]


def told(rows: list[Row]) -> list[tuple[str | None, str, str | None, str | None]]:
    return [(row.url, row.status, row.error, row.caption) for row in rows]


def test_captions_in_files_beside_the_images(tmp_path: Path) -> None:
    files: dict[str, bytes | str] = {
        "b.jpg": jpeg(1),
        "b.txt": "  A bee.\n",
        "deep/er/a.JPG": jpeg(2),
        "deep/er/a.txt": "Ein Aal – schön",
        "broken.jpg": jpeg(3)[:200],
        "broken.txt": "Broken.",
        "latin.png": jpeg(4),
        "latin.txt": b"caf\xe9",
        "silent.jpg": jpeg(5),
        "empty.jpg": jpeg(6),
        "empty.txt": " \n",
        "lonely.txt": "Nobody sees me.",
        "large.bmp": b"BM" + bytes(300_000),
        "large.txt": "Large.",
        ".hidden.jpg": jpeg(7),
        "notes.md": "no image",
    }
    put(tmp_path / "in", files)
    report, rows = bring_in(tmp_path)
    assert told(rows) == [
        ("b.jpg", "success", None, "A bee."),
        ("broken.jpg", "failed_to_decode", rows[1].error, "Broken."),
        ("deep/er/a.JPG", "success", None, "Ein Aal – schön"),
        ("empty.jpg", "rejected", "no caption", ""),
        ("large.bmp", "failed_to_decode", "file too large: 300002 bytes, more than 200000", "Large."),
        ("latin.png", "rejected", "caption is not UTF-8", None),
        ("lonely.txt", "rejected", "no image", "Nobody sees me."),
        ("silent.jpg", "rejected", "no caption", None),
    ]
    assert (report["requested"], report["success"], report["shards"]) == (8, 2, 2)
    assert rows[0].key == sha256_bytes(b"file\nb.jpg")[:20]
    with ShardReader(tmp_path / "out" / "mine-00000.tar") as reader:
        assert reader.image(rows[0].key) == jpeg(1)
        assert reader.caption(rows[0].key) == "A bee."


def test_keys_stay_when_files_come_and_go(tmp_path: Path) -> None:
    put(tmp_path / "in", {"b.jpg": jpeg(1), "b.txt": "b", "c.jpg": jpeg(2), "c.txt": "c"})
    _, before = bring_in(tmp_path)
    first = folder_bytes(tmp_path / "out")
    bring_in(tmp_path)
    assert folder_bytes(tmp_path / "out") == first
    put(tmp_path / "in", {"a.jpg": jpeg(3), "a.txt": "a"})
    (tmp_path / "in" / "b.jpg").unlink()
    _, after = bring_in(tmp_path)
    assert after[-1] == before[-1]
    assert [row.url for row in after] == ["a.jpg", "b.txt", "c.jpg"]


@pytest.mark.parametrize("name", ["metadata.csv", "captions.tsv", "metadata.jsonl", "captions.parquet"])
def test_captions_in_a_table(tmp_path: Path, name: str) -> None:
    rows = [("1.jpg", "One."), ("sub/2.jpg", "Two."), ("gone.jpg", "Gone."), ("1.jpg", "Again."), ("./sub//3.jpg", "")]
    put(tmp_path / "in", {"1.jpg": jpeg(1), "1.txt": "not this", "sub/2.jpg": jpeg(2), "sub/3.jpg": jpeg(3)})
    put(tmp_path / "in", {"sub/4.jpg": jpeg(4), "sub/4.txt": "Four."})
    separator = "\t" if name.endswith("tsv") else ","
    lines = [separator.join(row) for row in [("file_name", "text"), *rows]]
    if name.endswith("jsonl"):
        lines = [json.dumps({"file_name": file, "text": text}) for file, text in rows]
    if name.endswith("parquet"):
        columns = {"file_name": [file for file, _ in rows], "text": [text for _, text in rows]}
        pq.write_table(pa.table(columns), tmp_path / "in" / name)
    else:
        put(tmp_path / "in", {name: "\n".join(lines)})
    _, found = bring_in(tmp_path)
    assert told(found) == [
        ("1.jpg", "success", None, "One."),
        ("1.jpg", "rejected", "repeats row 1", "Again."),
        ("gone.jpg", "rejected", "no image", "Gone."),
        ("sub/2.jpg", "success", None, "Two."),
        ("sub/3.jpg", "rejected", "no caption", ""),
        ("sub/4.jpg", "success", None, "Four."),
    ]
    assert len({row.key for row in found}) == len(found)


def test_tables_of_subfolders_and_a_column_of_their_own(tmp_path: Path) -> None:
    put(tmp_path / "in", {"a/1.jpg": jpeg(1), "b/1.jpg": jpeg(2)})
    put(
        tmp_path / "in",
        {"a/metadata.csv": "file_name,alt\n1.jpg,In a.\n", "b/metadata.csv": "alt,file_name\nIn b.,1.jpg"},
    )
    _, rows = bring_in(tmp_path, "alt")
    assert told(rows) == [("a/1.jpg", "success", None, "In a."), ("b/1.jpg", "success", None, "In b.")]
    with pytest.raises(DataError, match="no column 'caption' or 'text'; it has file_name, alt"):
        bring_in(tmp_path)


def test_nothing_outside_the_folder_is_read(tmp_path: Path) -> None:
    put(tmp_path, {"out/secret.jpg": jpeg(9), "out/secret.txt": "Secret.", "in/ok.jpg": jpeg(1), "in/ok.txt": "Fine."})
    inside = tmp_path / "in"
    (inside / "link.jpg").symlink_to(tmp_path / "out" / "secret.jpg")
    (inside / "link.txt").write_text("A link.")
    (inside / "text.jpg").write_bytes(jpeg(2))
    (inside / "text.txt").symlink_to(tmp_path / "out" / "secret.txt")
    (inside / "folder").symlink_to(tmp_path / "out")
    (inside / "near.jpg").symlink_to("ok.jpg")
    (inside / "near.txt").write_text("A link to a neighbour.")
    (inside / "dead.jpg").symlink_to("nowhere.jpg")
    names = [
        "../out/secret.jpg",
        str(tmp_path / "out/secret.jpg"),
        "folder/secret.jpg",
        "a\\b.jpg",
        "",
        "sub/../ok.jpg",
    ]
    put(inside, {"metadata.jsonl": "\n".join(json.dumps({"file_name": name, "text": "Row."}) for name in names)})
    os.rename(tmp_path / "out", tmp_path / "elsewhere")  # noqa: PTH104
    os.symlink(tmp_path / "elsewhere", tmp_path / "out")  # noqa: PTH211 - links may be links to links
    source = ImageFolderSource(kind="image_folder", path=inside)
    download_source(source, "mine", settings(shard_size=100), tmp_path / "made", tmp_path / "work")
    rows = read_rows(tmp_path / "made" / "mine-00000.parquet")
    assert {(row.url or "").replace(str(tmp_path), ""): (row.status, row.error) for row in rows} == {
        "dead.jpg": ("rejected", "no image"),
        "folder": ("rejected", "linked folder is not followed"),
        "folder/secret.jpg": ("rejected", "image is a link that leaves the folder"),
        "link.jpg": ("rejected", "image is a link that leaves the folder"),
        "metadata.jsonl: ": ("rejected", "file_name is missing"),
        "metadata.jsonl: ../out/secret.jpg": ("rejected", "file_name leaves the folder"),
        "metadata.jsonl: /out/secret.jpg": ("rejected", "file_name leaves the folder"),
        "metadata.jsonl: a\\b.jpg": ("rejected", "file_name leaves the folder"),
        "metadata.jsonl: sub/../ok.jpg": ("rejected", "file_name leaves the folder"),
        "near.jpg": ("success", None),
        "ok.jpg": ("success", None),
        "text.jpg": ("rejected", "caption is a link that leaves the folder"),
    }
    assert "Secret." not in {row.caption for row in rows}
    (inside / "metadata.jsonl").unlink()
    (inside / "captions.csv").symlink_to(tmp_path / "elsewhere" / "secret.txt")
    with pytest.raises(DataError, match="a link that leaves the image folder"):
        download_source(source, "mine", settings(), tmp_path / "made", tmp_path / "work")


def test_names_that_are_no_utf8(tmp_path: Path) -> None:
    put(tmp_path / "in", {"a.txt": "fine", "a.jpg": jpeg(1)})
    odd = os.fsencode(tmp_path / "in") + b"/caf\xe9"
    Path(os.fsdecode(odd + b".jpg")).write_bytes(jpeg(2))
    Path(os.fsdecode(odd + b".txt")).write_bytes(b"odd")
    _, rows = bring_in(tmp_path)
    assert told(rows) == [("a.jpg", "success", None, "fine"), ("caf\\xe9.jpg", "success", None, "odd")]


def test_a_finished_shard_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "in", {f"{i}.jpg": jpeg(i) for i in range(6)} | {f"{i}.txt": f"n {i}" for i in range(6)})
    stopped, reads = [False], []

    def read(path: Path, _: int) -> bytes:
        reads.append(path.name)
        if path.name == "5.jpg" and not stopped[0]:
            stopped[0] = True
            raise KeyboardInterrupt
        return path.read_bytes()

    monkeypatch.setattr("lotlip.data.sources.image_folders._read", read)
    with pytest.raises(KeyboardInterrupt):
        bring_in(tmp_path)
    reads.clear()
    _, rows = bring_in(tmp_path)
    assert sorted(reads) == ["4.jpg", "5.jpg"]
    assert [row.caption for row in rows] == [f"n {i}" for i in range(6)]


def test_a_folder_without_images_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Image folder .*in is missing"):
        bring_in(tmp_path)
    (tmp_path / "in").mkdir()
    with pytest.raises(DataError, match="holds no images"):
        bring_in(tmp_path)


def test_a_row_without_caption_does_not_stand_in_for_a_later_one(tmp_path: Path) -> None:
    put(tmp_path / "in", {"1.jpg": jpeg(1), "metadata.csv": "file_name,text\n1.jpg,\n1.jpg,\n1.jpg,One.\n1.jpg,Two.\n"})
    _, rows = bring_in(tmp_path)
    assert told(rows) == [
        ("1.jpg", "rejected", "no caption", ""),
        ("1.jpg", "rejected", "no caption", ""),
        ("1.jpg", "success", None, "One."),
        ("1.jpg", "rejected", "repeats row 3", "Two."),
    ]
    assert rows[2].key == sha256_bytes(b"file\n1.jpg")[:20]
    assert len({row.key for row in rows}) == 4


def test_larger_images_are_resized_and_others_keep_their_bytes(tmp_path: Path) -> None:
    put(tmp_path / "in", {"a.jpg": jpeg(1), "a.txt": "a", "b.jpg": jpeg(2, (20, 10)), "b.txt": "b"})
    _, rows = bring_in(tmp_path, resize={"size": 24, "mode": "longest"})
    assert [(row.width, row.height) for row in rows] == [(24, 20), (20, 10)]
    with ShardReader(tmp_path / "out" / "mine-00000.tar") as reader:
        images = [reader.image(row.key) for row in rows]
    assert Image.open(io.BytesIO(images[0])).size == (24, 20)
    assert images[1] == jpeg(2, (20, 10))
    assert [row.sha256 for row in rows] == [sha256_bytes(data) for data in images]
