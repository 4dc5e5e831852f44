"""Span corruption: stretches of a text are hidden, and the model writes what they were.

Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer" (T5), arXiv:1910.10683: the form in section 3.1.4 and figure 2, spans of a mean length
in section 3.3.4. Other spans are hidden each time a text comes.

Differences from the authors' code: a span may stand anywhere, where theirs never hides the first
token of a text and always hides the last; a target always ends with one more sentinel, as in
figure 2, where theirs goes without when the last span ends the text.

Letters: B batch, S source length, T target length, V vocabulary, N tokens of a text.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.errors import InputError, TrainingError
from zoo.nn.loss import IGNORED, cross_entropy
from zoo.pipelines import tokenizer_of
from zoo.pipelines.reading import Ids, Reader, by_length
from zoo.tasks.base import BaseTask
from zoo.tasks.classification import LengthBatches
from zoo.tasks.masked_language import ratio
from zoo.tasks.translation import SCORED_TOKENS, end_id_of, pair_batch
from zoo.tokenization import build_tokenizer, end_texts, pad_id_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from zoo.model import Model

SHARE, MEAN = 0.15, 3.0  # of the tokens are hidden; tokens of a span (section 3.3.4)
SENTINEL = "<extra_id_{}>"  # as T5's tokenizer calls them
SENTINELS = 100  # that a new tokenizer gets, as T5's has: enough for 1,980 tokens


def span_sizes(length: int, share: float = SHARE, mean: float = MEAN) -> tuple[int, int]:
    """How many tokens of a text are hidden, and in how many spans: one of each at least."""
    hidden = min(max(1, round(length * share)), length)
    # no more than can stand with a shown token between them
    return hidden, min(max(1, round(hidden / mean)), length - hidden + 1)


def draw_spans(
    length: int, generator: np.random.Generator, share: float = SHARE, mean: float = MEAN
) -> list[tuple[int, int]]:
    """Which tokens of a text are hidden.

    All ways to cut the hidden tokens into spans are as likely, and all ways to place these with one
    shown token between two at least.

    Args:
        length: tokens of the text, one or more.
        generator: what is drawn from; how much is hidden is no matter of chance.
        share: of the tokens that are hidden, up to rounding.
        mean: tokens of a span, up to rounding.

    Returns:
        (start, stop) of each span, from left to right.
    """
    hidden, count = span_sizes(length, share, mean)
    inside = _parts(hidden, count, generator)
    # what is shown before, between and behind; the outer two may be empty
    between = _parts(length - hidden + 2, count + 1, generator)
    starts = np.cumsum(between[:-1]) - 1 + np.cumsum([0, *inside[:-1]])
    return [(int(at), int(at + n)) for at, n in zip(starts, inside, strict=True)]


def _parts(total: int, count: int, generator: np.random.Generator) -> Ids:
    """A total in `count` whole numbers above 0; all ways are as likely."""
    cuts = np.sort(generator.choice(total - 1, count - 1, replace=False)) + 1
    return np.diff(cuts, prepend=0, append=total).astype(np.int32)


def corrupt(
    ids: Ids, spans: Sequence[tuple[int, int]], sentinels: Sequence[int]
) -> tuple[Ids, Ids]:
    """A text with spans hidden (section 3.1.4, figure 2).

    Args:
        ids: tokens of a text (N,), without the one that ends it.
        spans: (start, stop) of what is hidden, from left to right, no two side by side.
        sentinels: tokens that stand for spans, one more than there are.

    Returns:
        The source, in which the next sentinel stands for each span; and the target: each sentinel
        and the tokens that it stands for, and the sentinel after those.

    Raises:
        InputError: too few sentinels.
    """
    if len(spans) >= len(sentinels):
        raise InputError(
            f"{len(spans)} spans of {len(ids)} tokens need {len(spans) + 1} sentinels, one for "
            f"each and one at the end; there are {len(sentinels)}: take shorter texts"
        )
    source: list[Any] = []  # pieces of text and sentinels between them
    target: list[Any] = []
    shown = 0
    for sentinel, (start, stop) in zip(sentinels, spans, strict=False):
        source += [ids[shown:start], [sentinel]]
        target += [[sentinel], ids[start:stop]]
        shown = stop
    source.append(ids[shown:])
    target.append([sentinels[len(spans)]])
    return np.concatenate(source).astype(np.int32), np.concatenate(target).astype(np.int32)


def hide_spans(
    ids: Ids,
    sentinels: Sequence[int],
    generator: np.random.Generator,
    share: float = SHARE,
    mean: float = MEAN,
) -> tuple[Ids, Ids]:
    """The source and the target of a text, as `corrupt` makes them of spans from `draw_spans`."""
    return corrupt(ids, draw_spans(len(ids), generator, share, mean), sentinels)


def sentinels_of(tokenizer: "Tokenizer") -> list[int]:
    """The tokens `<extra_id_0>`, `<extra_id_1>` and so on, up to the first that is not there.

    Raises:
        InputError: there are fewer than two.
    """
    found: list[int] = []
    while (token := tokenizer.token_to_id(SENTINEL.format(len(found)))) is not None:
        found.append(token)
    if len(found) < 2:
        raise InputError(
            f"The tokenizer needs tokens that stand for spans, {SENTINEL.format(0)} and "
            f"{SENTINEL.format(1)} at least"
        )
    return found


class SpanCorruption(BaseTask):
    """Texts of which the model writes what is hidden. A subclass says how to read a split.

    The module is called as `module(source, ids, real)`, source and real (B, S), ids (B, T), and
    gives logits (B, T, V). A source is a text with sentinels and the token that ends it; a target
    is read behind the token for padding, and must give sentinels, what they stand for, and the end.

    Attributes:
        share: of the tokens that are hidden.
        mean: tokens of a span.
    """

    share = SHARE
    mean = MEAN

    @abstractmethod
    def texts(self, split: str) -> Sequence[str]:
        """The texts of a split."""

    def build_tokenizer(self, settings: Mapping[str, Any]) -> "Tokenizer":
        """A tokenizer trained on the training split, with an end and sentinels."""
        tokenizer = build_tokenizer("\n".join(self.texts("train")), settings)
        end_texts(tokenizer)
        tokenizer.add_special_tokens([SENTINEL.format(number) for number in range(SENTINELS)])
        return tokenizer

    def config(self, tokenizer: "Tokenizer") -> dict[str, Any]:
        """The tokens for padding, which a target begins with too, and for its end."""
        pad_id = pad_id_of(tokenizer)
        return {"pad_id": pad_id, "start_id": pad_id, "end_id": end_id_of(tokenizer)}

    def batches(
        self, tokenizer: "Tokenizer", *, length: int, batch_tokens: int, seed: int
    ) -> "SpanBatches":
        """The training texts, in pieces of `length` before spans are hidden, in a drawn order."""
        return SpanBatches(
            Reader(tokenizer, length).pieces(self.texts("train")),
            Hiding(tokenizer, self.share, self.mean),
            rows=max(1, batch_tokens // length),
            seed=seed,
        )

    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean cross-entropy of the targets' tokens, in nats."""
        logits = module(batch["source"], batch["ids"], batch["real"])  # (B, T, V)
        return cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())

    @torch.inference_mode()
    def evaluate(
        self, model: "Model", split: str, *, limit: int | None = None, context: int | None = None
    ) -> dict[str, float]:
        """Perplexity of the targets' tokens, of the same spans each time; `limit` counts texts.

        Sentinels and the end of a target are counted with what is hidden. The standard error is
        that of a ratio of sums over pieces of text.

        Raises:
            InputError: no text has a token.
        """
        length = min(context or model.config.max_seq_len, model.config.max_seq_len)
        pieces = Reader(tokenizer_of(model), length).pieces(self.texts(split)[:limit])
        if not pieces:
            raise InputError(f"The texts of {split} are empty: there is nothing to measure")
        hide = Hiding(tokenizer_of(model), self.share, self.mean)
        found = np.zeros((len(pieces), 2))  # nats, tokens
        for places in by_length([len(piece) for piece in pieces], SCORED_TOKENS):
            made = hide([pieces[place] for place in places], [[0, place] for place in places])
            given = {name: tensor.to(model.device) for name, tensor in made.items()}
            logits = model.module(given["source"], given["ids"], given["real"]).float()
            nats = nn.functional.cross_entropy(
                logits.transpose(1, 2), given["targets"], ignore_index=IGNORED, reduction="none"
            )  # (B, T)
            found[places, 0] = nats.double().sum(1).cpu().numpy()
            found[places, 1] = (made["targets"] != IGNORED).sum(1).numpy()
        loss, error = ratio(*found.T)
        perplexity = math.exp(min(loss, 700.0))
        return {
            "perplexity_per_token": perplexity,
            "perplexity_per_token_stderr": perplexity * error,
        }


