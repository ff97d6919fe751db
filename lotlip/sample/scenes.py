"""The embedded sample's world: drawn scenes of a few shapes, and every text about them.

A scene is a background and 3 to 6 objects on a 3 x 3 grid. One of them, the main object, is what a web page's
alt text would name; the reference description names all of them. Everything follows from (seed, index) alone.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from PIL import Image, ImageDraw

SIZE = 96  # pixels, width and height of an image
GRID = 3
CELL = SIZE // GRID

COLOURS = {
    "red": (205, 35, 40),
    "orange": (245, 135, 25),
    "yellow": (240, 205, 30),
    "green": (35, 145, 60),
    "blue": (35, 75, 200),
    "purple": (125, 45, 160),
    "brown": (120, 72, 35),
    "black": (22, 22, 22),
}
BACKGROUNDS = {"white": (250, 250, 250), "gray": (178, 180, 182), "pink": (250, 205, 215), "sky": (175, 215, 245)}
PATTERNS = ("plain", "checkered", "dotted")
SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross", "ring", "heart")
FILLS = ("solid", "striped")
SIZES = {"small": 21, "large": 30}  # pixels across

# Web alt texts and human descriptions choose among words; the captioners use the first one.
SHAPE_WORDS = {
    "circle": ("circle", "disc"),
    "square": ("square", "box"),
    "triangle": ("triangle", "wedge"),
    "diamond": ("diamond", "rhombus"),
    "star": ("star", "pentagram"),
    "cross": ("cross", "plus sign"),
    "ring": ("ring", "hoop"),
    "heart": ("heart", "valentine"),
}
COLOUR_WORDS = {
    "red": ("red", "scarlet"),
    "orange": ("orange", "amber"),
    "yellow": ("yellow", "golden"),
    "green": ("green", "emerald"),
    "blue": ("blue", "navy"),
    "purple": ("purple", "violet"),
    "brown": ("brown", "chestnut"),
    "black": ("black", "jet"),
}
SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
NUMBERS = {3: "three", 4: "four", 5: "five", 6: "six"}
PLACES = (
    ("in the top left corner", "at the top", "in the top right corner"),
    ("on the left", "in the center", "on the right"),
    ("in the bottom left corner", "at the bottom", "in the bottom right corner"),
)

CLASS_NAMES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
RAW_FORMS = ("{}", "the {}", "picture of {}", "{} clipart", "free vector {}")
CLASS_TEMPLATES = RAW_FORMS


@dataclass(frozen=True)
class SceneObject:
    """One shape: what it is, and its cell (row 0 is the top, column 0 the left)."""

    shape: str
    colour: str
    fill: str
    size: str
    row: int
    column: int
    dx: int
    dy: int

    @property
    def place(self) -> str:
        return PLACES[self.row][self.column]


@dataclass(frozen=True)
class Scene:
    """A background and its objects in reading order; `main` is the index of the salient one."""

    seed: int
    index: int
    background: str
    pattern: str
    objects: tuple[SceneObject, ...]
    main: int


def make_scene(seed: int, index: int) -> Scene:
    """The scene of that seed and index, the same on every machine."""
    rng = random.Random(f"scene/{seed}/{index}")
    cells = sorted(rng.sample(range(GRID * GRID), rng.randint(3, 6)))
    main = rng.randrange(len(cells))
    objects = []
    for i, cell in enumerate(cells):
        size = "large" if i == main or rng.random() < 0.1 else "small"
        slack = min(3, (CELL - SIZES[size]) // 2)
        objects.append(
            SceneObject(
                rng.choice(SHAPES),
                rng.choice(tuple(COLOURS)),
                rng.choice(FILLS),
                size,
                *divmod(cell, GRID),
                rng.randint(-slack, slack),
                rng.randint(-slack, slack),
            )
        )
    return Scene(seed, index, rng.choice(tuple(BACKGROUNDS)), rng.choice(PATTERNS), tuple(objects), main)


def render(scene: Scene) -> Image.Image:
    """Draw a scene as an RGB image of SIZE x SIZE pixels."""
    image = _background(scene.background, scene.pattern).copy()
    for thing in scene.objects:
        width = SIZES[thing.size]
        left = thing.column * CELL + (CELL - width) // 2 + thing.dx
        top = thing.row * CELL + (CELL - width) // 2 + thing.dy
        image.paste(COLOURS[thing.colour], (left, top), _mask(thing.shape, thing.fill, width))
    return image


def raw_caption(scene: Scene) -> str:
    """A web alt text: it names the main object and now and then the background, in a page author's words."""
    rng = _text_rng("raw", scene)
    thing = scene.objects[scene.main]
    name = f"{rng.choice(COLOUR_WORDS[thing.colour])} {rng.choice(SHAPE_WORDS[thing.shape])}"
    if rng.random() < 0.3:
        name = f"striped {name}" if thing.fill == "striped" else f"big {name}"
    background = f" on {scene.background} background" if rng.random() < 0.4 else ""
    return rng.choice(RAW_FORMS).format(name) + background


