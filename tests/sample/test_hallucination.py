"""What agreement says of hallucination, by hand on drawn scenes."""

from collections.abc import Iterator

import pytest

from lotlip.sample.hallucination import Judged, judge, summarise
from lotlip.sample.scenes import make_scene


def judged() -> Iterator[Judged]:
    """Three captioners on 20 scenes: one names all, one adds what is not there, one leaves out the first object."""
    for index in range(20):
        scene = make_scene(9, index)
        names = [f"{thing.colour} {thing.shape}" for thing in scene.objects]
        absent = next(f"pink {shape}" for shape in ("cube",))
        named = {
            "whole": frozenset(names),
            "inventive": frozenset([*names, absent]),
            "brief": frozenset(names[1:]),
        }
        yield from judge(named, {"whole": 0.9, "inventive": 0.5, "brief": 0.8}, scene)


def test_unsupported_mentions_are_the_hallucinated_ones() -> None:
    summary = summarise(list(judged()))
    assert summary["captions"] == 60
    assert summary["by_support"]["0"] == {"mentions": 20, "hallucinated": 1.0}
    assert summary["by_support"]["1"]["hallucinated"] == 0.0
    assert summary["auc_support"] == 1.0
    assert summary["flagged"] == {"precision": 1.0, "recall": 1.0}
    assert summary["auc_similarity"] == 1.0
    shares = summary["captioners"]
    assert shares["whole"] == {"hallucinated": 0.0, "unsupported": 0.0, "objects_named": 1.0}
    assert shares["inventive"]["hallucinated"] == shares["inventive"]["unsupported"] > 0
    assert shares["brief"]["objects_named"] < 1.0
    said = sum(len({f"{t.colour} {t.shape}" for t in make_scene(9, i).objects}) for i in range(20))
    assert shares["inventive"]["hallucinated"] == round(20 / (said + 20), 4)


def test_a_captioner_without_others_is_still_judged() -> None:
    scene = make_scene(9, 0)
    names = frozenset(f"{thing.colour} {thing.shape}" for thing in scene.objects)
    summary = summarise(list(judge({"a": names | {"pink cube"}}, {"a": 0.1}, scene)))
    assert summary["captioners"]["a"]["hallucinated"] == round(1 / (len(names) + 1), 4)
    assert summary["captioners"]["a"]["objects_named"] == 1.0
    assert (summary["by_support"], summary["auc_support"]) == ({}, None)


def test_an_error_that_two_share_is_not_seen() -> None:
    scene = make_scene(9, 0)
    wrong = frozenset({"pink cube"})
    captions = list(judge({"a": wrong, "b": wrong, "c": frozenset()}, {"a": 0.1, "b": 0.1, "c": 0.1}, scene))
    summary = summarise(captions)
    assert summary["by_support"] == {"0.5": {"mentions": 2, "hallucinated": 1.0}}
    assert summary["flagged"] == {"precision": None, "recall": 0.0}
    assert summary["auc_support"] is None  # nothing true to compare with
    assert summary["hallucinated"] == pytest.approx(1.0)
