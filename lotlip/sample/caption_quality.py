"""What a caption of a scene gets right, by the scene's ground truth: objects found, objects made up."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from lotlip.sample.scenes import COLOURS, FILLS, PLACES, SHAPES, SIZES, Scene, SceneObject
from lotlip.text.subcaptions import split_sub_captions

_PLACE_WORDS = [place for row in PLACES for place in row]


@dataclass(frozen=True)
class Mention:
    """An object as a sub-caption names it; None stands for what it does not say."""

    shape: str
    colour: str | None
    fill: str | None
    size: str | None
    place: str | None

    def fits(self, thing: SceneObject) -> bool:
        """Whether all that says which object it is (shape, colour, place) is true of `thing`."""
        same = (self.shape == thing.shape, self.colour in (None, thing.colour), self.place in (None, thing.place))
        return all(same)


def mentions(text: str) -> list[Mention]:
    """The objects that a caption names, one for every name of a shape.

    Colour, fill and size are the words before it, after the shape before; a place belongs to a sub-caption that
    names one shape.
    """
    found = []
    for sub_caption in split_sub_captions(text):
        words = re.findall(r"[a-z]+", sub_caption.lower())
        at = [i for i, word in enumerate(words) if word in SHAPES]
        place = next((place for place in _PLACE_WORDS if place in sub_caption.lower()), None)
        for before, i in zip([-1, *at], at, strict=False):
            said = words[before + 1 : i]
            colour, fill, size = (_first(said, names) for names in (COLOURS, FILLS, SIZES))
            found.append(Mention(words[i], colour, fill, size, place if len(at) == 1 else None))
    return found


def made_up(scene: Scene, text: str) -> list[Mention]:
    """The mentions of a caption that fit no object of the scene."""
    return [each for each in mentions(text) if not any(each.fits(thing) for thing in scene.objects)]


def caption_scores(truth: Sequence[Scene], texts: Sequence[str]) -> dict[str, float]:
    """Precision and recall of objects over captions, and how often a found object's other attributes are right.

    A mention is right if an object of the scene fits it. An object is found when a mention says its shape, colour and
    place; each mention finds one. Fill and size count where a caption says them. Shares are in 0..1; `sub_captions`
    and `mentions` are means a caption, `hallucinating` is the share of captions with a mention that fits nothing.
    """
    named = right = present = found = hallucinating = 0
    said: dict[str, list[bool]] = {"fill": [], "size": []}
    for scene, text in zip(truth, texts, strict=True):
        left = mentions(text)
        wrong = len(made_up(scene, text))
        named, right, present = named + len(left), right + len(left) - wrong, present + len(scene.objects)
        hallucinating += wrong > 0
        for thing in scene.objects:
            key = (thing.shape, thing.colour, thing.place)
            match = next((item for item in left if (item.shape, item.colour, item.place) == key), None)
            if match is not None:
                left.remove(match)
                found += 1
                said["fill"] += [match.fill == thing.fill] if match.fill else []
                said["size"] += [match.size == thing.size] if match.size else []
    return {
        "captions": len(texts),
        "object_precision": round(right / max(named, 1), 4),
        "object_recall": round(found / max(present, 1), 4),
        **{f"{name}_accuracy": round(sum(hits) / len(hits), 4) for name, hits in said.items() if hits},
        "hallucinating": round(hallucinating / max(len(texts), 1), 4),
        "mentions": round(named / max(len(texts), 1), 2),
        "sub_captions": round(sum(len(split_sub_captions(text)) for text in texts) / max(len(texts), 1), 2),
    }


def _first(words: Sequence[str], names: Iterable[str]) -> str | None:
    known = set(names)
    return next((word for word in words if word in known), None)
