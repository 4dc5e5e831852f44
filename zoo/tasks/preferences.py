"""Preference tuning (DPO): answers that are wanted become likelier than others.

Source: Rafailov et al. 2023, "Direct Preference Optimization: Your Language Model is Secretly a
Reward Model", arXiv:2305.18290, eq. 7.

Letters: P pairs, B rows (twice P: the wanted answers, then the others), T length, V vocabulary.
"""

import math
import warnings
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.conversation import Messages, SharedToken, Template
from zoo.errors import InputError, RecipeError, TrainingError
from zoo.nn.loss import IGNORED
from zoo.pipelines import tokenizer_of
from zoo.tasks.instruction import (
    Conversational,
    Example,
    batch_of,
    response_nats,
    window_of,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from zoo.model import Model

Two = tuple[Example, Example]


@dataclass(frozen=True)
class Preference:
    """Two answers to one conversation.

    Attributes:
        asked: the messages before them.
        chosen: the one that is wanted.
        rejected: the other one.
    """

    asked: Messages
    chosen: str
    rejected: str

    def conversation(self, answer: str) -> Messages:
        """With an answer at its end."""
        return [*self.asked, {"role": "assistant", "content": answer}]


def dpo_loss(policy: Tensor, reference: Tensor, beta: float) -> Tensor:
    """Mean of -log sigmoid(beta * ((log p_w - log p_l) - (log r_w - log r_l))): eq. 7.

    Args:
        policy: log-probability of each answer under the model that learns, (P, 2), the wanted one
            first.
        reference: the same under the model that it began as, (P, 2).
        beta: how strongly it is held to that one.
    """
    ratios = policy - reference  # (P, 2)
    return -F.logsigmoid(beta * (ratios[:, 0] - ratios[:, 1])).mean()


def log_probabilities(logits: Tensor, targets: Tensor) -> Tensor:
    """The log-probability of each row's response, (B,).

    Args:
        logits: (B, T, V).
        targets: the right tokens, `IGNORED` where they are no part of a response, (B, T).
    """
    nats = F.cross_entropy(
        logits.float().transpose(1, 2), targets, ignore_index=IGNORED, reduction="none"
    )  # (B, T)
    return -nats.sum(dim=1)


class PreferenceTuning(Conversational):
    """Pairs of answers, split by split. A subclass says how to read one.

    A trained model is tuned; what it gives each answer before that is computed once, and is what
    the learning model is held to.

    Attributes:
        objective: `beta` of eq. 7, above 0, besides `template`.
    """

    objective: Mapping[str, Any] = {"template": "", "beta": 0.1}

    @abstractmethod
    def preferences(self, split: str) -> Sequence[Preference]:
        """The pairs of a split."""

    def set_objective(self, values: Mapping[str, Any]) -> None:
        """Take a recipe's [objective] table.

        Raises:
            RecipeError: as of any task, or a beta of 0 or below.
        """
        super().set_objective(values)
        if not 0 < (beta := self.objective["beta"]) < math.inf:
            raise RecipeError(f"[objective] beta must be a number above 0, got {beta}")

    def texts(self) -> Sequence[Messages]:
        """The wanted answers of the training split."""
        return [pair.conversation(pair.chosen) for pair in self.preferences("train")]

    def begin(self, base: "Model") -> None:
        """Take the template, and what the base gives each answer of the training split.

        Raises:
            TrainingError: no pair fits the base.

        Warns:
            UserWarning: some do not fit, and how many; they are left out.
        """
        super().begin(base)
        assert self.template is not None
        pairs = two_answers(
            self.template,
            tokenizer_of(base),
            self.preferences("train"),
            window_of(base, None),
            "training",
        )
        if not pairs:
            raise TrainingError(f"no training pair fits {base.name}: take a base that reads more")
        flat = [example for pair in pairs for example in pair]
        given = -response_nats(base, flat)[:, 0]
        self.pairs = list(zip(pairs, given.reshape(-1, 2).tolist(), strict=True))

    def batches(
        self, tokenizer: "Tokenizer", *, length: int, batch_tokens: int, seed: int
    ) -> "PreferenceBatches":
        """Pairs of the training split.

        Raises:
            TrainingError: there is no base, or no pair has at most `length` tokens.

        Warns:
            UserWarning: some have more, and how many; they are left out.
        """
        if not hasattr(self, "pairs"):
            raise TrainingError(
                "Preferences are learned by a trained model: give base and a [tuning] table, such "
                "as method = 'full'"
            )
        fit = [(pair, given) for pair, given in self.pairs if max(map(len, pair)) <= length]
        if not fit:
            raise TrainingError(f"no training pair has at most {length} tokens: raise max_seq_len")
        if longer := len(self.pairs) - len(fit):
            warnings.warn(
                f"{longer:,} of {len(self.pairs):,} training pairs have an answer of more than "
                f"{length} tokens: left out",
                stacklevel=2,
            )
        batches = PreferenceBatches(fit, batch_tokens=batch_tokens, seed=seed)
        batches.left_out = len(self.preferences("train")) - len(fit)
        return batches

    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Eq. 7, in nats."""
        ids, targets = batch["ids"], batch["targets"]  # (P, 2, T)
        logits = module(ids.flatten(0, 1))  # (B, T, V)
        policy = log_probabilities(logits, targets.flatten(0, 1)).view(-1, 2)
        return dpo_loss(policy, batch["reference"], self.objective["beta"])

    def evaluate(
        self, model: "Model", split: str, *, limit: int | None = None, context: int | None = None
    ) -> dict[str, float]:
        """How often the wanted answer is the likelier one; `limit` counts pairs.

        Answers are compared by the mean log-probability of their tokens, so that a short one is not
        likelier for its length. `preference_accuracy` is the share of pairs whose wanted answer has
        the higher one, `preference_margin` the mean difference, in nats. `left_out` counts the
        pairs that do not fit the model; it is there only above 0.

        Raises:
            InputError: no pair fits the model.

        Warns:
            UserWarning: some do not, and how many.
        """
        length = window_of(model, context)
        told = self.preferences(split)[:limit]
        pairs = two_answers(self.template_for(model), tokenizer_of(model), told, length, split)
        if not pairs:
            raise InputError(f"no {split} pair has at most {length} tokens")
        nats, counts = response_nats(model, [one for pair in pairs for one in pair]).T
        means = (-nats / counts).reshape(-1, 2)
        margins = means[:, 0] - means[:, 1]
        n, share = len(margins), float((margins > 0).mean())
        spread = float(margins.std(ddof=1)) if n > 1 else math.nan
        left = {"left_out": len(told) - len(pairs)} if len(pairs) < len(told) else {}
        return left | {
            "preference_accuracy": share,
            "preference_accuracy_stderr": math.sqrt(share * (1 - share) / n),
            "preference_margin": float(margins.mean()),
            "preference_margin_stderr": spread / math.sqrt(n),
        }


def two_answers(
    template: Template,
    tokenizer: "Tokenizer",
    preferences: Sequence[Preference],
    length: int,
    what: str,
) -> list[Two]:
    """Both answers of each pair in tokens, without those that do not fit.

    Raises:
        InputError: as `zoo.conversation.Template.pieces`.

    Warns:
        UserWarning: how many do not fit, or share a token with what they answer.
    """
    kept: list[Two] = []
    for pair in preferences:
        try:
            chosen, rejected = (
                last_answer(template, tokenizer, pair.conversation(answer))
                for answer in (pair.chosen, pair.rejected)
            )
        except SharedToken:
            continue
        if max(len(chosen), len(rejected)) <= length:
            kept.append((chosen, rejected))
    if left := len(preferences) - len(kept):
        warnings.warn(
            f"{left:,} of {len(preferences):,} {what} pairs have an answer of more than {length} "
            "tokens, or one that shares a token with what it answers: left out",
            stacklevel=3,
        )
    return kept


def last_answer(template: Template, tokenizer: "Tokenizer", messages: Messages) -> Example:
    """A conversation of which only the last answer counts: earlier ones are the same in both."""
    whole = Example.of(template, tokenizer, messages)
    if not any(one["role"] == "assistant" for one in messages[:-1]):
        return whole
    before = len(Example.of(template, tokenizer, messages[:-2]))
    targets = whole.targets.copy()
    targets[:before] = IGNORED
    return Example(whole.ids, targets)


class PreferenceBatches:
    """Pairs in an order drawn anew for each epoch: a pure function of the step.

    Args:
        pairs: both answers in tokens, and the reference's log-probability of each.
        batch_tokens: tokens of a batch on average, both answers counted.
        seed: of the order.

    Attributes:
        left_out: how many pairs did not fit.
    """

    left_out = 0

    def __init__(
        self,
        pairs: Sequence[tuple[Two, Sequence[float]]],
        *,
        batch_tokens: int,
        seed: int,
    ) -> None:
        self.pairs, self.seed = pairs, seed
        mean = sum(len(one) for pair, _ in pairs for one in pair) / len(pairs)
        self.rows = min(len(pairs), max(1, round(batch_tokens / mean)))
        self.per_epoch = len(pairs) // self.rows

    def __call__(self, step: int) -> dict[str, Tensor]:
        """The batch of a step: `ids` and `targets` (P, 2, T), `reference` (P, 2)."""
        epoch, index = divmod(step, self.per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.pairs))
        chosen = [self.pairs[place] for place in order[index * self.rows :][: self.rows]]
        batch = batch_of([[one] for pair, _ in chosen for one in pair])  # (B, T)
        T = batch["ids"].shape[1]
        return {
            "ids": batch["ids"].view(-1, 2, T),
            "targets": batch["targets"].view(-1, 2, T),
            "reference": torch.tensor([given for _, given in chosen]),
        }
