"""An img2dataset folder, made by hand with `tarfile` and pyarrow, becomes a dataset of ours."""

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from lotlip.data.download import download_source
from lotlip.data.manifest import read_manifest
from lotlip.data.shards import as_webdataset
from lotlip.data.tables import Row, read_rows
from lotlip.errors import CeilingError, DataError
from lotlip.params import ShardsSource
from lotlip.records import sha256_bytes
from tests.data.fault_server import jpeg
from tests.data.folders import folder_bytes, settings


def gif() -> bytes:
    buffer = io.BytesIO()
    Image.new("P", (5, 4)).save(buffer, format="GIF")
    return buffer.getvalue()


def write_shard(folder: Path, name: str, samples: list[tuple[str, bytes, bytes]]) -> None:
    """`<key>.jpg`, `<key>.txt` and `<key>.json` of (key, image, caption), as img2dataset lays them out."""
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / f"{name}.tar", "w") as tar:
        for key, image, caption in samples:
            meta = json.dumps({"url": f"http://a/{key}", "key": key}).encode()
            for extension, data in (("jpg", image), ("txt", caption), ("json", meta)):
                info = tarfile.TarInfo(f"{key}.{extension}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))


def write_parquet(folder: Path, name: str, rows: list[tuple[str, str, str | None]]) -> None:
    records = [
        {
            "url": f"http://a/{k}",
            "caption": f"cap {k}",
            "key": k,
            "status": s,
            "error_message": e,
            "exif": "{}",
        }
        for k, s, e in rows
    ]
    pq.write_table(pa.Table.from_pylist(records), folder / f"{name}.parquet")


def bring_in(tmp_path: Path, **changes: Any) -> tuple[dict[str, Any], list[Row]]:
    source = ShardsSource(kind="shards", path=tmp_path / "in")
    report = download_source(source, "old", settings(**changes), tmp_path / "out", tmp_path / "work")
    manifest = read_manifest(tmp_path / "out", "images")
    return report, [row for shard in manifest.shards for row in read_rows(manifest.path(shard, "table"))]


def test_good_tars_are_taken_byte_by_byte_with_a_row_for_every_sample(tmp_path: Path) -> None:
    write_shard(tmp_path / "in", "00000", [("000000000", jpeg(1), b"cap 000000000"), ("000000002", jpeg(2), b"two")])
    told = [
        ("000000000", "success", None),
        ("000000001", "failed_to_download", "HTTP Error 404: Not Found"),
        ("000000002", "success", None),
        ("000000003", "failed_to_resize", "image decoding error"),
    ]
    write_parquet(tmp_path / "in", "00000", told)
    (tmp_path / "in" / "00000_stats.json").write_text('{"successes": 2, "count": 4}')
    write_shard(tmp_path / "in", "00001", [("000010000", jpeg(3), "schön".encode())])
    report, rows = bring_in(tmp_path)
    for number in range(2):
        ours = (tmp_path / "out" / f"old-{number:05d}.tar").read_bytes()
        assert ours == (tmp_path / "in" / f"{number:05d}.tar").read_bytes()
    assert [(row.key, row.status, row.error, row.caption) for row in rows] == [
        ("000000000", "success", None, "cap 000000000"),
        ("000000002", "success", None, "two"),
        ("000000001", "failed_to_download", "HTTP Error 404: Not Found", "cap 000000001"),
        ("000000003", "failed_to_decode", "image decoding error", "cap 000000003"),
        ("000010000", "success", None, "schön"),
    ]
    assert (rows[0].url, rows[0].width, rows[0].height) == ("http://a/000000000", 48, 40)
    assert (report["requested"], report["success"], report["shards"]) == (5, 3, 2)
    assert (tmp_path / "in" / "00000.tar").stat().st_nlink == 1  # the user's file stays the user's alone


def test_unfit_samples_leave_the_tar_and_stay_in_the_table(tmp_path: Path) -> None:
    samples = [
        ("good", jpeg(1), b"good"),
        ("broken", jpeg(2)[:300], b"broken"),
        ("latin", jpeg(3), b"caf\xe9"),
        ("../../escape", jpeg(4), b"escape"),
        ("gif", gif(), b"gif"),
    ]
    write_shard(tmp_path / "in", "00000", samples)
    write_shard(tmp_path / "in", "00001", [("good", jpeg(5), b"again")])
    write_parquet(tmp_path / "in", "00000", [("gone", "success", None), ("good", "success", None)])
    report, rows = bring_in(tmp_path)
    manifest = read_manifest(tmp_path / "out", "images")
    assert [(s["__key__"], set(s) & {"jpg", "png"}) for s in as_webdataset(manifest)] == [
        ("good", {"jpg"}),
        ("gif", {"png"}),
    ]
    assert [(row.status, (row.error or "").partition(":")[0]) for row in rows] == [
        ("success", ""),
        ("failed_to_decode", "damaged image"),
        ("rejected", "caption is not UTF-8"),
        ("rejected", "key is no plain name"),
        ("success", ""),
        ("rejected", "missing from the tar"),
        ("rejected", "key is in an earlier tar"),
    ]
    assert len({row.key for row in rows}) == len(rows) == report["requested"] == 7
    assert manifest.num_samples == report["success"] == 2


def test_importing_again_gives_the_same_bytes(tmp_path: Path) -> None:
    write_shard(tmp_path / "in", "00000", [("a", jpeg(1), b"a"), ("b", b"junk", b"b")])
    bring_in(tmp_path)
    first = folder_bytes(tmp_path / "out")
    bring_in(tmp_path)
    assert folder_bytes(tmp_path / "out") == first


def test_a_truncated_tar_stops_the_import(tmp_path: Path) -> None:
    write_shard(tmp_path / "in", "00000", [("a", jpeg(1), b"a"), ("b", jpeg(2), b"b")])
    tar = tmp_path / "in" / "00000.tar"
    tar.write_bytes(tar.read_bytes()[:3072])
    with pytest.raises(DataError, match=r"00000.tar .*truncated or damaged"):
        bring_in(tmp_path)


def test_fewer_samples_than_the_stats_say_stop_the_import(tmp_path: Path) -> None:
    write_shard(tmp_path / "in", "00000", [("a", jpeg(1), b"a")])
    (tmp_path / "in" / "00000_stats.json").write_text('{"successes": 2}')
    with pytest.raises(DataError, match=r"holds 1 samples, 00000_stats.json says 2"):
        bring_in(tmp_path)


def test_a_folder_without_tars_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no \*.tar"):
        bring_in(tmp_path)


def test_the_ceiling_holds_for_imports_too(tmp_path: Path) -> None:
    write_shard(tmp_path / "in", "00000", [("a", jpeg(1), b"a"), ("b", b"junk", b"b")])
    with pytest.raises(CeilingError, match=r"1 of 2 rows failed .50.0%.*not an image \(1\)"):
        bring_in(tmp_path, max_failed_share=0.4)


def test_larger_images_are_resized_and_their_tars_packed_anew(tmp_path: Path) -> None:
    write_shard(tmp_path / "in", "00000", [("large", jpeg(1), b"large"), ("small", jpeg(2, (20, 10)), b"small")])
    write_shard(tmp_path / "in", "00001", [("other", jpeg(3, (24, 10)), b"other")])
    _, rows = bring_in(tmp_path, resize={"size": 24, "mode": "longest"})
    assert [(row.key, row.width, row.height) for row in rows] == [
        ("large", 24, 20),
        ("small", 20, 10),
        ("other", 24, 10),
    ]
    small = {sample["__key__"]: sample["jpg"] for sample in as_webdataset(read_manifest(tmp_path / "out", "images"))}
    assert Image.open(io.BytesIO(small["large"])).size == (24, 20)
    assert small["small"] == jpeg(2, (20, 10))
    assert [row.sha256 for row in rows] == [sha256_bytes(data) for data in small.values()]
    assert (tmp_path / "out" / "old-00001.tar").read_bytes() == (tmp_path / "in" / "00001.tar").read_bytes()
