"""Images by key: the same bytes as the tar's own reader gives; damage and strangers are errors."""

import os
from pathlib import Path

import pytest

from lotlip.data.loading.image_reader import ImageReader
from lotlip.data.manifest import Manifest, Shard, describe_file, write_manifest
from lotlip.data.shards import ShardReader, write_tar
from lotlip.errors import DataError

KEYS = ["b", "a", "folder/c", "ä", "10", "9"]


@pytest.fixture
def images(tmp_path: Path) -> Manifest:
    folder = tmp_path / "images"
    folder.mkdir()
    records = [{"__key__": key, "png": f"png {key}".encode() * 90, "txt": key, "json": {}} for key in KEYS]
    count = write_tar(folder / "s-00000.tar", [*records, {"__key__": "bare", "txt": "no image"}])
    write_tar(folder / "s-00001.tar", [])
    shards = [
        Shard(name, num, {"tar": describe_file(folder, f"{name}.tar")})
        for name, num in (("s-00000", count), ("s-00001", 0))
    ]
    return write_manifest(folder, "images", shards)


def test_bytes_are_those_of_the_shard(images: Manifest, tmp_path: Path) -> None:
    for read_ahead in (False, True):
        reader = ImageReader([images], tmp_path / "spans", read_ahead=read_ahead)
        with ShardReader(images.folder / "s-00000.tar") as expected:
            for key in [*KEYS, *reversed(KEYS)]:
                assert reader.read("s-00000", key) == expected.image(key)


def test_keys_are_those_with_an_image_in_the_order_of_their_bytes(images: Manifest, tmp_path: Path) -> None:
    reader = ImageReader([images], tmp_path / "spans")
    assert reader.keys("s-00000") == ["10", "9", "a", "b", "folder/c", "ä"]
    assert reader.keys("s-00000", slice(4, 8)) == ["folder/c", "ä"]
    assert reader.keys("s-00001") == []


def test_strangers_are_refused(images: Manifest, tmp_path: Path) -> None:
    reader = ImageReader([images], tmp_path / "spans")
    for shard, key in (("s-00000", "zz"), ("s-00000", ""), ("s-00000", "bare"), ("s-00001", "a")):
        with pytest.raises(DataError, match=rf"{shard}\.tar has no image of sample {key}: "):
            reader.read(shard, key)
    with pytest.raises(DataError, match="No image manifest holds shard 'other'"):
        reader.read("other", "a")


def test_a_shard_is_checked_once_and_again_when_it_was_touched(images: Manifest, tmp_path: Path) -> None:
    folder, tar = tmp_path / "spans", images.folder / "s-00000.tar"
    expected = ImageReader([images], folder).read("s-00000", "a")
    found = tar.stat()
    data = bytearray(tar.read_bytes())
    data[data.index(b"png a") + 1] ^= 1
    tar.write_bytes(data)
    with pytest.raises(DataError, match="damaged"):
        ImageReader([images], folder).read("s-00000", "a")
    os.utime(tar, ns=(found.st_atime_ns, found.st_mtime_ns))
    assert ImageReader([images], folder).read("s-00000", "a") != expected, "as unchanged, it is not hashed again"
    tar.unlink()
    with pytest.raises(DataError, match="is missing"):
        ImageReader([images], folder).read("s-00000", "a")
