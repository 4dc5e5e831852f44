"""Tasks that need no data."""

from collections.abc import Sequence

import numpy as np

from zoo.tasks import MaskedLanguageModeling, TextClassification


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
