"""Folders that the library `datasets` itself wrote."""

from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, DatasetDict, Features, Image, List, Value

from lotlip.data.download import download_source
from lotlip.data.manifest import read_manifest
from lotlip.data.tables import Row, read_rows
from lotlip.errors import DataError
from lotlip.params import HfDatasetSource
from lotlip.records import sha256_bytes
from tests.data.fault_server import bomb, jpeg
from tests.data.folders import folder_bytes, settings


def make(rows: list[tuple[bytes | None, Any]], text: Any = None) -> Dataset:
    features = Features({"image": Image(), "caption": text or Value("string"), "id": Value("int64")})
    images = [None if data is None else {"bytes": data, "path": "some.jpg"} for data, _ in rows]
    columns = {"image": images, "caption": [caption for _, caption in rows], "id": list(range(len(rows)))}
    return Dataset.from_dict(columns, features=features)


def bring_in(tmp_path: Path, **columns: Any) -> tuple[dict[str, Any], list[Row]]:
    values = {"kind": "hf_dataset", "path": tmp_path / "in", "caption_column": "caption", **columns}
    source = HfDatasetSource.model_validate(values)
    report = download_source(source, "hf", settings(), tmp_path / "out", tmp_path / "work")
    manifest = read_manifest(tmp_path / "out", "images")
    return report, [row for shard in manifest.shards for row in read_rows(manifest.path(shard, "table"))]


def test_every_row_of_a_dataset_becomes_a_row(tmp_path: Path) -> None:
    rows: list[tuple[bytes | None, str | None]] = [
        (jpeg(1), "one"),
        (jpeg(1), "one, otherwise said"),
        (jpeg(1), "one"),
        (jpeg(2)[:200], "broken"),
        (bomb(40_000, 30_000), "bomb"),
        (None, "nothing"),
        (jpeg(3), None),
        (jpeg(4), " "),
        (jpeg(5), "schön"),
    ]
    make(rows).save_to_disk(tmp_path / "in", num_shards=2)
    report, found = bring_in(tmp_path)
    assert [(row.caption, row.status, (row.error or "").partition(":")[0]) for row in found] == [
        ("one", "success", ""),
        ("one, otherwise said", "success", ""),
        ("one", "rejected", "repeats row 1"),
        ("broken", "failed_to_decode", "damaged image"),
        ("bomb", "failed_to_decode", "image too large"),
        ("nothing", "rejected", "no image"),
        (None, "rejected", "no caption"),
        (" ", "rejected", "no caption"),
        ("schön", "success", ""),
    ]
    assert (report["requested"], report["success"], report["shards"]) == (9, 3, 3)
    assert found[8].sha256 == sha256_bytes(jpeg(5))
    assert len({row.key for row in found}) == 9
    first = folder_bytes(tmp_path / "out")
    bring_in(tmp_path)
    assert folder_bytes(tmp_path / "out") == first


def test_keys_come_from_content_and_not_from_the_place(tmp_path: Path) -> None:
    make([(jpeg(1), "one"), (jpeg(2), "two")]).save_to_disk(tmp_path / "in")
    before = {row.caption: row.key for row in bring_in(tmp_path)[1]}
    make([(jpeg(3), "new"), (jpeg(2), "two"), (jpeg(1), "one")]).save_to_disk(tmp_path / "in")
    after = {row.caption: row.key for row in bring_in(tmp_path)[1]}
    assert {caption: after[caption] for caption in before} == before


def test_lists_of_captions_splits_and_urls(tmp_path: Path) -> None:
    train = make([(jpeg(1), ["first", "second"]), (jpeg(2), []), (jpeg(3), None)], List(Value("string")))
    train = train.add_column("url", ["http://a/1", None, " http://a/3"])
    DatasetDict({"train": train, "test": train.select([0])}).save_to_disk(tmp_path / "in")
    _, rows = bring_in(tmp_path, split="train", url_column="url")
    assert [(row.caption, row.url, row.error) for row in rows] == [
        ("first", "http://a/1", None),
        (None, None, "no caption"),
        (None, "http://a/3", "no caption"),
    ]
    assert len(bring_in(tmp_path, split="test")[1]) == 1
    for split in (None, "validation", "../in/train"):
        with pytest.raises(DataError, match=r"set `split` to one of train, test"):
            bring_in(tmp_path, split=split)


def test_an_image_that_lies_elsewhere_is_not_looked_for(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(jpeg(1))
    paths = [str(tmp_path / "secret.jpg"), "https://192.0.2.1/1.jpg"]
    images = [*({"bytes": None, "path": path} for path in paths), {"bytes": jpeg(2), "path": None}]
    plain = Features({"image": {"bytes": Value("binary"), "path": Value("string")}, "caption": Value("string")})
    dataset = Dataset.from_dict({"image": images, "caption": ["a", "b", "c"]}, features=plain)
    dataset.save_to_disk(tmp_path / "in")  # as `embed_external_files=False` leaves it
    _, rows = bring_in(tmp_path)
    problem = "image is a path: save the dataset with its bytes"
    assert [(row.caption, row.error) for row in rows] == [("a", problem), ("b", problem), ("c", None)]


def test_what_is_no_dataset_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no dataset: expected a folder that `save_to_disk` wrote"):
        bring_in(tmp_path)
    make([(jpeg(1), "one")]).save_to_disk(tmp_path / "in")
    for columns, message in (
        ({"caption_column": "text"}, "no column 'text'; it has image, caption, id"),
        ({"image_column": "id"}, "'id' holds int64; expected images"),
        ({"caption_column": "id"}, "'id' holds int64; expected a text"),
        ({"split": "train"}, "a dataset without splits: remove `split`"),
    ):
        with pytest.raises(DataError, match=message):
            bring_in(tmp_path, **columns)
    (arrow,) = (tmp_path / "in").glob("*.arrow")
    arrow.write_bytes(arrow.read_bytes()[:300])
    with pytest.raises(DataError, match="cannot be read as a saved dataset"):
        bring_in(tmp_path)
