"""Scenes: small drawings of one kind of thing, and captions that say what is to be seen.

A scene has a colour, a shape, a size, a count and a place. Nothing is stored: a scene, its drawing
and its captions follow from numbers alone.

Held out are eight of the 64 pairs of a colour and a shape, `UNSEEN`, such as every red triangle:
each colour and each shape stands in one of them, so a model has seen all words and all forms, and
never these together. No scene of "train" or "validation" shows one, no caption of theirs names one.

Splits:
    train: 50,000 scenes of the 56 other pairs.
    validation: 1,000 of them, from other draws.
    test: 2,000 scenes of the held-out pairs alone.
    test_seen: 2,000 of the 56 again, from other draws; to be compared with "test".

Letters: S pixels a side, N scenes.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

COLOURS = {  # red, green, blue
    "red": (214, 40, 40),
    "orange": (242, 132, 26),
    "yellow": (245, 218, 52),
    "green": (46, 150, 62),
    "blue": (44, 82, 214),
    "purple": (136, 50, 168),
    "black": (20, 20, 24),
    "white": (250, 250, 250),
}
SHAPES = {  # and what else they are called
    "circle": ("disc",),
    "square": ("box",),
    "triangle": (),
    "star": (),
    "cross": ("plus sign",),
    "diamond": ("rhombus",),
    "heart": (),
    "ring": ("hoop",),
}
SIZES = {"small": ("little", "tiny"), "large": ("big", "huge")}
COUNTS = ("one", "two", "three")
PLACES = {  # of one thing; where its middle is, as shares of the sides, and in words
    "left": ((-0.19, 0.0), ("on the left", "at the left", "on the left side")),
    "right": ((0.19, 0.0), ("on the right", "at the right", "on the right side")),
    "top": ((0.0, -0.19), ("at the top", "in the upper part")),
    "bottom": ((0.0, 0.19), ("at the bottom", "in the lower part")),
    "centre": ((0.0, 0.0), ("in the centre", "in the middle")),
}
ROWS = {  # how several things stand
    "row": ("in a row", "side by side"),
    "column": ("in a column", "one above the other"),
}
RADII = {"small": (0.16, 0.13, 0.105), "large": (0.29, 0.21, 0.155)}  # by count, of a side
UNSEEN = (
    ("red", "triangle"),
    ("orange", "heart"),
    ("yellow", "square"),
    ("green", "star"),
    ("blue", "ring"),
    ("purple", "cross"),
    ("black", "circle"),
    ("white", "diamond"),
)
SPLITS = {"train": 50_000, "validation": 1_000, "test": 2_000, "test_seen": 2_000}
LABELS = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
FINE = 4  # pixels a side are drawn for each one that is kept
LEADS = ("", "", "", "a drawing of ", "a picture of ", "there {are} ", "I see ", "you can see ")

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What is to be seen.

    Attributes:
        colour: a key of `COLOURS`.
        shape: a key of `SHAPES`.
        size: a key of `SIZES`.
        count: one of `COUNTS`.
        place: of one thing a key of `PLACES`, of several one of `ROWS`.
    """

    colour: str
    shape: str
    size: str
    count: str
    place: str

    @property
    def label(self) -> str:
        """Colour and shape: one of `LABELS`."""
        return f"{self.colour} {self.shape}"

    @property
    def unseen(self) -> bool:
        """Whether the pair of colour and shape is held out."""
        return (self.colour, self.shape) in UNSEEN

    @property
    def caption(self) -> str:
        """All of it in the plainest words: "two small red circles in a row"."""
        words = ROWS[self.place] if self.place in ROWS else PLACES[self.place][1]
        return f"{self._things(self.size, self.shape)} {words[0]}"

    def said(self, generator: np.random.Generator) -> str:
        """A caption in words that are drawn; size and place are left out at times."""

        def one_of(words: Sequence[str]) -> str:
            return words[int(generator.integers(len(words)))]

        size = "" if generator.random() < 0.25 else one_of((self.size, *SIZES[self.size]))
        usual = generator.random() < 0.7
        shape = self.shape if usual else one_of((self.shape, *SHAPES[self.shape]))
        things = self._things(size, shape)
        lead = one_of(LEADS).format(are="is" if self.count == "one" else "are")
        if generator.random() < 0.25:
            return lead + things
        words = ROWS[self.place] if self.place in ROWS else PLACES[self.place][1]
        where = one_of(words)
        if generator.random() < 0.15:
            return (
                f"{where} {lead or 'there is '}{things}"
                if self.count == "one"
                else (f"{lead}{things} , {where}")
            )
        return f"{lead}{things} {where}"

    def _things(self, size: str, shape: str) -> str:
        words = [word for word in (size, self.colour) if word]
        if self.count == "one":
            article = "an" if words[0][0] in "aeiou" else "a"
            return " ".join([article, *words, shape])
        return " ".join([self.count, *words, plural(shape)])


