"""Image features of a locked tower: computed once, keyed by content, equal to the model's own, and never wrong."""

import io
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from lotlip.data.loading.image_reader import ImageReader
from lotlip.data.loading.samples import Sample
from lotlip.data.manifest import Shard, describe_file, write_manifest
from lotlip.data.shards import ShardReader, write_tar
from lotlip.errors import DataError, ExecutorError, ModelError
from lotlip.model.image_tower import ImageSettings, image_features, load_image_tower
from lotlip.params import Augment, Method
from lotlip.training.features.cache import FeatureCache, weights_hash
from lotlip.training.pixels import pixel_source
from tests.training.tiny_training import LIT, LOTLIP, Project, pixels_of

CROPS = Augment(scale=(0.1, 0.6), flip=0.5)
FLOAT16 = {"rtol": 2**-10, "atol": 1e-5}  # half a unit in the last of 11 bits, and float32's own rounding
VISITS_0 = np.zeros(64, np.int64)
ALL = np.arange(64)


@pytest.fixture
def tower(project: Project) -> Any:
    return load_image_tower(str(project.folder / "vit")).tower.eval()


def make_cache(project: Project, tower: Any, work: str = "work", **changes: Any) -> FeatureCache:
    arguments = {name: changes.pop(name) for name in ("patches", "autocast") if name in changes}
    image, samples = changes.pop("image", ImageSettings(16)), changes.pop("samples", project.samples)
    settings, folder = project.settings(**changes), project.folder / work
    return FeatureCache(tower, image, [project.images], samples, settings, folder, **arguments)


def files(project: Project, work: str = "work") -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (project.folder / work / "features").iterdir()}


def photograph(project: Project, broken: dict[str, bytes] | None = None) -> None:
    """JPEGs of 160 x 128 pixels in the place of the samples' images; `broken` bytes in the place of some."""
    rng, folder, shards = np.random.default_rng(5), project.images.folder, []
    for name in dict.fromkeys(sample.shard for sample in project.samples):
        records = []
        for sample in project.samples:
            if sample.shard == name:
                coarse = Image.fromarray(rng.integers(0, 256, (8, 10, 3), dtype=np.uint8))
                buffer = io.BytesIO()
                coarse.resize((160, 128), Image.Resampling.NEAREST).save(buffer, format="JPEG", quality=90)
                records.append({"__key__": sample.key, "jpg": (broken or {}).get(sample.key, buffer.getvalue())})
        count = write_tar(folder / f"{name}.tar", records)
        shards.append(Shard(name, count, {"tar": describe_file(folder, f"{name}.tar")}))
    project.images = write_manifest(folder, "images", shards)


def test_features_are_the_towers_in_the_order_of_the_indices(project: Project, tower: Any) -> None:
    cache = make_cache(project, tower)
    cache.compute_missing()
    indices = np.array([63, 0, 5, 40, 5, 33])
    found = cache.open().batch(indices, np.zeros(6, np.int64))
    samples = [project.samples[i] for i in indices]
    with torch.no_grad():
        pixels = pixels_of(project.images, samples, ImageSettings(16), project.folder / "shards")
        expected = image_features(tower, pixels)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, **FLOAT16)


def test_more_files_than_may_be_mapped_at_once(project: Project, tower: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = make_cache(project, tower)
    cache.compute_missing()
    expected = cache.open().batch(ALL, VISITS_0)
    monkeypatch.setattr("lotlip.training.features.store._MAX_MAPPED", 1)
    torch.testing.assert_close(cache.open().batch(ALL, VISITS_0), expected, rtol=0, atol=0)


def test_a_visit_sees_its_crop_of_each_patch(project: Project, tower: Any) -> None:
    photograph(project)
    changes = {"augment": CROPS, "cached_crops": 3, "seed": 4}
    cache = make_cache(project, tower, patches=True, **changes)
    cache.compute_missing()
    visits = np.arange(64) % 5
    found = cache.open().batch(ALL, visits)
    reader = ImageReader([project.images], project.folder / "spans")
    source = pixel_source(reader, ImageSettings(16), project.settings(**changes), locked=True)
    with torch.no_grad():
        pixels = source.batch([(s.shard, s.key, v % 3) for s, v in zip(project.samples, visits.tolist(), strict=True)])
        expected = image_features(tower, pixels, patches=True)
    assert found.shape == (64, 4, 16)
    torch.testing.assert_close(found, expected, **FLOAT16)


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        (LOTLIP, {}),
        (LOTLIP, {"augment": CROPS, "cached_crops": 3}),
        (LOTLIP, {"augment": CROPS, "cached_crops": 3, "decode": "full", "num_workers": 2}),
        (Method(objective="late_interaction"), {}),
    ],
)
def test_losses_are_those_without_a_cache_on_the_same_crops(
    project: Project, method: Method, changes: dict[str, Any]
) -> None:
    photograph(project)
    changes = {**changes, "learning_rate": 1e-5}  # at higher ones, steps make more of float16's rounding than it is
    cached = project.train(method, name="cached", **changes)
    live = project.train(method, name="live", **{**changes, "cached_crops": 0})
    other = project.train(method, name="other", **{**changes, "cached_crops": 0, "augment": Augment(scale=(0.1, 0.6))})

    def losses(result: Any) -> list[float]:
        return [row["loss"] for row in result.curve]

    assert len(losses(cached)) == 12, "4 steps in each of 3 epochs"
    assert losses(cached) == pytest.approx(losses(live), rel=1e-4), "float16 features"
    assert losses(other) != pytest.approx(losses(live), rel=5e-3), "the bound tells crops apart"


