"""Sources in a real S3 server give the same datasets as from disk."""

from pathlib import Path

import pytest

from lotlip.data.download import download_source
from lotlip.errors import StorageError
from lotlip.params import HfDatasetSource, ImageFolderSource, ShardsSource, Source, UrlTableSource
from tests.data.fault_server import jpeg, running_server
from tests.data.folders import folder_bytes, settings
from tests.s3_server import BUCKET, S3Server, s3, s3_process

__all__ = ["s3", "s3_process"]
pytestmark = pytest.mark.server


def put_folder(s3: S3Server, folder: Path, prefix: str) -> str:
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            s3.put(f"{prefix}/{path.relative_to(folder)}", path.read_bytes())
    return f"s3://{BUCKET}/{prefix}"


def check_equal(here: Source, there: Source, tmp_path: Path) -> dict[str, object]:
    reports = [
        download_source(source, "web", settings(), tmp_path / f"out_{name}", tmp_path / f"work_{name}")
        for name, source in (("here", here), ("there", there))
    ]
    assert folder_bytes(tmp_path / "out_here") == folder_bytes(tmp_path / "out_there")
    assert reports[0] == reports[1]
    return reports[0]


def test_a_table_and_its_parts(s3: S3Server, tmp_path: Path) -> None:
    parts = tmp_path / "parts"
    parts.mkdir()
    with running_server() as server:
        for number in range(2):
            rows = [f"{server.url}/ok/{number}{i}\tpicture {number}{i}" for i in range(3)]
            (parts / f"part-{number}.tsv").write_text("\n".join(rows) + "\n")
        url = put_folder(s3, parts, "tables/parts")
        columns = {"kind": "url_table", "url_column": 0, "caption_column": 1}
        both = [UrlTableSource.model_validate({**columns, "path": path}) for path in (str(parts), url)]
        assert check_equal(*both, tmp_path / "parts_both")["success"] == 6
        single = [parts / "part-1.tsv", f"{url}/part-1.tsv"]
        both = [UrlTableSource.model_validate({**columns, "path": str(path)}) for path in single]
        assert check_equal(*both, tmp_path / "single")["success"] == 3


def test_shards_with_their_tables(s3: S3Server, tmp_path: Path) -> None:
    first = tmp_path / "first"
    with running_server() as server:
        rows = [f"{server.url}/{'ok' if i % 3 else 'status/404'}/{i}\tpicture {i}" for i in range(12)]
        (tmp_path / "t.tsv").write_text("\n".join(rows) + "\n")
        source = UrlTableSource.model_validate(
            {"kind": "url_table", "path": str(tmp_path / "t.tsv"), "url_column": 0, "caption_column": 1}
        )
        download_source(source, "web", settings(shard_size=5, num_retries=0), first, tmp_path / "work")
    url = put_folder(s3, first, "shards")
    here, there = (ShardsSource.model_validate({"kind": "shards", "path": str(path)}) for path in (first, f"{url}/"))
    report = check_equal(here, there, tmp_path)
    assert (report["success"], report["failed_to_download"], report["shards"]) == (8, 4, 3)
    assert not list((tmp_path / "work_there").rglob("from-s3-*"))


def test_a_folder_of_images(s3: S3Server, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    (folder / "deep").mkdir(parents=True)
    for i, place in enumerate((folder, folder / "deep")):
        (place / f"{i}.jpg").write_bytes(jpeg(i))
        (place / f"{i}.txt").write_text(f"picture {i}")
    url = put_folder(s3, folder, "images")
    both = (ImageFolderSource.model_validate({"kind": "image_folder", "path": str(path)}) for path in (folder, url))
    assert check_equal(*both, tmp_path)["success"] == 2


def test_a_saved_dataset(s3: S3Server, tmp_path: Path) -> None:
    from datasets import Dataset, Features, Image, Value

    rows = {
        "image": [{"bytes": jpeg(i), "path": None} for i in range(3)],
        "caption": [f"picture {i}" for i in range(3)],
    }
    Dataset.from_dict(rows, Features({"image": Image(decode=False), "caption": Value("string")})).save_to_disk(
        str(tmp_path / "saved")
    )
    url = put_folder(s3, tmp_path / "saved", "saved")
    values = {"kind": "hf_dataset", "image_column": "image", "caption_column": "caption"}
    both = (HfDatasetSource.model_validate({**values, "path": str(path)}) for path in (tmp_path / "saved", url))
    assert check_equal(*both, tmp_path)["success"] == 3


def test_what_is_not_there(s3: S3Server, tmp_path: Path) -> None:
    source = ShardsSource.model_validate({"kind": "shards", "path": f"s3://{BUCKET}/nowhere"})
    with pytest.raises(Exception, match=r"has no \*.tar"):
        download_source(source, "web", settings(), tmp_path / "out", tmp_path / "work")
    table = UrlTableSource.model_validate(
        {"kind": "url_table", "path": f"s3://{BUCKET}/nowhere.tsv", "url_column": 0, "caption_column": 1}
    )
    with pytest.raises(StorageError, match="no such object, and nothing below"):
        download_source(table, "web", settings(), tmp_path / "out", tmp_path / "work2")