def plural(shape: str) -> str:
    """Several of a shape."""
    return f"{shape}es" if shape.endswith(("x", "s")) else f"{shape}s"


def described(caption: str) -> dict[str, str]:
    """What a caption says, by the attributes' names; what it leaves out is left out.

    It reads the words of `Scene.said` and `Scene.caption`, in whatever order.
    """
    text = " ".join(re.findall(r"[a-z]+", caption.lower()))
    places = {key: words for key, (_, words) in PLACES.items()}
    shapes = {
        key: tuple(form for word in (key, *others) for form in (word, plural(word)))
        for key, others in SHAPES.items()
    }
    kinds: dict[str, dict[str, tuple[str, ...]]] = {
        "colour": {key: (key,) for key in COLOURS},
        "shape": shapes,
        "size": {key: (key, *others) for key, others in SIZES.items()},
        "count": {"one": ("a", "an"), **{key: (key,) for key in COUNTS[1:]}},
        "place": places | ROWS,
    }
    found: dict[str, str] = {}
    stripped = re.sub(r"\ba (drawing|picture|row|column)\b|\bone above\b", r"\1", text)
    for kind, values in kinds.items():
        where = text if kind == "place" else stripped
        for value, words in values.items():
            if any(re.search(rf"\b{word}\b", where) for word in words):
                found.setdefault(kind, value)
    return found


@lru_cache(maxsize=1 << 16)
def scene(split: str, index: int) -> Scene:
    """A scene of a split: always the same one under a number."""
    return drawn(_generator(split, index), unseen=split == "test")


def drawn(generator: np.random.Generator, *, unseen: bool = False) -> Scene:
    """A scene by chance: of the held-out pairs of colour and shape, or of the others."""

    def one_of(values: Sequence[str]) -> str:
        return values[int(generator.integers(len(values)))]

    if unseen:
        colour, shape = UNSEEN[int(generator.integers(len(UNSEEN)))]
    else:
        colour, shape = one_of(list(COLOURS)), one_of(list(SHAPES))
        while (colour, shape) in UNSEEN:
            colour, shape = one_of(list(COLOURS)), one_of(list(SHAPES))
    count = one_of(COUNTS)
    place = one_of(list(PLACES if count == "one" else ROWS))
    return Scene(colour=colour, shape=shape, size=one_of(list(SIZES)), count=count, place=place)


def picture(split: str, index: int, size: int = 32) -> Pixels:
    """The drawing of a scene (S, S, 3): always the same one under a number."""
    generator = _generator(split, index)
    return draw(drawn(generator, unseen=split == "test"), generator, size)


def captions(split: str, index: int, draws: Sequence[int]) -> list[str]:
    """Captions of a scene: each number draws other words, and the same ones again."""
    found = scene(split, index)
    return [found.said(_generator(split, index, draw + 1)) for draw in draws]


