"""Masked-language modelling: some tokens of a text are hidden, and the model says what they were.

Devlin et al. 2019, arXiv:1810.04805, section 3.1, with other tokens hidden each time a text comes
(Liu et al. 2019, "RoBERTa", arXiv:1907.11692, section 4.1).

Letters: B batch, T length, V vocabulary, N hidden tokens.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.nn.loss import IGNORED, cross_entropy
from zoo.pipelines.fill_mask import FillMask, mask_of
from zoo.pipelines.reading import Ids, Reader, by_length, pad
from zoo.tasks.base import BaseTask
from zoo.tasks.classification import LengthBatches
from zoo.tokenization import build_tokenizer, mark_texts, pad_id_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from zoo.model import Model

HIDDEN = 0.15  # of the tokens
MASKED, SWAPPED = 0.8, 0.1  # of the hidden: shown as the mask, as any token; the rest as they are


class MaskedLanguageModeling(BaseTask):
    """Texts to fill in. A subclass says how to read a split.

    The module is called as `module(ids, real, where)`, each (B, T), and gives the logits (N, V) of
    the N tokens at which `where` is True, in reading order: those of the others cost as much as the
    whole encoder of a small model, and nobody reads them.
    """

    @abstractmethod
    def texts(self, split: str) -> Sequence[str]:
        """The texts of a split."""

    def build_tokenizer(self, settings: Mapping[str, Any]) -> "Tokenizer":
        """A tokenizer trained on the training split, with tokens that begin texts and hide."""
        tokenizer = build_tokenizer("\n".join(self.texts("train")), settings)
        mark_texts(tokenizer)
        return tokenizer

    def config(self, tokenizer: "Tokenizer") -> dict[str, Any]:
        """The head that names tokens, and the token that stands for padding."""
        return {"head": "masked-language", "pad_id": pad_id_of(tokenizer)}

    def batches(
        self, tokenizer: "Tokenizer", *, length: int, batch_tokens: int, seed: int
    ) -> "MaskedBatches":
        """The training texts, cut into pieces of `length`, in an order drawn for each epoch."""
        return MaskedBatches(
            Reader(tokenizer, length).pieces(self.texts("train")),
            tokenizer,
            rows=max(1, batch_tokens // length),
            seed=seed,
        )

    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean cross-entropy of the hidden tokens, in nats."""
        where = batch["targets"] != IGNORED
        return cross_entropy(
            module(batch["ids"], batch["real"], where=where), batch["targets"][where]
        )

    @torch.inference_mode()
    def evaluate(
        self, model: "Model", split: str, *, limit: int | None = None, context: int | None = None
    ) -> dict[str, float]:
        """Accuracy and perplexity of hidden tokens, the same ones each time; `limit` counts texts.

        The standard errors are those of a ratio of sums over pieces of text (Cochran 1977,
        "Sampling Techniques", eq. 2.46), for tokens of one text are not independent.
        """
        pipeline = FillMask(model)
        length = min(context or model.config.max_seq_len, model.config.max_seq_len)
        rows = Reader(pipeline.tokenizer, length).pieces(self.texts(split)[:limit])
        hide = Hiding(pipeline.tokenizer)
        found = []
        for batch, places in enumerate(by_length([len(row) for row in rows])):
            ids, real = pad([rows[place] for place in places], pad_id_of(pipeline.tokenizer))
            shown, targets = hide(ids, real, [0, batch])
            where = targets != IGNORED
            logits = model.module(
                shown.to(model.device), real.to(model.device), where=where.to(model.device)
            ).float()
            right = targets[where]
            nats = nn.functional.cross_entropy(logits.cpu(), right, reduction="none")
            hits = (logits.argmax(-1).cpu() == right).float()
            owner = where.nonzero()[:, 0]
            sums = torch.zeros(len(ids), 3, dtype=torch.float64)
            columns = torch.stack([torch.ones_like(nats), nats, hits], 1).double()
            found.append(sums.index_add_(0, owner, columns))
        count, nats, hits = torch.cat(found).numpy().T
        loss, loss_error = ratio(nats, count)
        accuracy, accuracy_error = ratio(hits, count)
        perplexity = math.exp(min(loss, 700.0))
        return {
            "masked_accuracy": accuracy,
            "masked_accuracy_stderr": accuracy_error,
            "masked_perplexity": perplexity,
            "masked_perplexity_stderr": perplexity * loss_error,
        }


class Hiding:
    """Hides tokens of a batch.

    Args:
        tokenizer: has a mask; its special tokens are never hidden, and never stand for others.
    """

    def __init__(self, tokenizer: "Tokenizer") -> None:
        self.mask_id: int = tokenizer.token_to_id(mask_of(tokenizer))  # type: ignore[assignment]
        self.size = tokenizer.get_vocab_size()
        added = tokenizer.get_added_tokens_decoder()
        special = [token for token, entry in added.items() if entry.special]
        self.special = torch.tensor(special, dtype=torch.long)
        ordinary = np.setdiff1d(np.arange(self.size), special)
        self.ordinary = torch.from_numpy(ordinary)

    def __call__(self, ids: Tensor, real: Tensor, seed: Sequence[int]) -> tuple[Tensor, Tensor]:
        """What is shown, and what was there.

        Args:
            ids: token ids (B, T).
            real: True where a token is no padding (B, T).
            seed: of the draw.

        Returns:
            The ids with hidden ones replaced, and the targets: the id where one is hidden,
            `IGNORED` elsewhere; both (B, T). At least one token is hidden.
        """
        generator = np.random.default_rng(seed)
        draw, fate = torch.from_numpy(generator.random((2, *ids.shape)))
        others = self.ordinary[
            torch.from_numpy(generator.integers(len(self.ordinary), size=tuple(ids.shape)))
        ]
        may = real & ~torch.isin(ids, self.special)
        draw = draw.masked_fill(~may, 2.0)
        hidden = draw < HIDDEN
        if not hidden.any():
            hidden.view(-1)[draw.view(-1).argmin()] = True
        shown = ids.where(~hidden | (fate >= MASKED + SWAPPED), others)
        shown = shown.masked_fill(hidden & (fate < MASKED), self.mask_id)
        return shown, ids.masked_fill(~hidden, IGNORED)


class MaskedBatches(LengthBatches):
    """Batches of pieces of text with hidden tokens: a pure function of the step.

    Args:
        pieces: token ids of each.
        tokenizer: as in `Hiding`.
        rows: B.
        seed: of the order, and of what is hidden.

    Raises:
        TrainingError: fewer than one batch of pieces.
    """

    def __init__(
        self, pieces: Sequence[Ids], tokenizer: "Tokenizer", *, rows: int, seed: int
    ) -> None:
        super().__init__([len(piece) for piece in pieces], rows=rows, seed=seed)
        self.pieces, self.pad_id, self.hide = pieces, pad_id_of(tokenizer), Hiding(tokenizer)

    def __call__(self, step: int) -> dict[str, Tensor]:
        """The batch of a step: `ids`, `real` and `targets`, each (B, T)."""
        ids, real = pad([self.pieces[place] for place in self.places(step)], self.pad_id)
        shown, targets = self.hide(ids, real, [self.seed, step])
        return {"ids": shown, "real": real, "targets": targets}


def ratio(values: Any, counts: Any) -> tuple[float, float]:
    """The ratio of two sums over texts, and its standard error; NaN of fewer than two texts."""
    mean = float(values.sum() / counts.sum())
    n = len(counts)
    if n < 2:
        return mean, math.nan
    spread = float(((values - mean * counts) ** 2).sum()) * n / (n - 1)
    return mean, math.sqrt(spread) / float(counts.sum())
