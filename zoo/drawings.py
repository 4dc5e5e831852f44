"""Small pictures to try models with, drawn here: they are nobody's photographs."""

from collections.abc import Callable

from PIL import Image, ImageDraw

SIDE = 128  # pixels
FINE = 4  # drawn so many times as large, then made smaller: smooth edges
SKY, SEA, GRASS, ROAD, WALL = "#a9cfee", "#2c6ca0", "#7fae55", "#8a8a8a", "#d9c9a8"

Pen = ImageDraw.ImageDraw


def ship(pen: Pen) -> None:
    """A freighter, its bow on the right."""
    _ground(pen, SKY, SEA, 78)
    _shape(pen, "#7a1f1f", (12, 70, 118, 70, 104, 94, 24, 94))
    _box(pen, "white", 28, 48, 56, 70)
    _box(pen, "#f2a33a", 62, 58, 78, 70)
    _box(pen, "#3f7f5f", 80, 54, 98, 70)
    _box(pen, "#222222", 38, 34, 46, 48)


def airplane(pen: Pen) -> None:
    """An airliner, seen from the side."""
    _box(pen, SKY, 0, 0, 128, 128)
    pen.ellipse(_fine(14, 54, 116, 74), fill="#f4f4f6")
    _shape(pen, "#d8dbe2", (54, 62, 78, 62, 46, 100, 36, 100))
    _shape(pen, "#c7ccd6", (60, 58, 74, 58, 62, 34, 54, 34))
    _shape(pen, "#2b5c9e", (16, 62, 34, 58, 16, 34, 8, 34))
    for x in range(44, 100, 8):
        _box(pen, "#4a5a70", x, 60, x + 4, 64)


def truck(pen: Pen) -> None:
    """A lorry on a road."""
    _ground(pen, SKY, ROAD, 96)
    _box(pen, "#e9e4da", 8, 38, 82, 90)
    _box(pen, "#c23b2e", 84, 54, 118, 90)
    _box(pen, "#bfe0f2", 98, 58, 116, 72)
    for x in (18, 40, 92):
        pen.ellipse(_fine(x, 80, x + 20, 100), fill="#222222")
        pen.ellipse(_fine(x + 7, 87, x + 13, 93), fill="#aaaaaa")


def frog(pen: Pen) -> None:
    """A frog that looks at whoever looks at it."""
    _ground(pen, "#cfe3b4", "#5f8f3e", 100)
    for x in (12, 88):
        pen.ellipse(_fine(x, 72, x + 28, 108), fill="#3f8a2f")
    pen.ellipse(_fine(24, 44, 104, 108), fill="#58ad3f")
    pen.ellipse(_fine(38, 66, 90, 106), fill="#a6d68a")
    for x in (32, 72):
        pen.ellipse(_fine(x, 28, x + 24, 56), fill="#58ad3f")
        pen.ellipse(_fine(x + 5, 33, x + 19, 50), fill="#f6e27a")
        pen.ellipse(_fine(x + 9, 36, x + 15, 48), fill="#181818")
    pen.arc(_fine(40, 52, 88, 84), 20, 160, fill="#24551a", width=2 * FINE)


def cat(pen: Pen) -> None:
    """A cat's face."""
    _box(pen, WALL, 0, 0, 128, 128)
    _shape(pen, "#6b6b73", (26, 20, 58, 44, 30, 64))
    _shape(pen, "#6b6b73", (102, 20, 70, 44, 98, 64))
    pen.ellipse(_fine(24, 34, 104, 112), fill="#7d7d86")
    for x in (40, 72):
        pen.ellipse(_fine(x, 56, x + 18, 76), fill="#b7d957")
        pen.ellipse(_fine(x + 6, 56, x + 12, 76), fill="#151515")
    _shape(pen, "#d98a93", (58, 82, 70, 82, 64, 90))
    for y in (84, 92):
        pen.line(_fine(12, y - 4, 50, y), fill="#eeeeee", width=FINE)
        pen.line(_fine(78, y, 116, y - 4), fill="#eeeeee", width=FINE)


def horse(pen: Pen) -> None:
    """A horse on a meadow."""
    _ground(pen, SKY, GRASS, 92)
    for x in (36, 48, 78, 90):
        _box(pen, "#5b3a1e", x, 72, x + 8, 112)
    pen.ellipse(_fine(28, 48, 104, 84), fill="#7a4e28")
    _shape(pen, "#7a4e28", (84, 56, 104, 62, 116, 26, 102, 20))
    _shape(pen, "#7a4e28", (100, 20, 124, 38, 120, 46, 98, 36))
    _shape(pen, "#2e1c0d", (84, 54, 92, 54, 106, 18, 98, 18))
    _shape(pen, "#2e1c0d", (34, 54, 22, 90, 16, 88, 28, 52))


DRAWN: dict[str, Callable[[Pen], None]] = {
    one.__name__: one for one in (ship, airplane, truck, frog, cat, horse)
}


def drawing(name: str) -> Image.Image:
    """One of `DRAWN`, `SIDE` pixels a side."""
    image = Image.new("RGB", (SIDE * FINE, SIDE * FINE))
    DRAWN[name](ImageDraw.Draw(image))
    return image.resize((SIDE, SIDE), Image.Resampling.LANCZOS)


def _fine(*places: float) -> list[float]:
    return [place * FINE for place in places]


def _shape(pen: Pen, colour: str, corners: tuple[float, ...]) -> None:
    pen.polygon(_fine(*corners), fill=colour)


def _box(pen: Pen, colour: str, *corners: float) -> None:
    pen.rectangle(_fine(*corners), fill=colour)


def _ground(pen: Pen, above: str, below: str, line: float) -> None:
    _box(pen, above, 0, 0, SIDE, line)
    _box(pen, below, 0, line, SIDE, SIDE)
