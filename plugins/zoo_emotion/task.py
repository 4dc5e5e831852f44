"""Messages of one sentence or two with the emotion they were tagged with: 16,000, 2,000, 2,000."""

from functools import cache

from zoo.data import from_hub, local_file
from zoo.tasks import TextClassification

REVISION = "cab853a1dbdf4c42c2b3ef2173804746df8825fe"
SMALL = 2000  # messages


class Emotion(TextClassification):
    """Lower case, without punctuation, as published."""

    labels = ("sadness", "joy", "love", "anger", "fear", "surprise")

    def examples(self, split: str) -> tuple[list[str], list[int]]:
        """The messages of a split and their emotions."""
        rows = read(split)
        return [text for text, _ in rows], [label for _, label in rows]


class EmotionSmall(Emotion):
    """A small part to learn from, the same to be measured on."""

    def examples(self, split: str) -> tuple[list[str], list[int]]:
        """As in `Emotion`, but the first 2,000 messages of the training split."""
        texts, labels = super().examples(split)
        return (texts[:SMALL], labels[:SMALL]) if split == "train" else (texts, labels)


@cache
def read(split: str) -> list[tuple[str, int]]:
    """Text and label of each message, from `TXZOO_DATA` or the Hub."""
    name = "val" if split == "validation" else split
    path = local_file(f"emotion/{name}.txt")
    if path is None:
        found = from_hub("dair-ai/emotion", name="split", split=split, revision=REVISION)
        return [(row["text"], int(row["label"])) for row in found]
    lines = path.read_text(encoding="utf-8").splitlines()[1:]  # the first one names the columns
    pairs = [line.rsplit(";", 1) for line in lines if line]
    return [(text, Emotion.labels.index(label)) for text, label in pairs]
