"""Text classification: a text, and which label it has."""

from typing import TYPE_CHECKING, Any

from torch import Tensor

from zoo.pipelines.reading import EncoderPipeline, Row, last_tokens

if TYPE_CHECKING:
    from zoo.model import Model


class TextClassification(EncoderPipeline):
    """`model("A joy.")` gives `{"label": "positive", "score": 0.98}`.

    With `top_k=3` the three most likely labels in a list, best first; with `top_k=None` all. Of a
    text that is too long the first quarter of what fits and the last three are read.
    """

    task = "text-classification"
    heads = ("classification",)
    options = ("top_k",)

    def __init__(self, model: "Model") -> None:
        super().__init__(model)
        self.last = last_tokens(self.config.max_seq_len)

    def answer(self, row: Row, output: Tensor, *, top_k: int | None = 1, **_: Any) -> Any:
        """The best label and its probability, or the best `top_k`."""
        scores, order = output.softmax(-1).sort(descending=True)  # (L,)
        ranked = [
            {"label": self.config.labels[index], "score": score}
            for index, score in zip(order.tolist(), scores.tolist(), strict=True)
        ]
        return ranked[0] if top_k == 1 else ranked[:top_k]
