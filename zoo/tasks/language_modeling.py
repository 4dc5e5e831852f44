"""Language modelling on running text: batches, loss, and perplexity with its standard error."""

import math
from abc import abstractmethod
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.errors import InputError, TrainingError
from zoo.nn.loss import cross_entropy
from zoo.tasks.base import BaseTask
from zoo.tokenization import build_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from zoo.model import Model


class LanguageModeling(BaseTask):
    """A text to be continued, split by split. A subclass says how to read one.

    Attributes:
        start: what stands before a text, so that its first token too is predicted from something.
        unit: rows of training text begin at multiples of so many tokens.
    """

    start = "\n"
    unit = 1
    loss_of_tokens = True

    @abstractmethod
    def text(self, split: str) -> str:
        """The running text of a split."""

    def tokenizer_text(self) -> str:
        """What the tokenizer is trained on: the training split, unless a task says otherwise."""
        return self.text("train")

    def words(self, text: str) -> int:
        """How many words a text has, each line end counted as one."""
        return len(text.split()) + text.count("\n")

    def build_tokenizer(self, settings: Mapping[str, Any]) -> "Tokenizer":
        """A tokenizer trained on `tokenizer_text`."""
        return build_tokenizer(self.tokenizer_text(), settings)

    def batches(
        self, tokenizer: "Tokenizer", *, length: int, batch_tokens: int, seed: int
    ) -> "TokenBatches":
        """Rows cut from the training text, in an order drawn anew for each epoch."""
        ids = tokenizer.encode(self.start + self.text("train")).ids
        rows = max(1, batch_tokens // length)
        return TokenBatches(torch.tensor(ids), length=length, rows=rows, seed=seed, unit=self.unit)

    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean cross-entropy of the next token, in nats."""
        logits = module(batch["ids"])  # (B, T, V)
        return cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())

    def evaluate(
        self, model: "Model", split: str, *, limit: int | None = None, context: int | None = None
    ) -> dict[str, float]:
        """Perplexity per token and per word, bits per character, next-token accuracy."""
        text = self.text(split)
        if model.tokenizer is None:
            raise InputError(f"{model.name} has no tokenizer, so it cannot read a text")
        encoding = model.tokenizer.encode(self.start + text)
        ids = torch.tensor(encoding.ids)
        if limit is not None and limit + 1 < len(ids):
            ids = ids[: limit + 1]
            text = text[: encoding.offsets[limit][1] - len(self.start)]
        context = context or model.config.max_seq_len
        nats, correct = token_scores(model.module, ids, context)
        return perplexities(nats, correct, context, words=self.words(text), characters=len(text))


class TokenBatches:
    """Rows of `length` tokens, each with the same row one token later as its targets.

    Epoch e starts at an offset and takes the rows in an order, both drawn from (seed, e): a pure
    function of the step, which is what lets a killed run go on exactly.

    Args:
        ids: the training text (N,).
        length: T.
        rows: B.
        seed: of the order.
        unit: an epoch's offset is a multiple of it.

    Raises:
        TrainingError: the text is shorter than one batch.
    """

    def __init__(self, ids: Tensor, *, length: int, rows: int, seed: int, unit: int = 1) -> None:
        self.ids, self.length, self.rows, self.seed = ids, length, rows, seed
        self.unit = unit
        self.per_epoch = (len(ids) - length) // (length * rows)
        if self.per_epoch < 1:
            raise TrainingError(
                f"{len(ids)} training tokens are too few for a batch of {rows} rows of {length} "
                f"tokens and a random start: lower batch_tokens or max_seq_len"
            )
        self._epoch = -1

    def __call__(self, step: int) -> dict[str, Tensor]:
        """The batch of a step: `ids` and `targets`, each (B, T)."""
        epoch, index = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            generator = np.random.default_rng([self.seed, epoch])
            offset = int(generator.integers(max(1, self.length // self.unit))) * self.unit
            count = (len(self.ids) - 1 - offset) // self.length
            self._starts = torch.from_numpy(generator.permutation(count)) * self.length + offset
            self._epoch = epoch
        starts = self._starts[index * self.rows : (index + 1) * self.rows]  # (B,)
        columns = starts[:, None] + self._columns  # (B, T + 1)
        window = self.ids[columns]
        return {"ids": window[:, :-1], "targets": window[:, 1:]}

    @cached_property
    def _columns(self) -> Tensor:
        return torch.arange(self.length + 1)


@torch.inference_mode()
def token_scores(module: nn.Module, ids: Tensor, context: int) -> tuple[Tensor, Tensor]:
    """How well each token is predicted from what stands before it.

    The model reads windows of `context` tokens that overlap by half, and each token is scored
    once, in the first window that holds it: with at least half a window before it, but for the
    first ones.

    Args:
        module: a decoder, in eval mode.
        ids: the text (N + 1,); its first token is only read.
        context: window length in tokens.

    Returns:
        Negative log-likelihood in nats (N,), in float64, and whether the most likely token was the
        right one (N,). Where a window's loss is not finite, the tokens it scores are NaN.
    """
    stride = max(1, context // 2)
    N = len(ids) - 1
    starts = list(range(0, max(1, N - context + stride), stride))
    starts = [min(start, max(0, N - context)) for start in starts]
    device = next(module.parameters()).device
    nats = torch.empty(N, dtype=torch.float64)
    correct = torch.empty(N, dtype=torch.bool)
    scored = 0
    rows = max(1, 2048 // context)
    for first in range(0, len(starts), rows):
        group = starts[first : first + rows]
        T = min(context, N)
        window = torch.stack([ids[start : start + T] for start in group]).to(device)  # (B, T)
        keep = max(0, T - stride) if first else 0  # no later row is scored before this column
        logits = module(window)[:, keep:].float()  # (B, T - keep, V)
        targets = torch.stack([ids[start + 1 : start + 1 + T] for start in group])[:, keep:]
        targets = targets.to(device)
        losses = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), reduction="none"
        ).view_as(targets)
        hits = logits.argmax(-1) == targets
        for row, start in enumerate(group):
            new = start + T - scored  # tokens of this window that no window scored before
            found = losses[row, -new:].double().cpu()
            nats[scored : start + T] = found if found.isfinite().all() else math.nan
            correct[scored : start + T] = hits[row, -new:].cpu()
            scored = start + T
    return nats, correct


def perplexities(
    nats: Tensor, correct: Tensor, context: int, *, words: int, characters: int
) -> dict[str, float]:
    """The four metrics of a text from its tokens' scores.

    A standard error is that of a mean over blocks of `context` tokens, since neighbouring tokens
    are not independent; for a perplexity it is carried through the exponential. What is too large
    for a number is infinite. Tokens without a finite score are left out, and counted as
    `skipped_tokens`, as if those that are left stood for them.
    """
    N, valid = len(nats), nats.isfinite()
    nats, correct = nats[valid], correct[valid]
    left = len(nats)
    total = nats.sum() * (N / left) if left else torch.tensor(math.nan, dtype=nats.dtype)
    per_token, per_word = nats.mean(), total / words
    error = _error_of_mean(nats, context)
    accuracy = correct.double()
    scores = {
        "perplexity_per_word": per_word.exp(),
        "perplexity_per_word_stderr": per_word.exp() * error * N / words,
        "perplexity_per_token": per_token.exp(),
        "perplexity_per_token_stderr": per_token.exp() * error,
        "bits_per_character": total / characters / math.log(2),
        "bits_per_character_stderr": error * N / characters / math.log(2),
        "accuracy": accuracy.mean(),
        "accuracy_stderr": _error_of_mean(accuracy, context),
    }
    skipped = {"skipped_tokens": N - left} if left < N else {}
    return {name: value.item() for name, value in scores.items()} | skipped


def _error_of_mean(values: Tensor, block: int) -> Tensor:
    """Standard error of the mean of correlated values, from the means of blocks; NaN of one."""
    if len(values) < 2:
        return torch.tensor(math.nan)
    block = min(block, len(values) // 2)
    means = values[: len(values) // block * block].view(-1, block).mean(dim=1)
    return means.std() / math.sqrt(len(means))
