"""Tasks that need no data."""

from collections.abc import Sequence

import numpy as np

from zoo.tasks import MaskedLanguageModeling, TextClassification, Translation


class Colours(TextClassification):
    """Which of three colours a text names."""

    splits = ("train", "test")
    labels = ("red", "green", "blue")

    def examples(self, split: str) -> tuple[Sequence[str], Sequence[int]]:
        """Forty texts of three to nine words."""
        generator = np.random.default_rng(len(split))
        labels = [index % 3 for index in range(40)]
        fill = [["the sea", "a leaf or two", "one"][int(i)] for i in generator.integers(3, size=40)]
        texts = [
            f"{word} is {self.labels[label]}" for word, label in zip(fill, labels, strict=True)
        ]
        return texts, labels


class ColoursHidden(MaskedLanguageModeling):
    """The same texts, to be filled in."""

    splits = ("train", "test")

    def texts(self, split: str) -> Sequence[str]:
        """The texts without their labels."""
        return Colours().examples(split)[0]


ENGLISH = ("one", "two", "three", "four", "five", "six")
GERMAN = ("eins", "zwei", "drei", "vier", "fünf", "sechs")


class Numerals(Translation):
    """One to four numerals into German."""

    splits = ("train", "test")

    def pairs(self, split: str) -> tuple[Sequence[str], Sequence[str]]:
        """So many that a model learns each numeral."""
        generator = np.random.default_rng(len(split))
        drawn = [
            generator.integers(6, size=1 + n % 4) for n in range(200 if split == "train" else 20)
        ]
        return (
            [" ".join(ENGLISH[int(place)] for place in places) for places in drawn],
            [" ".join(GERMAN[int(place)] for place in places) for places in drawn],
        )
