"""Sums, one a line."""

from random import Random

from zoo.tasks import LanguageModeling

LINES = {"train": 4000, "validation": 200, "test": 500}


class Sums(LanguageModeling):
    """Each split is drawn with its own seed, so it is always the same text."""

    def text(self, split):
        random = Random(f"sums {split}")
        pairs = [(random.randrange(100), random.randrange(100)) for _ in range(LINES[split])]
        return "".join(f"{a} + {b} = {a + b}\n" for a, b in pairs)
