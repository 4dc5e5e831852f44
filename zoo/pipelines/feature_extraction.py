"""Feature extraction: a text as a vector, near to those of texts that mean the same."""

from typing import Any

from torch import Tensor
from torch.nn import functional as F

from zoo.errors import ConfigError
from zoo.pipelines.reading import EncoderPipeline, Row


class FeatureExtraction(EncoderPipeline):
    """`model("A joy.")` gives a vector (D,) of length 1, so that products are cosines.

    It is the mean of the vectors of the text's tokens, those that mark its ends too, as sentence
    encoders are trained (Reimers & Gurevych 2019, arXiv:1908.10084, section 3). The module must
    have `hidden(ids, real)`, which gives them. Of a text that is too long the beginning is read.
    """

    task = "feature-extraction"
    heads = ("none", "classification", "token-classification", "masked-language")

    def compute(self, ids: Tensor, real: Tensor) -> Tensor:
        """Means over real tokens (B, D)."""
        if hasattr(self.module, "prompt_embeddings"):
            raise ConfigError(
                "A prefix or a prompt was learned for the head alone: take the vectors of a text "
                "from the model without its adapter"
            )
        hidden: Tensor = self.module.hidden(ids, real)  # type: ignore[operator]
        weights = real.unsqueeze(-1).to(hidden.dtype)  # (B, T, 1)
        return (hidden * weights).sum(1) / weights.sum(1)

    def answer(self, row: Row, output: Tensor, **_: Any) -> Any:
        """The vector, at length 1."""
        return F.normalize(output, dim=-1)
