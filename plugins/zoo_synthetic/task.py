"""Lines of numbers that follow a pattern, named by the first word of the line.

A line is a pattern's name, `NUMBERS` numbers from 0 to `MODULUS - 1`, and a line end. The pattern
and its first few numbers are drawn evenly; everything after them is determined. So the best
reachable accuracy is known exactly, without a model: `reachable_accuracy`.
"""

from collections.abc import Callable, Iterator
from functools import cache
from itertools import cycle, islice
from random import Random
from typing import TYPE_CHECKING

from zoo.tasks import LanguageModeling

if TYPE_CHECKING:
    from zoo.model import Model

NUMBERS = 62
MODULUS = 20
LINES = {"train": 8000, "validation": 200, "test": 1000}


def count(free: list[int]) -> Iterator[int]:
    """a, b, then the same step again and again: 3 7 11 15 ..."""
    value, step = free[0], free[1] - free[0]
    while True:
        yield value
        value = (value + step) % MODULUS


def fibonacci(free: list[int]) -> Iterator[int]:
    """Each number is the sum of the two before it: 2 5 7 12 19 11 ..."""
    a, b = free
    while True:
        yield a
        a, b = b, (a + b) % MODULUS


def zigzag(free: list[int]) -> Iterator[int]:
    """Two counters in turn, one going up and one going down: 4 9 5 8 6 7 ..."""
    up, down = free
    while True:
        yield up
        yield down
        up, down = (up + 1) % MODULUS, (down - 1) % MODULUS


def repeat(free: list[int]) -> Iterator[int]:
    """The same numbers over and over."""
    return cycle(free)


def mirror(free: list[int]) -> Iterator[int]:
    """The numbers, then backwards, then forwards again."""
    return cycle([*free, *reversed(free)])


# name: what continues the free numbers, and how many of those there are
PATTERNS: dict[str, tuple[Callable[[list[int]], Iterator[int]], int]] = {
    "count": (count, 2),
    "fibonacci": (fibonacci, 2),
    "zigzag": (zigzag, 2),
    "triple": (repeat, 3),
    "quintuple": (repeat, 5),
    "mirror": (mirror, 6),
}


def line(random: Random) -> str:
    """One line, its pattern and free numbers drawn evenly."""
    name = random.choice(list(PATTERNS))
    pattern, n_free = PATTERNS[name]
    free = [random.randrange(MODULUS) for _ in range(n_free)]
    return f"{name} {' '.join(map(str, islice(pattern(free), NUMBERS)))}\n"


def reachable_accuracy() -> float:
    """Expected next-token accuracy of one who knows the patterns.

    The name is right once in len(PATTERNS) times, a free number once in MODULUS times, everything
    else (the line end too) always.
    """
    n_free = sum(n for _, n in PATTERNS.values()) / len(PATTERNS)
    right = 1 / len(PATTERNS) + n_free / MODULUS + (NUMBERS - n_free) + 1
    return right / (NUMBERS + 2)


class Synthetic(LanguageModeling):
    """The patterns as text; every split has its own seed.

    Lines are read from their first word, with nothing before it.
    """

    start = ""
    unit = NUMBERS + 2  # a name, the numbers, a line end: every row begins at a line

    def text(self, split: str) -> str:
        """The lines of a split, always the same."""
        return generate(split)

    def evaluate(
        self, model: "Model", split: str, *, limit: int | None = None, context: int | None = None
    ) -> dict[str, float]:
        """The metrics of a text, and the accuracy as a share of the reachable one."""
        scores = super().evaluate(model, split, limit=limit, context=context)
        reachable = reachable_accuracy()
        scores["accuracy_of_reachable"] = scores["accuracy"] / reachable
        scores["accuracy_of_reachable_stderr"] = scores["accuracy_stderr"] / reachable
        return scores


@cache
def generate(split: str) -> str:
    """The text of a split."""
    random = Random(f"synthetic {split}")
    return "".join(line(random) for _ in range(LINES[split]))
