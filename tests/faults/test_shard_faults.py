"""Damaged shards: webdataset reads on with fewer or changed samples and says nothing; our manifest catches each."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from lotlip.data.loading.join import join_samples
from lotlip.data.manifest import Manifest
from lotlip.data.shards import ShardReader, as_webdataset
from lotlip.data.verify.datasets import verify_dataset
from lotlip.errors import DataError
from tests.data.datasets import flip, picture, replace, rewrite_tar, write_images

TAR = "s-00000.tar"
SAMPLE = 512 + 1536 + 2 * (512 + 512)  # bytes of a sample in the tar


def read_with_webdataset(manifest: Manifest) -> dict[str, bytes]:
    """What a peer's loader gives of the shards, all errors of its own raised."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        return {sample["__key__"]: sample["jpg"] for sample in as_webdataset(manifest)}


def open_first(manifest: Manifest) -> None:
    shard = manifest.shards[0]
    ShardReader(manifest.path(shard, "tar"), shard.files["tar"].sha256).close()


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return write_images(tmp_path / "s")


def cut_between_samples(path: Path) -> None:
    replace(path, path.read_bytes()[: 2 * SAMPLE])


def lose_a_sample(path: Path) -> None:
    """A whole tar, but without `c`."""
    rewrite_tar(path, lambda entries: [(info, data) for info, data in entries if not info.name.startswith("c.")])


def damage_a_header(path: Path) -> None:
    flip(path, 2 * SAMPLE + 3)


@pytest.mark.parametrize("damage", [cut_between_samples, lose_a_sample, damage_a_header])
def test_samples_that_webdataset_drops_silently(damage: Callable[[Path], None], manifest: Manifest) -> None:
    assert list(read_with_webdataset(manifest)) == list("abcde")
    damage(manifest.folder / TAR)
    assert list(read_with_webdataset(manifest)) == list("abde")
    assert manifest.num_samples == 5
    with pytest.raises(DataError, match=r"s-00000.tar has sha256 .* the file is damaged or was changed"):
        open_first(manifest)
    found = {(problem.key, problem.what) for problem in verify_dataset(manifest.folder).problems}
    assert ("c", "no image" if damage is damage_a_header else "missing sample") in found


def test_a_flipped_bit_that_webdataset_hands_on(manifest: Manifest) -> None:
    flip(manifest.folder / TAR, SAMPLE + 600)
    given = read_with_webdataset(manifest)
    assert [key for key, data in given.items() if data != picture(key)] == ["b"]
    with pytest.raises(DataError, match="the file is damaged or was changed"):
        open_first(manifest)
    found = [(problem.key, problem.what) for problem in verify_dataset(manifest.folder).problems if problem.key]
    assert found == [("b", "image")]


def test_a_missing_tar_and_a_changed_table(manifest: Manifest, tmp_path: Path) -> None:
    (manifest.folder / TAR).unlink()
    with pytest.raises(DataError, match=r"s-00000.tar is missing: run `dvc checkout`"):
        open_first(manifest)
    flip(manifest.folder / "s-00001.parquet", 9)
    with pytest.raises(DataError, match=r"s-00001.parquet has another sha256 than its manifest says"):
        join_samples([manifest], {}, work=tmp_path / "work")
    assert [(problem.file, problem.what) for problem in verify_dataset(manifest.folder).problems] == [
        (TAR, "missing"),
        ("s-00001.parquet", "sha256"),
    ]
