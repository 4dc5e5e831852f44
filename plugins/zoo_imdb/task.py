"""The Large Movie Review Dataset: 25,000 reviews for training, as many to test.

As published there is no validation split, and published figures are trained on all 25,000. So is
this task: choose settings with a part of them held out.
"""

import gzip
import json
import random
from collections.abc import Mapping
from functools import cache
from typing import Any

from zoo.data import from_hub, local_file
from zoo.errors import RecipeError
from zoo.evaluation.baseline import Tfidf
from zoo.tasks import MaskedLanguageModeling, TextClassification
from zoo.tasks.classification import Label

REVISION = "e6281661ce1c48d982bc483cf8a173c1bbeb5d31"
HELD_OUT, SMALL = 1000, 2000  # reviews


class Imdb(TextClassification):
    """Whole reviews; a line break of the page is one of the text.

    Attributes:
        objective: `unlabelled`, how many of the 50,000 reviews without a label are learned from
            too. What is learned of them is how likely each label is to TF-IDF with logistic
            regression, which has learned from the training split.
    """

    splits = ("train", "test")
    labels = ("negative", "positive")
    objective: Mapping[str, Any] = {"unlabelled": 0}

    def training_examples(self) -> tuple[list[str], list[Label]]:
        """The training split, and as many reviews without a label as the objective says."""
        texts, labels = self.examples("train")
        if not (count := self.objective["unlabelled"]):
            return texts, [*labels]
        found = [text for text, _ in read("unsupervised")]
        if count not in range(1, len(found) + 1):
            raise RecipeError(
                f"[objective] unlabelled must be a whole number from 0 to {len(found)}, got {count}"
            )
        found = found[: int(count)]
        likely = Tfidf(texts, labels)(found, len(self.labels)).tolist()
        return [*texts, *found], [*labels, *likely]

    def examples(self, split: str) -> tuple[list[str], list[int]]:
        """The reviews of a split, in an order drawn once, since the files have them by label."""
        rows = read(split)
        return [text for text, _ in rows], [label for _, label in rows]


class ImdbSmall(Imdb):
    """A small part to learn from, the same to be measured on."""

    def examples(self, split: str) -> tuple[list[str], list[int]]:
        """As in `Imdb`, but the first 2,000 reviews of the training split."""
        texts, labels = super().examples(split)
        return (texts[:SMALL], labels[:SMALL]) if split == "train" else (texts, labels)


class ImdbUnlabelled(MaskedLanguageModeling):
    """The reviews of the training split, and 50,000 that have no label, 1,000 of them held out."""

    def texts(self, split: str) -> list[str]:
        """The reviews of a split, in an order drawn once."""
        if split == "test":
            return [text for text, _ in read("test")]
        unlabelled = [text for text, _ in read("unsupervised")]
        if split == "validation":
            return unlabelled[:HELD_OUT]
        return [text for text, _ in read("train")] + unlabelled[HELD_OUT:]


@cache
def read(split: str) -> list[tuple[str, int]]:
    """Text and label of each review, from `TXZOO_DATA` or the Hub."""
    path = local_file(f"imdb/{'unsup' if split == 'unsupervised' else split}.jsonl.gz")
    if path is not None:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            found = [json.loads(line) for line in file]
    else:
        found = list(from_hub("stanfordnlp/imdb", split=split, revision=REVISION))
    rows = [(row["text"].replace("<br />", "\n"), int(row.get("label", -1))) for row in found]
    rows.sort()  # whatever order they came in, the drawn one is the same
    random.Random(0).shuffle(rows)
    return rows
