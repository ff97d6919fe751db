"""What a caption of a scene gets right, by the scene's ground truth: objects found, objects made up."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lotlip.sample.scenes import COLOURS, FILLS, PLACES, SHAPES, SIZES, Scene
from lotlip.text.subcaptions import split_sub_captions

_PLACE_WORDS = [place for row in PLACES for place in row]


@dataclass(frozen=True)
class Mention:
    """An object as a sub-caption names it; None stands for what it does not say."""

    shape: str
    colour: str | None
    fill: str
    size: str | None
    place: str | None


def mentions(text: str) -> list[Mention]:
    """The objects that a caption names: sub-captions with the name of a shape."""
    found = []
    for sub_caption in split_sub_captions(text):
        words = re.findall(r"[a-z]+", sub_caption.lower())
        shape = _first(words, SHAPES)
        if shape is not None:
            fill = FILLS[1] if FILLS[1] in words else FILLS[0]
            place = next((place for place in _PLACE_WORDS if place in sub_caption.lower()), None)
            found.append(Mention(shape, _first(words, COLOURS), fill, _first(words, SIZES), place))
    return found


def object_scores(truth: Sequence[Scene], texts: Sequence[str]) -> dict[str, float]:
    """Precision and recall of objects over captions, and how often a found object's other attributes are right.

    An object is found when a mention has its shape, colour and place; a mention counts for one object only.
    Shares are in 0..1; `sub_captions` and `objects_named` are means a caption.
    """
    named = present = found = fills = sizes = 0
    for scene, text in zip(truth, texts, strict=True):
        left = mentions(text)
        named += len(left)
        present += len(scene.objects)
        for thing in scene.objects:
            key = (thing.shape, thing.colour, thing.place)
            match = next((item for item in left if (item.shape, item.colour, item.place) == key), None)
            if match is not None:
                left.remove(match)
                found += 1
                fills += match.fill == thing.fill
                sizes += match.size == thing.size
    return {
        "captions": len(texts),
        "object_precision": round(found / max(named, 1), 4),
        "object_recall": round(found / max(present, 1), 4),
        "fill_accuracy": round(fills / max(found, 1), 4),
        "size_accuracy": round(sizes / max(found, 1), 4),
        "objects_named": round(named / max(len(texts), 1), 2),
        "sub_captions": round(sum(len(split_sub_captions(text)) for text in texts) / max(len(texts), 1), 2),
    }


def _first(words: Sequence[str], names: Iterable[str]) -> str | None:
    known = set(names)
    return next((word for word in words if word in known), None)