def test_a_second_method_decodes_nothing(project: Project) -> None:
    project.train(LIT, name="first", epochs=1, augment=CROPS)
    for tar in project.folder.glob("images/*.tar"):
        tar.unlink()
    project.train(LOTLIP, name="second", epochs=1, augment=CROPS)
    assert len(files(project)) == 2, "one file a shard"
    with pytest.raises(DataError, match="is missing"):
        project.train(LOTLIP, name="third", epochs=1, augment=CROPS, cached_crops=0)


def change_weights(tower: Any) -> None:
    with torch.no_grad():
        tower.layernorm.bias[0] += 1e-6


def change_heads(tower: Any) -> None:
    tower.config.num_attention_heads = 4


@pytest.mark.parametrize(
    ("changes", "is_new"),
    [
        ({"augment": Augment(scale=(0.1, 0.6))}, True),
        ({"seed": 1}, True),
        ({"cached_crops": 3}, True),
        ({"decode": "full"}, True),
        ({"patches": True}, True),
        ({"autocast": torch.bfloat16}, True),
        ({"image": ImageSettings(16, mean=(0.4, 0.5, 0.5))}, True),
        ({"augment": None}, True),
        ({"batch_size": 8, "num_workers": 2, "learning_rate": 1.0}, False),
    ],
)
def test_what_determines_features_names_their_files(
    project: Project, tower: Any, changes: dict[str, Any], is_new: bool
) -> None:
    start = {"augment": CROPS, "cached_crops": 2}
    for used in (start, {**start, **changes}):
        make_cache(project, tower, **used).compute_missing()
    assert len(files(project)) == (4 if is_new else 2)


@pytest.mark.parametrize("change", [change_weights, change_heads])
def test_another_tower_has_other_files(project: Project, tower: Any, change: Callable[[Any], None]) -> None:
    make_cache(project, tower).compute_missing()
    before = weights_hash(tower)
    change(tower)
    assert (weights_hash(tower) != before) == (change is change_weights)
    make_cache(project, tower).compute_missing()
    assert len(files(project)) == 4


def test_other_images_have_other_files_and_a_seed_without_augmentation_has_not(project: Project, tower: Any) -> None:
    make_cache(project, tower).compute_missing()
    make_cache(project, tower, seed=1, cached_crops=5, decode="full").compute_missing()
    assert len(files(project)) == 2
    project.repaint()
    make_cache(project, tower).compute_missing()
    assert len(files(project)) == 4


def test_any_ranks_and_workers_write_the_same_bytes(project: Project, tower: Any) -> None:
    changes = {"augment": CROPS, "cached_crops": 2}
    make_cache(project, tower, "alone", **changes).compute_missing()
    for rank in (1, 0):
        assert len(files(project, "alone")) == 2
        make_cache(project, tower, "shared", num_workers=2, **changes).compute_missing(rank, 2)
        assert len(files(project, "shared")) == 2 - rank
    assert files(project, "shared") == files(project, "alone")


def test_what_is_computed_stays_when_a_later_shard_is_damaged(project: Project, tower: Any) -> None:
    tar = project.folder / "images/tiny-00001.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[:-600])
    for num_workers in (0, 2):
        with pytest.raises(DataError, match="tiny-00001"):
            make_cache(project, tower, num_workers=num_workers).compute_missing()
    ((name, _),) = files(project).items()
    (project.folder / "images/tiny-00000.tar").unlink()
    tar.write_bytes(whole)
    make_cache(project, tower).compute_missing()
    assert name in files(project)
    assert len(files(project)) == 2


def test_a_worker_that_dies_says_what_to_do(project: Project, tower: Any) -> None:
    cache = make_cache(project, tower, num_workers=2)
    cache._source._transform = lambda data, rng: os._exit(9)  # type: ignore[assignment,return-value]
    with pytest.raises(ExecutorError, match=r"A worker that decodes images died .*lower train.num_workers"):
        cache.compute_missing()