def long_caption(scene: Scene) -> str:
    """What a perfect captioner of the sample would say: the background, then every object in reading order."""
    sentences = [
        f"The image shows {NUMBERS[len(scene.objects)]} shapes on a {scene.pattern} {scene.background} background."
    ]
    sentences += [
        f"There is a {thing.size} {_fill(thing)}{thing.colour} {thing.shape} {thing.place}." for thing in scene.objects
    ]
    return " ".join(sentences)


def reference_description(scene: Scene) -> str:
    """A human's description for evaluation: complete, in other words and another order than the captioners'."""
    rng = _text_rng("reference", scene)
    main = scene.objects[scene.main]
    others = [thing for thing in scene.objects if thing is not main]
    rng.shuffle(others)
    sentences = [f"A {_describe(main, rng)} stands out {main.place}."]
    for thing in others:
        form = rng.choice(("{} can be seen {}.", "{1} lies {0}.", "one finds {} {}."))
        sentence = form.format(_a(_describe(thing, rng)), thing.place)
        sentences.append(sentence[0].upper() + sentence[1:])
    pattern = "" if scene.pattern == "plain" else f"{scene.pattern} "
    sentences.append(f"Behind the {NUMBERS[len(scene.objects)]} shapes the background is {pattern}{scene.background}.")
    return " ".join(sentences)


def short_captions(scene: Scene) -> tuple[str, ...]:
    """Five short captions by different people: all name the main object, each with another detail."""
    rng = _text_rng("short", scene)
    main = scene.objects[scene.main]
    second = rng.choice([thing for thing in scene.objects if thing is not main])
    names = [_name(main, rng) for _ in range(5)]
    return (
        f"{_a(names[0])} on {scene.background} background",
        f"a {main.size} {names[1]} {main.place}",
        f"{_a(names[2])} and {_a(_name(second, rng))}",
        f"{NUMBERS[len(scene.objects)]} shapes with {_a(names[3])} {main.place}",
        f"{_a(_fill(main) + names[4])} and {_a(_name(second, rng))} {second.place}",
    )


def class_label(scene: Scene) -> int:
    """Index into CLASS_NAMES of the main object's colour and shape."""
    main = scene.objects[scene.main]
    return list(COLOURS).index(main.colour) * len(SHAPES) + SHAPES.index(main.shape)


def _text_rng(purpose: str, scene: Scene) -> random.Random:
    return random.Random(f"{purpose}/{scene.seed}/{scene.index}")


def _name(thing: SceneObject, rng: random.Random) -> str:
    return f"{rng.choice(COLOUR_WORDS[thing.colour])} {rng.choice(SHAPE_WORDS[thing.shape])}"


def _describe(thing: SceneObject, rng: random.Random) -> str:
    return f"{rng.choice(SIZE_WORDS[thing.size])} {_fill(thing)}{_name(thing, rng)}"


