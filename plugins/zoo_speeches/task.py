"""Sentences from speeches of Obama, G. W. Bush and G. H. W. Bush: 1,553 for training, 250 a test.

The data as published have no validation split: the last 155 training sentences serve as one, and
training does without them.
"""

from functools import cache

from zoo.data import require_file
from zoo.tasks import LanguageModeling

FILES = {
    "train": "train_LM.txt",
    "validation": "train_LM.txt",
    "test-obama": "test_LM_obama.txt",
    "test-wbush": "test_LM_wbush.txt",
    "test-hbush": "test_LM_hbush.txt",
}
HELD_OUT = 155


class Speeches(LanguageModeling):
    """Sentences one after another, without line ends, as the published figures count them."""

    start = ". "

    splits = tuple(FILES)
    test_splits = tuple(FILES)[2:]

    def text(self, split: str) -> str:
        """The sentences of a split, a space between them."""
        sentences = read(FILES[split])
        if split == "train":
            sentences = sentences[:-HELD_OUT]
        elif split == "validation":
            sentences = sentences[-HELD_OUT:]
        return " ".join(sentences)

    def tokenizer_text(self) -> str:
        """All training sentences, those of the classification task of the same data too.

        The published vocabulary counts both.
        """
        labelled = [line.split("\t", 1)[1] for line in read("train_CLS.tsv")]
        return " ".join([self.text("train"), *labelled])


@cache
def read(name: str) -> list[str]:
    """The lines of a file of the set, from `TXZOO_DATA`; the set is not on the Hub."""
    path = require_file(f"speeches/{name}", "The speeches data set")
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
