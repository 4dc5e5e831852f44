"""Tiny Shakespeare as nanoGPT splits it: the first nine tenths to learn from, the rest unseen."""

from functools import cache

from zoo.data import from_hub, local_file
from zoo.errors import UnknownNameError
from zoo.tasks import LanguageModeling

REVISION = "refs/convert/parquet"


class TinyShakespeare(LanguageModeling):
    """Two splits, as published: "train" and "validation"."""

    splits = ("train", "validation")
    test_splits = ("validation",)

    def text(self, split: str) -> str:
        """The text of "train" or "validation"."""
        if split not in self.splits:
            raise UnknownNameError("split of tinyshakespeare", split, self.splits)
        text = read()
        border = int(0.9 * len(text))
        return text[:border] if split == "train" else text[border:]


@cache
def read() -> str:
    """All plays, from `TXZOO_DATA` or the Hub."""
    path = local_file("tinyshakespeare/input.txt")
    if path is not None:
        return path.read_text(encoding="utf-8")
    parts = ("train", "validation", "test")
    rows = [
        from_hub("karpathy/tiny_shakespeare", split=part, revision=REVISION)["text"]
        for part in parts
    ]
    return "".join(text for part in rows for text in part)
