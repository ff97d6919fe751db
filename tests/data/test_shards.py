"""Shards: our tars in a peer's reader, and damaged tars in ours."""

import io
import tarfile
from pathlib import Path

import pytest

from lotlip.data.shards import ShardReader, as_webdataset, write_tar
from lotlip.errors import DataError
from lotlip.records import sha256_file
from tests.data.folders import image_folder, image_row


def three_samples(path: Path) -> Path:
    samples = [{"__key__": f"k{i}", "jpg": bytes([i]) * 700, "txt": b"a dog", "json": b"{}"} for i in range(3)]
    assert write_tar(path, samples) == 3
    return path


def test_webdataset_and_tarfile_read_what_we_wrote(tmp_path: Path) -> None:
    rows = {
        "s-00000": [image_row("a", "A dog."), image_row("b", "Ein Hündchen")],
        "s-00001": [image_row("c")],
    }
    manifest = image_folder(tmp_path / "s", rows)
    found = [(sample["__key__"], sample["txt"].decode()) for sample in as_webdataset(manifest)]
    assert found == [("a", "A dog."), ("b", "Ein Hündchen"), ("c", "A dog.")]
    with tarfile.open(tmp_path / "s" / "s-00001.tar") as tar:
        assert tar.getnames() == ["c.jpg", "c.json", "c.txt"]
        assert {(member.mtime, member.uid, member.uname) for member in tar} <= {(0, 0, ""), (0, 0, "bigdata")}


def test_a_tar_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = three_samples(tmp_path / "whole.tar").read_bytes()
    end_of_data = len(whole.rstrip(b"\0")) // 512 * 512 + 512
    for size in range(0, end_of_data + 1, 256):  # at and between the borders of members
        (tmp_path / "cut.tar").write_bytes(whole[:size])
        with pytest.raises(DataError, match="truncated or damaged"):
            ShardReader(tmp_path / "cut.tar")
    with ShardReader(tmp_path / "whole.tar") as reader:
        assert reader.keys == ["k0", "k1", "k2"]
        assert reader.image("k2") == b"\2" * 700


def test_a_flipped_bit_is_refused_by_its_hash(tmp_path: Path) -> None:
    path = three_samples(tmp_path / "s.tar")
    sha256 = sha256_file(path)
    damaged = bytearray(path.read_bytes())
    damaged[600] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(DataError, match="the file is damaged or was changed"):
        ShardReader(path, sha256)


def test_names_follow_webdatasets_rule_of_the_first_dot(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "s.tar", "w") as tar:
        for name in ("f.older/a.JPG", "f.older/a.seg.png", "f.older/a.txt"):
            info = tarfile.TarInfo(name)
            info.size = 1
            tar.addfile(info, io.BytesIO(b"x"))
    with ShardReader(tmp_path / "s.tar") as reader:
        assert reader.keys == ["f.older/a"]
        assert reader.extension("f.older/a") == "jpg"


def test_repeated_keys_are_refused(tmp_path: Path) -> None:
    samples = [{"__key__": "k", "jpg": b"x"}, {"__key__": "k", "jpg": b"y"}]
    write_tar(tmp_path / "s.tar", samples)
    with pytest.raises(DataError, match=r"holds k.jpg twice"):
        ShardReader(tmp_path / "s.tar")


def test_a_sample_without_image_or_with_a_broken_caption_says_so(tmp_path: Path) -> None:
    write_tar(tmp_path / "s.tar", [{"__key__": "k", "txt": b"caf\xe9"}])
    with ShardReader(tmp_path / "s.tar") as reader:
        with pytest.raises(DataError, match="has no image"):
            reader.image("k")
        with pytest.raises(DataError, match="not UTF-8"):
            reader.caption("k")


def test_a_reader_keeps_its_tar_when_the_path_gets_another(tmp_path: Path) -> None:
    path = three_samples(tmp_path / "s.tar")
    with ShardReader(path) as reader:
        path.unlink()
        path.write_bytes(b"")
        assert [reader.image(key) for key in reader.keys] == [bytes([i]) * 700 for i in range(3)]
    with pytest.raises(DataError, match="truncated or damaged"):
        ShardReader(path)
