"""Vectors of texts from what a language model learned about its tokens, where there is no encoder.

Sources: Arora, Liang & Ma 2017, "A Simple but Tough-to-Beat Baseline for Sentence Embeddings": a
mean in which frequent tokens count little. Mu & Viswanath 2018, arXiv:1702.01417: the directions
that all tokens share say nothing.

Differences: how frequent a token is follows from its place in the vocabulary by Zipf's law, since a
trained tokenizer lists the frequent ones first; every direction is scaled to the same spread, where
the papers take the strongest away.

Letters: N tokens of a text, V vocabulary, D width.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zoo.errors import InputError
from zoo.pipelines import tokenizer_of
from zoo.pipelines.reading import Reader

if TYPE_CHECKING:
    from zoo.model import Model

BYTES = 256  # byte pairs come behind the single bytes, which are letters and signs
HALF = 1e-3  # the share of a text at which a token counts half
NO_END = 1 << 30  # a mean has no positions: it takes a text of any length


class TokenVectors:
    """`vectors(["A text."])` gives a vector (D,) of length 1 for each text.

    Args:
        model: a language model; of its matrices with a row for each token the last is taken, which
            says what a token is predicted from.

    Raises:
        InputError: the model has no tokenizer, or no such matrix.
    """

    def __init__(self, model: "Model") -> None:
        tokenizer = tokenizer_of(model)
        self.read = Reader(tokenizer, NO_END, prefix=" ")  # the first word as any other
        V = model.config.vocab_size
        tables = [p for p in model.module.parameters() if p.ndim == 2 and len(p) == V]
        if not tables:
            raise InputError(f"{model.name} has no vectors of tokens to read texts with")
        table = tables[-1].detach().float().cpu()  # (V, D)
        table = table - table.mean(0)
        spread, directions = torch.linalg.eigh(table.T @ table / V)  # (D,), (D, D)
        table = table @ directions / spread.clamp(min=1e-12).sqrt()
        first = BYTES if type(tokenizer.model).__name__ == "BPE" else 0
        rank = (torch.arange(V) - first + 1).clamp(min=1)
        share = 1 / (rank * math.log(V))
        self.table = table * (HALF / (HALF + share)).unsqueeze(1)

    def reader(self) -> Reader:
        """Reads texts whole."""
        return self.read

    def __call__(self, texts: Sequence[str], **_: Any) -> list[Tensor]:
        """A vector for each text.

        Raises:
            InputError: a text is empty.
        """
        means = [self.table[row.ids].mean(0) for row in self.read(texts)]  # (N, D) to (D,)
        return [torch.nn.functional.normalize(mean, dim=0) for mean in means]
