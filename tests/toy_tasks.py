"""Tasks that need no data."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from zoo.tasks import Captioning, MaskedLanguageModeling, TextClassification, Translation


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
    """One to six numerals into German."""

    splits = ("train", "test")

    def pairs(self, split: str) -> tuple[Sequence[str], Sequence[str]]:
        """So many that a model learns each numeral."""
        generator = np.random.default_rng(len(split))
        drawn = [
            generator.integers(6, size=1 + n % 6) for n in range(600 if split == "train" else 24)
        ]
        return (
            [" ".join(ENGLISH[int(place)] for place in places) for places in drawn],
            [" ".join(GERMAN[int(place)] for place in places) for places in drawn],
        )


class Paints:
    """Pictures of one colour, bright or dark."""

    colours = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}
    shades = {"bright": 1.0, "dark": 0.5}

    def __init__(self, count: int, seed: int) -> None:
        self.count, self.seed = count, seed

    def __len__(self) -> int:
        return self.count

    def attributes(self, place: int) -> dict[str, str]:
        """Its colour and its shade."""
        colour, shade = list(self.colours)[place % 3], list(self.shades)[place // 3 % 2]
        return {"colour": colour, "shade": shade}

    def __call__(self, places: Sequence[int], size: int) -> Tensor:
        """Pictures as uint8 (B, 3, S, S), with a little noise."""
        found = []
        for place in places:
            said = self.attributes(place)
            paint = np.array(self.colours[said["colour"]]) * self.shades[said["shade"]]
            noise = np.random.default_rng([self.seed, place]).integers(-20, 21, (size, size, 3))
            found.append((paint + noise).clip(0, 255).astype(np.uint8))
        return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2)

    def caption(self, place: int, draw: int) -> str:
        """In one of two ways."""
        return self.references(place)[draw % 2]

    def references(self, place: int) -> Sequence[str]:
        """Both ways."""
        shade, colour = (self.attributes(place)[name] for name in ("shade", "colour"))
        return [f"a {shade} {colour} picture", f"this picture is {colour} and {shade}"]


class PaintCaptions(Captioning):
    """Those pictures in words."""

    splits = ("train", "test")
    attributes = ("colour", "shade")
    drawn = True

    def pictures(self, split: str) -> Paints:
        """Sixty pictures to learn from, twelve others to be measured on."""
        return Paints(60, 1) if split == "train" else Paints(12, 2)

    def described(self, caption: str) -> dict[str, str]:
        """The colour and the shade that it names."""
        words = caption.split()
        kinds = {"colour": Paints.colours, "shade": Paints.shades}
        return {kind: word for word in words for kind, known in kinds.items() if word in known}
