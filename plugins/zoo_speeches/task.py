"""Sentences from speeches of Obama, G. W. Bush and G. H. W. Bush: 1,553 for training, 250 a test.

The data as published have no validation split, and the published figures are trained on all 1,553.
So is this task; the settings of its recipes were chosen with the last 155 sentences held out.
"""

from functools import cache

from zoo.data import require_file
from zoo.tasks import LanguageModeling, TextClassification

FILES = {
    "train": "train_LM.txt",
    "test-obama": "test_LM_obama.txt",
    "test-wbush": "test_LM_wbush.txt",
    "test-hbush": "test_LM_hbush.txt",
}


class Speeches(LanguageModeling):
    """Sentences one after another, without line ends, as the published figures count them."""

    start = ". "

    splits = tuple(FILES)
    test_splits = tuple(FILES)[1:]

    def text(self, split: str) -> str:
        """The sentences of a split, a space between them."""
        return " ".join(read(FILES[split]))

    def tokenizer_text(self) -> str:
        """All training sentences, those of the classification task of the same data too.

        The published vocabulary counts both.
        """
        labelled = [line.split("\t", 1)[1] for line in read("train_CLS.tsv")]
        return " ".join([self.text("train"), *labelled])


class Speakers(TextClassification):
    """Which president says a sentence: 2,092 for training, 750 to test, no validation split.

    551 of the 750 stand in the training split too, word for word and with the same label. So the
    score that is published for this set tells mostly how well a model remembers; "test-unseen" is
    the 199 others.
    """

    splits = ("train", "test", "test-unseen")
    test_splits = splits[1:]
    labels = ("obama", "wbush", "hbush")

    def examples(self, split: str) -> tuple[list[str], list[int]]:
        """The sentences of a split and their speakers."""
        rows = labelled("train" if split == "train" else "test")
        if split == "test-unseen":
            seen = {plain(text) for text, _ in labelled("train")}
            rows = [(text, label) for text, label in rows if plain(text) not in seen]
        return [text for text, _ in rows], [label for _, label in rows]


def labelled(split: str) -> list[tuple[str, int]]:
    """The sentences of a file and the places of their labels."""
    pairs = [line.split("\t", 1) for line in read(f"{split}_CLS.tsv")]
    return [(text, int(label)) for label, text in pairs]


def plain(text: str) -> str:
    """A sentence without what two copies of it may differ in: case and spaces."""
    return " ".join(text.lower().split())


@cache
def read(name: str) -> list[str]:
    """The lines of a file of the set, from `TXZOO_DATA`; the set is not on the Hub."""
    path = require_file(f"speeches/{name}", "The speeches data set")
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