def draw(scene: Scene, generator: np.random.Generator, size: int = 32) -> Pixels:
    """A scene as a picture (S, S, 3), on a background that varies, with smooth edges.

    Args:
        scene: what is to be seen.
        generator: of all that the scene leaves open: the background, the tint, small shifts.
        size: S.
    """
    mask = Image.new("L", (size * FINE, size * FINE))
    canvas = ImageDraw.Draw(mask)
    radius = RADII[scene.size][COUNTS.index(scene.count)] * generator.uniform(0.92, 1.06)
    for across, down in _middles(scene, generator):
        middle = (across * size * FINE, down * size * FINE)
        _shape(canvas, scene.shape, middle, radius * size * FINE, generator.uniform(-0.14, 0.14))
    cover = np.asarray(mask.reduce(FINE), dtype=np.float32)[..., None] / 255  # (S, S, 1)
    back = generator.uniform(105, 190) + generator.uniform(-14, 14, 3)
    slope = np.linspace(-1, 1, size, dtype=np.float32)
    shade = generator.uniform(-16, 16) * slope[:, None] + generator.uniform(-16, 16) * slope
    paint = np.array(COLOURS[scene.colour]) + generator.uniform(-12, 12, 3)
    ground = back + shade[..., None] + generator.normal(0, 2.5, (size, size, 1))
    pixels = cover * paint + (1 - cover) * ground
    found: Pixels = pixels.clip(0, 255).round().astype(np.uint8)
    return found


def _middles(scene: Scene, generator: np.random.Generator) -> list[tuple[float, float]]:
    """Where the things stand: shares of the sides, across and down."""
    count = COUNTS.index(scene.count) + 1
    if count == 1:
        (across, down), _ = PLACES[scene.place]
        shift = generator.uniform(-0.025, 0.025, 2)
        return [(0.5 + across + shift[0], 0.5 + down + shift[1])]
    line = 0.5 + generator.uniform(-0.12, 0.12)
    steps = [(place + 0.5) / count for place in range(count)]
    return [(step, line) if scene.place == "row" else (line, step) for step in steps]


def _shape(
    canvas: ImageDraw.ImageDraw,
    shape: str,
    middle: tuple[float, float],
    radius: float,
    angle: float,
) -> None:
    """Draw one thing into a mask; `angle` turns it, in radians."""

    def disc(share: float, fill: int, across: float = 0.0, down: float = 0.0) -> None:
        x, y, r = middle[0] + across * radius, middle[1] + down * radius, share * radius
        canvas.ellipse((x - r, y - r, x + r, y + r), fill=fill)

    def polygon(corners: Sequence[tuple[float, float]]) -> None:
        sine, cosine = math.sin(angle), math.cos(angle)
        turned = [
            (
                middle[0] + radius * (x * cosine - y * sine),
                middle[1] + radius * (x * sine + y * cosine),
            )
            for x, y in corners
        ]
        canvas.polygon(turned, fill=255)

    def regular(count: int, inner: float = 1.0) -> list[tuple[float, float]]:
        """Corners of a regular figure that points up; every second one at `inner`."""
        turns = [2 * math.pi * place / count for place in range(count)]
        far = [1.0 if place % 2 == 0 else inner for place in range(count)]
        return [(f * math.sin(t), -f * math.cos(t)) for f, t in zip(far, turns, strict=True)]

    if shape == "circle":
        disc(0.92, 255)
    elif shape == "ring":
        disc(1.0, 255)
        disc(0.56, 0)
    elif shape == "square":
        polygon([(-0.82, -0.82), (0.82, -0.82), (0.82, 0.82), (-0.82, 0.82)])
    elif shape == "triangle":
        polygon([(0.0, -0.95), (0.95, 0.8), (-0.95, 0.8)])
    elif shape == "star":
        polygon(regular(10, 0.42))
    elif shape == "diamond":
        polygon([(0.0, -1.05), (0.72, 0.0), (0.0, 1.05), (-0.72, 0.0)])
    elif shape == "cross":
        arm = 0.32
        polygon([(-arm, -1.0), (arm, -1.0), (arm, 1.0), (-arm, 1.0)])
        polygon([(-1.0, -arm), (1.0, -arm), (1.0, arm), (-1.0, arm)])
    else:  # a heart
        disc(0.52, 255, -0.46, -0.35)
        disc(0.52, 255, 0.46, -0.35)
        polygon([(-0.94, -0.12), (0.94, -0.12), (0.0, 1.0)])


def _generator(split: str, index: int, draw: int = 0) -> np.random.Generator:
    return np.random.default_rng([list(SPLITS).index(split), index, draw])
