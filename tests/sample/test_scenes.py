"""The sample's world: the same on every machine, texts that say what is drawn, scores that count by hand."""

import dataclasses
import hashlib

import numpy as np
import pytest

from lotlip.sample import habits
from lotlip.sample.caption_quality import Mention, caption_scores, made_up, mentions
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
    scores = caption_scores(scenes, [long_caption(made) for made in scenes])
    assert (scores["object_precision"], scores["object_recall"]) == (1.0, 1.0)
    assert (scores["fill_accuracy"], scores["size_accuracy"]) == (1.0, 1.0)


def test_scores_by_hand(scene: Scene) -> None:
    """Named: a right star, the ring with a wrong size, a cross at a wrong place. 2 of 3 named, 2 of 3 present."""
    text = (
        "The image shows three shapes on a plain white background. There is a small orange star at the top. "
        "There is a small striped blue ring in the bottom right corner. There is a small red cross on the right."
    )
    scores = caption_scores([scene], [text])
    assert scores["object_precision"] == pytest.approx(2 / 3, abs=1e-4)
    assert scores["object_recall"] == pytest.approx(2 / 3, abs=1e-4)
    assert (scores["fill_accuracy"], scores["size_accuracy"]) == (1.0, 0.5)
    assert scores["mentions"] == 3.0


def test_a_mention_counts_once(scene: Scene) -> None:
    twice = dataclasses.replace(scene, objects=(scene.objects[0], scene.objects[0]), main=0)
    scores = caption_scores([twice], ["There is a small orange star at the top."])
    assert (scores["object_precision"], scores["object_recall"]) == (1.0, 0.5)


def test_two_shapes_in_a_sentence_have_their_own_words_and_no_place() -> None:
    assert mentions("The small blue ring is above the striped red star at the top.") == [
        Mention("ring", "blue", None, "small", None),
        Mention("star", "red", "striped", None, None),
    ]


def test_what_is_made_up_fits_no_object(scene: Scene) -> None:
    text = "There is a blue ring in the bottom right corner. A blue circle sits near the ring. There is a green star."
    assert [mention.shape for mention in made_up(scene, text)] == ["circle", "star"]
    assert caption_scores([scene], [text])["object_precision"] == pytest.approx(0.5)
    assert caption_scores([scene, scene], [text, "A ring."])["hallucinating"] == 0.5


def test_habits_differ_in_what_they_say_leave_out_and_make_up() -> None:
    scenes = [make_scene(8, index) for index in range(200)]
    scores = {
        write.__name__: caption_scores(scenes, [write(scene) for scene in scenes])
        for write in (habits.llava_caption, habits.instructblip_caption, habits.sharegpt4v_caption)
    }
    confusing, inventing = scores["llava_caption"], scores["sharegpt4v_caption"]
    small_purple = sum(
        thing.colour == "purple" and thing.size == "small" for scene in scenes for thing in scene.objects
    )
    wrong = small_purple / sum(len(scene.objects) for scene in scenes)
    assert confusing["object_recall"] == confusing["object_precision"] == pytest.approx(1 - wrong, abs=1e-4)
    assert 0.05 < wrong < 0.15
    assert inventing["object_recall"] == 1.0
    assert 0.97 < inventing["object_precision"] < 1.0
    empty = [s for s in scenes if s.pattern == "dotted" and not any((t.row, t.column) == (1, 1) for t in s.objects)]
    assert inventing["hallucinating"] == pytest.approx(len(empty) / len(scenes), abs=1e-4)
    brief = scores["instructblip_caption"]
    assert 0.8 < brief["object_precision"] < 0.95
    assert 0.7 < brief["object_recall"] < 0.95
    assert "size_accuracy" not in brief, "it says none"
    counts = [scores[name]["sub_captions"] for name in ("instructblip_caption", "llava_caption", "sharegpt4v_caption")]
    assert counts == sorted(counts)


def test_mentions_of_a_text_without_shapes() -> None:
    assert mentions("The image shows a dog. It is raining.") == []


GOLDEN = "33f4c6e7cdbe1b6c"
