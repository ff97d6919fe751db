"""The sample's world: the same on every machine, texts that say what is drawn, scores that count by hand."""

import dataclasses
import hashlib

import numpy as np
import pytest

from lotlip.sample.caption_quality import mentions, object_scores
from lotlip.sample.scenes import (
    CELL,
    CLASS_NAMES,
    COLOURS,
    SIZE,
    Scene,
    SceneObject,
    class_label,
    long_caption,
    make_scene,
    raw_caption,
    reference_description,
    render,
    short_captions,
)


@pytest.fixture
def scene() -> Scene:
    star = SceneObject("star", "orange", "solid", "small", 0, 1, 0, 0)
    ring = SceneObject("ring", "blue", "striped", "large", 2, 2, 1, -1)
    cross = SceneObject("cross", "red", "solid", "small", 1, 0, 0, 0)
    return Scene(0, 0, "white", "plain", (star, cross, ring), main=2)


def test_scenes_are_the_same_everywhere() -> None:
    digest = hashlib.sha256()
    for index in range(50):
        made = make_scene(3, index)
        digest.update(render(made).tobytes())
        for text in (raw_caption(made), long_caption(made), reference_description(made), *short_captions(made)):
            digest.update(text.encode())
    assert digest.hexdigest()[:16] == GOLDEN


def test_objects_are_drawn_in_their_cell_and_colour(scene: Scene) -> None:
    pixels = np.asarray(render(scene)).astype(int)
    for thing in scene.objects:
        cell = pixels[thing.row * CELL : (thing.row + 1) * CELL, thing.column * CELL : (thing.column + 1) * CELL]
        assert (cell == COLOURS[thing.colour]).all(axis=-1).sum() > 20
    empty = pixels[CELL : 2 * CELL, CELL : 2 * CELL]
    assert (empty == (250, 250, 250)).all()
    assert pixels.shape == (SIZE, SIZE, 3)


def test_long_caption_names_everything(scene: Scene) -> None:
    assert long_caption(scene) == (
        "The image shows three shapes on a plain white background. There is a small orange star at the top. "
        "There is a small red cross on the left. There is a large striped blue ring in the bottom right corner."
    )


def test_raw_caption_names_only_the_main_object() -> None:
    for index in range(200):
        made = make_scene(5, index)
        main = made.objects[made.main]
        text = raw_caption(made)
        others = {thing.shape for thing in made.objects} - {main.shape}
        assert not others & set(text.split())
        assert len(text.split()) <= 8


def test_class_is_the_main_object(scene: Scene) -> None:
    assert CLASS_NAMES[class_label(scene)] == "blue ring"


def test_a_perfect_caption_scores_one() -> None:
    scenes = [make_scene(8, index) for index in range(20)]
    scores = object_scores(scenes, [long_caption(made) for made in scenes])
    assert (scores["object_precision"], scores["object_recall"]) == (1.0, 1.0)
    assert (scores["fill_accuracy"], scores["size_accuracy"]) == (1.0, 1.0)


def test_scores_by_hand(scene: Scene) -> None:
    """Named: a right star, the ring with a wrong size, a cross at a wrong place. 2 of 3 named, 2 of 3 present."""
    text = (
        "The image shows three shapes on a plain white background. There is a small orange star at the top. "
        "There is a small striped blue ring in the bottom right corner. There is a small red cross on the right."
    )
    scores = object_scores([scene], [text])
    assert scores["object_precision"] == pytest.approx(2 / 3, abs=1e-4)
    assert scores["object_recall"] == pytest.approx(2 / 3, abs=1e-4)
    assert (scores["fill_accuracy"], scores["size_accuracy"]) == (1.0, 0.5)
    assert scores["objects_named"] == 3.0


def test_a_mention_counts_once(scene: Scene) -> None:
    twice = dataclasses.replace(scene, objects=(scene.objects[0], scene.objects[0]), main=0)
    scores = object_scores([twice], ["There is a small orange star at the top."])
    assert (scores["object_precision"], scores["object_recall"]) == (1.0, 0.5)


def test_mentions_of_a_text_without_shapes() -> None:
    assert mentions("The image shows a dog. It is raining.") == []


GOLDEN = "33f4c6e7cdbe1b6c"