def _fill(thing: SceneObject) -> str:
    return "striped " if thing.fill == "striped" else ""


def _a(phrase: str) -> str:
    return f"an {phrase}" if phrase[0] in "aeiou" else f"a {phrase}"


@lru_cache
def _background(colour: str, pattern: str) -> Image.Image:
    red, green, blue = BACKGROUNDS[colour]
    image = Image.new("RGB", (SIZE, SIZE), (red, green, blue))
    darker = (red - 22, green - 22, blue - 22)
    draw = ImageDraw.Draw(image)
    step = 8
    for y in range(0, SIZE, step):
        for x in range(0, SIZE, step):
            if pattern == "checkered" and (x + y) // step % 2:
                draw.rectangle((x, y, x + step - 1, y + step - 1), fill=darker)
            if pattern == "dotted":
                draw.rectangle((x + 3, y + 3, x + 4, y + 4), fill=darker)
    return image


@lru_cache
def _mask(shape: str, fill: str, width: int) -> Image.Image:
    """Coverage of a shape, 0 to 255, drawn eight times larger and averaged down; stripes are gaps."""
    scale = 8
    full = width * scale
    mask = Image.new("L", (full, full), 0)
    _DRAW[shape](ImageDraw.Draw(mask), full)
    if fill == "striped":
        gap = 2 * scale
        draw = ImageDraw.Draw(mask)
        for y in range(gap, full, 5 * scale // 2 * 2):
            draw.rectangle((0, y, full, y + gap - 1), fill=0)
    return mask.resize((width, width), Image.Resampling.BOX)


def _polygon(points: tuple[tuple[float, float], ...]) -> Callable[[Any, int], None]:
    def draw(canvas: Any, full: int) -> None:
        canvas.polygon([(x * full, y * full) for x, y in points], fill=255)

    return draw


def _ring(canvas: Any, full: int) -> None:
    canvas.ellipse((0, 0, full - 1, full - 1), fill=255)
    hole = full * 3 // 10
    canvas.ellipse((hole, hole, full - 1 - hole, full - 1 - hole), fill=0)


def _heart(canvas: Any, full: int) -> None:
    canvas.ellipse((0, full * 0.05, full * 0.54, full * 0.59), fill=255)
    canvas.ellipse((full * 0.46, full * 0.05, full - 1, full * 0.59), fill=255)
    canvas.polygon([(full * 0.04, full * 0.44), (full * 0.96, full * 0.44), (full * 0.5, full * 0.98)], fill=255)


_STAR = (
    (0.5, 0.0), (0.62, 0.36), (1.0, 0.37), (0.69, 0.6), (0.81, 0.97),
    (0.5, 0.75), (0.19, 0.97), (0.31, 0.6), (0.0, 0.37), (0.38, 0.36),
)  # fmt: skip
_CROSS = (
    (0.34, 0.0), (0.66, 0.0), (0.66, 0.34), (1.0, 0.34), (1.0, 0.66), (0.66, 0.66),
    (0.66, 1.0), (0.34, 1.0), (0.34, 0.66), (0.0, 0.66), (0.0, 0.34), (0.34, 0.34),
)  # fmt: skip
_DRAW: dict[str, Callable[[Any, int], None]] = {
    "circle": lambda canvas, full: canvas.ellipse((0, 0, full - 1, full - 1), fill=255),
    "square": _polygon(((0.06, 0.06), (0.94, 0.06), (0.94, 0.94), (0.06, 0.94))),
    "triangle": _polygon(((0.5, 0.03), (1.0, 0.95), (0.0, 0.95))),
    "diamond": _polygon(((0.5, 0.0), (0.95, 0.5), (0.5, 1.0), (0.05, 0.5))),
    "star": _polygon(_STAR),
    "cross": _polygon(_CROSS),
    "ring": _ring,
    "heart": _heart,
}
