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
    """One sentence a line."""

    splits = tuple(FILES)
    test_splits = tuple(FILES)[2:]

    def text(self, split: str) -> str:
        """The sentences of a split, one a line."""
        text = read(FILES[split])
        if split not in ("train", "validation"):
            return text
        lines = text.splitlines(keepends=True)
        return "".join(lines[:-HELD_OUT] if split == "train" else lines[-HELD_OUT:])

    def tokenizer_text(self) -> str:
        """All training sentences, those of the classification task of the same data too.

        The published vocabulary counts both.
        """
        labelled = read("train_CLS.tsv").splitlines()
        return self.text("train") + "\n".join(line.split("\t", 1)[1] for line in labelled) + "\n"


@cache
def read(name: str) -> str:
    """A file of the set, from `TXZOO_DATA`; the set is not on the Hub."""
    text = require_file(f"speeches/{name}", "The speeches data set").read_text(encoding="utf-8")
    return text.strip() + "\n"
