"""Image features of a locked tower: computed once, keyed by content, equal to the model's own."""

from dataclasses import replace

import pytest
import torch

from lotlip.data.loading.samples import Sample
from lotlip.errors import DataError
from lotlip.model.image_tower import ImageSettings, image_features, load_image_tower
from lotlip.training.features import cached_features, weights_hash
from tests.training.tiny_training import LIT, LOTLIP, Project, pixels_of


@pytest.fixture
def tower(project: Project):
    return load_image_tower(str(project.folder / "vit")).tower.eval()


def test_features_are_the_towers_in_the_order_of_the_samples(project: Project, tower) -> None:
    settings = ImageSettings(16)
    samples = project.samples[::-3]
    found = cached_features(tower, settings, [project.images], samples, project.folder / "features")
    with torch.no_grad():
        expected = image_features(tower, pixels_of(project.images, samples, settings, project.folder / "shards"))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)


def test_a_second_method_decodes_nothing(project: Project) -> None:
    project.train(LIT, name="first", epochs=1)
    for tar in project.folder.glob("images/*.tar"):
        tar.unlink()
    project.train(LOTLIP, name="second", epochs=1)
    assert len(list(project.folder.glob("work/features/*"))) == 2, "one file a shard"


def test_another_tower_or_transform_is_another_key(project: Project, tower) -> None:
    folder, settings = project.folder / "features", ImageSettings(16)
    cached_features(tower, settings, [project.images], project.samples, folder)
    cached_features(tower, replace(settings, mean=(0.4, 0.5, 0.5)), [project.images], project.samples, folder)
    assert len(list(folder.iterdir())) == 4
    before = weights_hash(tower)
    with torch.no_grad():
        tower.layernorm.bias[0] += 1e-6
    assert weights_hash(tower) != before
    cached_features(tower, settings, [project.images], project.samples, folder)
    assert len(list(folder.iterdir())) == 6


def test_damage_and_strangers_are_errors(project: Project, tower) -> None:
    folder, settings = project.folder / "features", ImageSettings(16)
    stranger = [*project.samples, Sample("tiny-00000", "nobody", "", ())]
    with pytest.raises(DataError, match="1 samples have no image in the shards given, nobody first"):
        cached_features(tower, settings, [project.images], stranger, folder)
    with pytest.raises(DataError, match="No image manifest holds shard 'other'"):
        pixels_of(project.images, [Sample("other", "1", "", ())], settings, project.folder / "shards")
    tar = project.folder / "images/tiny-00001.tar"
    tar.write_bytes(tar.read_bytes()[:-600])
    with pytest.raises(DataError, match="tiny-00001"):
        cached_features(tower, settings, [project.images], project.samples, project.folder / "fresh")