class Hiding:
    """Hides spans of texts.

    Args:
        tokenizer: has an end, padding and sentinels.
        share: as in `draw_spans`.
        mean: likewise.

    Raises:
        InputError: one of these tokens is missing.
    """

    def __init__(self, tokenizer: "Tokenizer", share: float = SHARE, mean: float = MEAN) -> None:
        self.sentinels = sentinels_of(tokenizer)
        self.pad_id, self.end_id = pad_id_of(tokenizer), end_id_of(tokenizer)
        self.share, self.mean = share, mean

    def __call__(self, pieces: Sequence[Ids], seeds: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """Texts with spans hidden: `source` and `real` (B, S), `ids` and `targets` (B, T).

        Args:
            pieces: tokens of each, the one that ends it included.
            seeds: of the spans of each.

        Raises:
            InputError: more spans than there are sentinels for.
        """
        sources, targets = [], []
        for piece, seed in zip(pieces, seeds, strict=True):
            generator = np.random.default_rng(seed)
            both = hide_spans(piece[:-1], self.sentinels, generator, self.share, self.mean)
            source, target = (np.append(side, piece[-1]) for side in both)
            sources.append(source)
            targets.append(target)
        return pair_batch(sources, targets, self.pad_id, self.pad_id)


class SpanBatches(LengthBatches):
    """Batches of pieces of text with hidden spans: a pure function of the step.

    Args:
        pieces: token ids of each, the one that ends it included.
        hide: makes sources and targets.
        rows: B.
        seed: of the order, and of what is hidden.

    Raises:
        TrainingError: fewer than one batch of pieces, or one longer than there are sentinels for.
    """

    def __init__(self, pieces: Sequence[Ids], hide: Hiding, *, rows: int, seed: int) -> None:
        super().__init__([len(piece) for piece in pieces], rows=rows, seed=seed)
        self.pieces, self.hide = pieces, hide
        longest = int(self.lengths.max()) - 1
        _, spans = span_sizes(longest, hide.share, hide.mean)
        if spans >= len(hide.sentinels):
            raise TrainingError(
                f"{longest:,} tokens have {spans} spans, and need {spans + 1} sentinels; the "
                f"tokenizer has {len(hide.sentinels)}: lower max_seq_len"
            )

    def __call__(self, step: int) -> dict[str, Tensor]:
        """The batch of a step: `source` and `real` (B, S), `ids` and `targets` (B, T)."""
        places = self.places(step)
        seeds = [[self.seed, step, row] for row in range(len(places))]
        return self.hide([self.pieces[place] for place in places], seeds)
