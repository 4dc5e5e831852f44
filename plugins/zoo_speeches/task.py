"""Sentences from speeches of Obama, G. W. Bush and G. H. W. Bush: 1,553 for training, 250 a test.

The data as published have no validation split, and the published figures are trained on all 1,553.
So is this task; the settings of its recipes were chosen with the last 155 sentences held out.
"""

from functools import cache

from zoo.data import require_file
from zoo.tasks import LanguageModeling

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


@cache
def read(name: str) -> list[str]:
    """The lines of a file of the set, from `TXZOO_DATA`; the set is not on the Hub."""
    path = require_file(f"speeches/{name}", "The speeches data set")
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
