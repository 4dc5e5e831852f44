"""The token version of WikiText-2: 2,088,628, 217,646 and 245,569 words with line ends."""

from functools import cache

from zoo.data import from_hub, local_file
from zoo.tasks import LanguageModeling, SpanCorruption

REVISION = "b08601e04326c79dfdd32d625aee71d232d685c3"


class WikiText2(LanguageModeling):
    """Each line's words with one space between them, and a line end."""

    def text(self, split: str) -> str:
        """The text of "train", "validation" or "test"."""
        return read(split)


class WikiText2Spans(SpanCorruption):
    """Each line that has words is a text: a paragraph, or a heading."""

    def texts(self, split: str) -> list[str]:
        """The texts of "train", "validation" or "test"."""
        return [line for line in read(split).split("\n") if line]


@cache
def read(split: str) -> str:
    """The text of a split, from `TXZOO_DATA` or the Hub."""
    name = "valid" if split == "validation" else split
    path = local_file(f"wikitext-2/{name}.txt")
    if path is not None:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    else:
        rows = from_hub("Salesforce/wikitext", name="wikitext-2-v1", split=split, revision=REVISION)
        lines = rows["text"]
    return "".join(" ".join(line.split()) + "\n" for line in lines)
