"""Token classification: a text, and a label for each of its tokens."""

from typing import Any

from torch import Tensor

from zoo.pipelines.reading import EncoderPipeline, Row


class TokenClassification(EncoderPipeline):
    """`model("Ada wrote")` gives a list, one entry a token, in the order of the text.

    Each is `{"entity": label, "score": ..., "word": "Ada", "start": 0, "end": 3}`, start and end in
    characters. Of a text that is too long the beginning is read.
    """

    task = "token-classification"
    heads = ("token-classification",)

    def answer(self, row: Row, output: Tensor, **_: Any) -> Any:
        """The best label of each token that stands for text."""
        scores, best = output[: len(row.ids)].softmax(-1).max(-1)  # (T,)
        found = zip(row.offsets, row.special, best.tolist(), scores.tolist(), strict=True)
        return [
            {
                "entity": self.config.labels[label],
                "score": score,
                "word": row.text[start:end],
                "start": start,
                "end": end,
            }
            for (start, end), special, label, score in found
            if not special
        ]
