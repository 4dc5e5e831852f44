"""Speculative decoding: a small model drafts some tokens, the model itself reads them in one pass.

Leviathan, Kalman & Matias 2022, "Fast inference from transformers via speculative decoding"
(arXiv:2211.17192, algorithm 1); Chen et al. 2023 (arXiv:2302.01318). The text is the model's own:
the draft decides how fast it is written, never what is written.

Letters: n drafted tokens, V vocabulary.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from zoo.errors import InputError
from zoo.generation import Draw, GenerationOptions, last_logits, penalised
from zoo.nn import Cache, reordered
from zoo.pipelines import tokenizer_of

if TYPE_CHECKING:
    from zoo.model import Model

DRAFTED = 4  # tokens a round, where nothing else is said
SHOWN = 3  # tokens that an error names


class Draft:
    """A model that drafts for others, and how much of it they kept.

    **Why the text is the model's own.** Let p be the model's chances of the next token, q the
    draft's, both after temperature, top-k, top-p and penalty. A token x is drafted with chance
    q(x) and kept with chance min(1, p(x) / q(x)); if it is not kept, another one is drawn in
    proportion to max(0, p - q). Then x is written with chance

        q(x) min(1, p(x) / q(x)) + R max(0, p(x) - q(x)) / sum_y max(0, p(y) - q(y))

    where R = sum_y (q(y) - min(p(y), q(y))) = sum_y max(0, q(y) - p(y)) is the chance that none is
    kept. As p and q both sum to 1, R is also sum_y max(0, p(y) - q(y)), and what is left is
    min(p(x), q(x)) + max(0, p(x) - q(x)) = p(x). Each further token is drafted and judged given
    those that were kept, and after a draft that was kept as a whole one more token is drawn from
    p, so that the same holds of a whole text. Greedy decoding is the case in which p and q are 1 at
    one token: the draft is kept exactly as far as it is what the model would have chosen. As
    several tokens are read in one pass, scores may differ in their last bits from those of reading
    one by one, and so may a choice between two tokens that are as good as equal.

    Args:
        model: the draft; smaller than those it drafts for, with the same tokens.
        tokens: drafted at once.

    Attributes:
        drafted: how many tokens it drafted so far.
        accepted: how many of them were kept.
        passes: how often the models it drafted for were run.

    Raises:
        InputError: the model writes no text, or `tokens` is below 1.
    """

    def __init__(self, model: "Model", tokens: int = DRAFTED) -> None:
        if model.pipeline != "text-generation":
            raise InputError(
                f"{model.name} is a {model.pipeline} model: a draft is a text-generation model"
            )
        if type(tokens) is not int or tokens < 1:
            raise InputError(f"tokens must be a whole number from 1 on, got {tokens!r}")
        self.model, self.tokens = model, tokens
        self.drafted = self.accepted = self.passes = 0

    @property
    def acceptance_rate(self) -> float:
        """The share of the drafted tokens that were kept; NaN before the first."""
        return self.accepted / self.drafted if self.drafted else math.nan

    def check(self, model: "Model") -> None:
        """Raise `InputError` unless this draft has the tokens of a model.

        Args:
            model: that it shall draft for.
        """
        names = f"{model.name} and its draft {self.model.name}"
        ours, theirs = (tokenizer_of(one).get_vocab() for one in (model, self.model))
        if ours != theirs:
            other = sorted(ours.items() ^ theirs.items(), key=lambda pair: pair[1])
            some = ", ".join(f"{text!r} {number}" for text, number in other[:SHOWN])
            raise InputError(
                f"{names} do not share a tokenizer: {len(ours)} and {len(theirs)} tokens, of which "
                f"{len(other)} are not in both with one number ({some}, ...). A draft is trained "
                "with the tokenizer of the model it drafts for"
            )
        sizes = [one.config.vocab_size for one in (model, self.model)]
        if sizes[0] != sizes[1]:
            raise InputError(f"{names} score different numbers of tokens: {sizes[0]}, {sizes[1]}")

    @torch.inference_mode()
    def written(
        self, module: nn.Module, prompt: Sequence[int], options: GenerationOptions, new: int
    ) -> Iterator[int]:
        """The tokens that a module writes after a prompt, with the help of this draft.

        Args:
            module: a decoder in evaluation mode.
            prompt: token ids, one at least.
            options: how tokens are chosen; one answer, no beams.
            new: so many tokens.
        """
        text, end = list(prompt), len(prompt) + new
        draw = Draw(options, [prompt])
        reader = _Reader(module, options, draw, end - 1)
        limit = getattr(self.model.module, "max_len", None) or end
        helper = _Reader(self.model.module, options, draw, min(limit, end - 1))
        with reordered(self.model.module):
            while len(text) < end:
                # the last token is never drafted: the pass that reads the draft writes one more
                drafted, guesses = self._draft(helper, text, min(end - 1, limit), draw)
                chances = reader.read([*text, *drafted], len(drafted) + 1)
                kept = _kept(drafted, guesses, chances, draw)
                self.passes += 1
                self.drafted += len(drafted)
                self.accepted += len(kept) - 1
                text += kept
                reader.back_to(len(text) - 1)
                helper.back_to(len(text) - 1)
                yield from kept

    def _draft(
        self, helper: "_Reader", text: list[int], longest: int, draw: Draw
    ) -> tuple[list[int], list[Tensor]]:
        """Some tokens after a text, at most up to a length, and the chances each was drawn from."""
        drafted: list[int] = []
        guesses: list[Tensor] = []
        for _ in range(min(self.tokens, longest - len(text))):
            guesses.append(helper.read([*text, *drafted], 1))
            drafted.append(int(draw.pick(guesses[-1])))
        return drafted, guesses


class _Reader:
    """A module that reads one text, of which some of the end may be taken back.

    Args:
        module: that reads.
        options: what tokens are chosen by.
        draw: makes chances of scores, for sampling.
        columns: tokens that are read at most.
    """

    def __init__(
        self, module: nn.Module, options: GenerationOptions, draw: Draw, columns: int
    ) -> None:
        like = next(module.parameters())
        self.module, self.device = module, like.device
        self.cache = Cache.of(module.config, 1, columns, like=like)
        self.penalty, self.draw = options.repetition_penalty, draw if options.samples else None

    def back_to(self, length: int) -> None:
        """Keep so many tokens at most; columns behind them are written over."""
        self.cache.length = min(self.cache.length, length)

    def read(self, text: list[int], last: int) -> Tensor:
        """The chances (n, V) of what follows each of the n last tokens, of which it reads the new.

        Those of greedy decoding are 1 at the best token.
        """
        ids = torch.tensor([text[self.cache.length :]], device=self.device)
        scores = last_logits(self.module, ids, self.cache, last)[0]  # (n, V)
        if self.penalty != 1:
            seen = torch.zeros_like(scores, dtype=torch.bool)
            seen[:, text[: len(text) - last + 1]] = True
            for row, token in enumerate(text[len(text) - last + 1 :], start=1):
                seen[row:, token] = True
            scores = penalised(scores, seen, self.penalty)
        if self.draw is None:
            return F.one_hot(scores.argmax(dim=-1), scores.shape[-1]).float()
        return self.draw.chances(scores)


def _kept(drafted: list[int], guesses: list[Tensor], chances: Tensor, draw: Draw) -> list[int]:
    """The drafted tokens that are kept, and the model's own after them."""
    for place, (token, guess) in enumerate(zip(drafted, guesses, strict=True)):
        p, q = chances[place], guess[0].to(chances.device)  # (V,)
        if draw.streams[0].random() * float(q[token]) < float(p[token]):
            continue
        rest = (p - q).clamp(min=0)
        # where p and q are the same but for rounding nothing may be left
        return [*drafted[:place], int(draw.pick(rest[None] if rest.any() else p[None]))]
    return [*drafted, int(draw.pick(chances[-1:]))]