def test_features_stay_in_the_files_until_a_batch_wants_them(project: Project, tower: Any) -> None:
    cache = make_cache(project, tower)
    cache.compute_missing()
    store = cache.open()
    before = store.batch(ALL, VISITS_0)
    path = first_file(project)
    assert str(path) in Path("/proc/self/maps").read_text()
    assert not any(link.resolve() == path for link in Path("/proc/self/fd").iterdir()), "open files are few"
    with path.open("r+b") as file:  # the very file that is mapped, not a new one
        file.seek(feature_offset(path) + 5)
        byte = file.read(1)[0]
        file.seek(-1, io.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(DataError, match=r"is damaged: features of image \d000 are not those that were written. Remove"):
        store.batch(ALL, VISITS_0)
    with pytest.raises(DataError, match="is damaged"):
        cache.open().batch(ALL, VISITS_0)
    others = np.setdiff1d(ALL, [0, 32])
    torch.testing.assert_close(store.batch(others, VISITS_0[:62]), before[others], rtol=0, atol=0)


def first_file(project: Project) -> Path:
    return project.folder / "work/features" / min(files(project))


def feature_offset(path: Path) -> int:
    """Of the first row in the file: after its header, and behind nothing else, for wider types come first."""
    header = int.from_bytes(path.read_bytes()[:8], "little")
    with safe_open(path, "np") as file:
        checksums = file.get_tensor("checksums")
    return 8 + header + checksums.nbytes


@pytest.mark.parametrize("cut", [0, 5, 60, -1, -700])
def test_a_cut_off_file_is_computed_again(
    project: Project, tower: Any, cut: int, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = make_cache(project, tower)
    cache.compute_missing()
    whole = files(project)
    path = first_file(project)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(DataError, match=rf"Image features: .*{path.name} is damaged .*Run the training again"):
        cache.open()
    cache.compute_missing()
    assert f"{path.name} is damaged" in capsys.readouterr().out
    assert files(project) == whole
    path.unlink()
    with pytest.raises(DataError, match=rf"{path.name} is missing. Run the training again"):
        cache.open()


def test_strangers_are_errors(project: Project, tower: Any) -> None:
    stranger = Sample("tiny-00000", "nobody", "", ())
    for _ in range(2):
        with pytest.raises(DataError, match="1 samples have no image in shard tiny-00000, nobody first"):
            make_cache(project, tower, samples=[*project.samples, stranger]).compute_missing()
    make_cache(project, tower).compute_missing()
    with pytest.raises(DataError, match="1 samples have no image in the shards given, nobody of tiny-00000 first"):
        make_cache(project, tower, samples=[*project.samples, stranger]).open()
    with pytest.raises(DataError, match="No image manifest holds shard 'other'"):
        make_cache(project, tower, samples=[Sample("other", "1", "", ())])


def test_an_unreadable_image_matters_where_a_sample_wants_it(
    project: Project, tower: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    photograph(project, broken={"0007": b"no image"})
    with pytest.raises(DataError, match=r"^Image 0007 of .*tiny-00000.tar: not an image.*Run `dvc repro validate`"):
        make_cache(project, tower).compute_missing()
    wanted = [sample for sample in project.samples if sample.key != "0007"]
    cache = make_cache(project, tower, samples=wanted)
    cache.compute_missing()
    assert "image features of tiny-00000: 1 images cannot be read, and no sample wants them" in capsys.readouterr().out
    pixels = pixels_of(project.images, wanted, ImageSettings(16), project.folder / "shards")
    with torch.no_grad():
        expected = image_features(tower, pixels)
    torch.testing.assert_close(cache.open().batch(ALL[:63], VISITS_0[:63]), expected, **FLOAT16)
    cache = make_cache(project, tower)
    cache.compute_missing()
    with pytest.raises(DataError, match="1 samples have no image in the shards given, 0007 of tiny-00000 first"):
        cache.open()


def test_features_that_float16_cannot_hold_are_refused(project: Project, tower: Any) -> None:
    with torch.no_grad():
        tower.layernorm.bias[3] = 1e5
    with pytest.raises(ModelError, match=r"features that float16 cannot hold, up to 1"):
        make_cache(project, tower).compute_missing()
    assert not (project.folder / "work/features").exists()


def test_a_shard_whose_manifest_changed_is_checked(project: Project, tower: Any) -> None:
    tar = project.folder / "images/tiny-00001.tar"
    with ShardReader(tar) as reader:
        offset, _ = reader.image_span("1007")
    data = bytearray(tar.read_bytes())
    data[offset : offset + 8] = b"no image"
    tar.write_bytes(data)
    with pytest.raises(DataError, match="tiny-00001"):
        make_cache(project, tower).compute_missing()
    shard = replace(project.images.shards[1], files={"tar": describe_file(tar.parent, tar.name)})
    project.images = replace(project.images, shards=(project.images.shards[0], shard))
    with pytest.raises(DataError, match=r"^Image 1007 of"):
        make_cache(project, tower).compute_missing()
