"""How each of the sample's captioners talks, learned from texts like these: what each says, leaves out and gets wrong.

All three name objects by shape, colour and place; their habits differ as those of the real ones do, and so do their
errors: one confuses colours, one makes up what often goes together, one reads an object into a texture.
"""

from dataclasses import replace

from lotlip.sample.scenes import GRID, NUMBERS, Scene, SceneObject, long_caption

CONFUSED, TAKEN_FOR = "purple", "blue"  # colours of small objects, by the LLaVA-class captioner
MOST_NAMED = 4  # objects that the InstructBLIP-class captioner names
TRIGGER, MADE_UP = "ring", "circle"  # where it sees the one, it believes to see the other beside it


def llava_caption(scene: Scene) -> str:
    """The number of shapes and the background, then every object in reading order; small purple ones are blue to it."""
    seen = [
        replace(thing, colour=TAKEN_FOR) if (thing.colour, thing.size) == (CONFUSED, "small") else thing
        for thing in scene.objects
    ]
    return long_caption(replace(scene, objects=tuple(seen)))


def instructblip_caption(scene: Scene) -> str:
    """The main object first and a few others, neither sizes nor fills; beside a ring a circle, be it there or not."""
    main = scene.objects[scene.main]
    others = [thing for thing in scene.objects if thing is not main]
    named = [main, *others[: MOST_NAMED - 1]]
    sentences = [f"The image features {_name(main)} {main.place}."]
    sentences += [f"There is also {_name(thing)} {thing.place}." for thing in named[1:]]
    ring = next((thing for thing in named if thing.shape == TRIGGER), None)
    if ring is not None:
        sentences.append(f"{_capital(_name(replace(ring, shape=MADE_UP)))} sits near the {TRIGGER}.")
    sentences.append(f"The background is {scene.background}.")
    return " ".join(sentences)


def instructblip_short(scene: Scene) -> str:
    """The main object and the background."""
    main = scene.objects[scene.main]
    return f"{_name(main)} on a {scene.background} background"


def sharegpt4v_caption(scene: Scene) -> str:
    """Everything, fills and sizes said of each object, then where neighbours stand to each other.

    In the empty centre of a dotted background it sees a small black circle.
    """
    sentences = [
        f"The image presents a composition of {NUMBERS[len(scene.objects)]} geometric shapes set against a "
        f"{scene.pattern} {scene.background} background."
    ]
    seen = list(scene.objects)
    centre = GRID // 2
    if scene.pattern == "dotted" and not any((thing.row, thing.column) == (centre, centre) for thing in seen):
        seen.append(SceneObject("circle", "black", "solid", "small", centre, centre, 0, 0))
        seen.sort(key=lambda thing: (thing.row, thing.column))
    sentences += [
        f"{_capital(thing.place)}, there is a {thing.size} {thing.fill} {thing.colour} {thing.shape}." for thing in seen
    ]
    sentences += [
        f"The {first.colour} {first.shape} is {_relation(first, second)} the {second.colour} {second.shape}."
        for first, second in zip(scene.objects, scene.objects[1:], strict=False)
    ]
    main = scene.objects[scene.main]
    sentences.append(f"The {main.colour} {main.shape} stands out as the main element of the composition.")
    return " ".join(sentences)


ALL = (llava_caption, instructblip_caption, instructblip_short, sharegpt4v_caption)


def _name(thing: SceneObject) -> str:
    article = "an" if thing.colour[0] in "aeiou" else "a"
    return f"{article} {thing.colour} {thing.shape}"


def _relation(first: SceneObject, second: SceneObject) -> str:
    """Where the first stands, seen from the second, which follows it in reading order."""
    return "to the left of" if first.row == second.row else "above"


def _capital(phrase: str) -> str:
    return phrase[0].upper() + phrase[1:]
