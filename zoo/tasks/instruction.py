"""Instruction tuning: conversations of which only the answers are learned.

Letters: B rows, T length, V vocabulary, N texts or tokens.
"""

import math
import re
import warnings
from abc import abstractmethod
from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from zoo.conversation import (
    MARKS,
    Messages,
    SharedToken,
    Template,
    answer_end,
    encode,
    prompt,
    template_of,
    tokens_of,
)
from zoo.errors import InputError, TrainingError
from zoo.generation import GenerationOptions, generate
from zoo.nn.loss import IGNORED, cross_entropy
from zoo.nn.packing import NotPackable, Packed, unpack
from zoo.pipelines import tokenizer_of
from zoo.pipelines.reading import by_length
from zoo.pipelines.text_generation import end_id_of
from zoo.tasks.base import BaseTask
from zoo.tasks.masked_language import ratio
from zoo.tokenization import END_OF_TEXT, build_tokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from zoo.model import Model

SCORED_TOKENS = 2048  # of a batch that is scored: (B, T, V) logits are what takes memory
ANSWER_TOKENS = 48  # of an answer that is compared with the right one
ANSWERED_TOKENS = 4096  # of the prompts that are answered together
Z = 1.959964  # of a normal distribution, 95 per cent lie as near


@dataclass(frozen=True)
class Example:
    """A conversation in tokens.

    Attributes:
        ids: all of them but the last (T,).
        targets: the token after each; `IGNORED` where it is no part of a response (T,).
    """

    ids: np.ndarray[Any, np.dtype[np.int64]]
    targets: np.ndarray[Any, np.dtype[np.int64]]

    @classmethod
    def of(cls, template: Template, tokenizer: "Tokenizer", messages: Messages) -> "Example":
        """Errors as of `zoo.conversation.encode`."""
        ids, response = encode(template, tokenizer, messages)
        whole = np.array(ids, dtype=np.int64)
        return cls(whole[:-1], np.where(response, whole, IGNORED)[1:])

    def __len__(self) -> int:
        return len(self.ids)


class Conversational(BaseTask):
    """What tasks of conversations share: the template, and the tokenizer that has its tokens.

    Attributes:
        objective: `template`: "alpaca" or "chatml"; if empty the base's own, else Alpaca.
    """

    objective: Mapping[str, Any] = {"template": ""}

    @abstractmethod
    def texts(self) -> Sequence[Messages]:
        """The conversations that a tokenizer is trained on."""

    def build_tokenizer(self, settings: Mapping[str, Any]) -> "Tokenizer":
        """Trained on the conversations as they are written, with the tokens that templates want."""
        name = self.objective["template"] or "alpaca"
        self.template = Template.called(name)
        marks = [END_OF_TEXT, *MARKS[name]]
        written = "\n".join(self.template.render(messages) for messages in self.texts())
        tokenizer = build_tokenizer(re.sub("|".join(map(re.escape, marks)), "", written), settings)
        tokenizer.add_special_tokens(marks)
        return tokenizer

    def begin(self, base: "Model") -> None:
        """Take the template that the recipe says, or the base's own."""
        name = self.objective["template"]
        own = None if name else template_of(base)
        self.template = own or Template.called(name or "alpaca", tokens_of(base))
        answer_end(self.template, tokenizer_of(base))  # raises where it cannot be written

    def template_for(self, model: "Model") -> Template:
        """The one that is trained with; of another model its own, else Alpaca."""
        found = self.template or template_of(model)
        return found or Template.called("alpaca", tokens_of(model))


class InstructionTuning(Conversational):
    """Conversations, split by split. A subclass says how to read one.

    Rows are packed: several conversations stand in one, and none sees another.
    """

    loss_of_tokens = True

    @abstractmethod
    def conversations(self, split: str) -> Sequence[Messages]:
        """The conversations of a split, each with an answer of the assistant at least."""

    def closed(self, split: str) -> Sequence[Messages]:
        """Those of a split whose last answer is the only right one; none unless a task says so."""
        return ()

    def texts(self) -> Sequence[Messages]:
        """The training split."""
        return self.conversations("train")

    def learned(self) -> Sequence[Messages]:
        """What an epoch reads: the training split, unless a task reads some of it more often."""
        return self.conversations("train")

    def batches(
        self, tokenizer: "Tokenizer", *, length: int, batch_tokens: int, seed: int
    ) -> "PackedBatches":
        """Packed rows of the training split.

        Raises:
            TrainingError: no conversation fits.
            InputError: as `zoo.conversation.Template.pieces`.

        Warns:
            UserWarning: some are longer than `length`, or cannot be told from what they answer,
                and how many; they are left out.
        """
        assert self.template is not None  # the tokenizer or the base has said it
        learned = self.learned()
        kept = examples(self.template, tokenizer, learned, length, "training")
        if not kept:
            raise TrainingError(
                f"no training conversation has at most {length} tokens: raise max_seq_len"
            )
        batches = PackedBatches(
            list(kept.values()), length=length, batch_tokens=batch_tokens, seed=seed
        )
        batches.left_out = len(learned) - len(kept)
        return batches

    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean cross-entropy of the responses' tokens, in nats."""
        logits, targets = read_packed(module, batch)
        return cross_entropy(logits.flatten(0, 1), targets.flatten())

    def evaluate(
        self, model: "Model", split: str, *, limit: int | None = None, context: int | None = None
    ) -> dict[str, float]:
        """Perplexity of the responses, and exact match; `limit` counts conversations.

        `perplexity_of_responses` is that of their tokens, each read behind the right ones; its
        standard error is that of a ratio of sums over conversations. `exact_match` is the share of
        `closed` conversations whose last answer, written greedily, is the right one but for case,
        space, quotes and the full stop; `exact_match_low` and `exact_match_high` are Wilson's
        interval of 95 per cent (1927, JASA 22). `left_out` counts the conversations that do not fit
        the model, `exact_match_left_out` those of `closed` after which it has no room for an
        answer; both are there only above 0.

        Raises:
            InputError: no conversation fits the model.

        Warns:
            UserWarning: some do not, and how many.
        """
        template, tokenizer = self.template_for(model), tokenizer_of(model)
        length = window_of(model, context)
        told = self.conversations(split)[:limit]
        kept = examples(template, tokenizer, told, length, split)
        if not kept:
            raise InputError(f"no {split} conversation has at most {length} tokens")
        loss, error = ratio(*response_nats(model, list(kept.values())).T)
        perplexity = math.exp(min(loss, 700.0))
        found = {
            "perplexity_of_responses": perplexity,
            "perplexity_of_responses_stderr": perplexity * error,
        }
        found |= {"left_out": len(told) - len(kept)} if len(kept) < len(told) else {}
        closed = self.closed(split)[:limit]
        return found | (exact_match(model, template, closed, length) if closed else {})


def examples(
    template: Template,
    tokenizer: "Tokenizer",
    conversations: Sequence[Messages],
    length: int,
    what: str,
) -> dict[int, Example]:
    """Conversations in tokens, by their place, without those that do not fit.

    Raises:
        InputError: as `zoo.conversation.Template.pieces`.

    Warns:
        UserWarning: how many do not fit, or share a token with what they answer.
    """
    kept: dict[int, Example] = {}
    long = shared = 0
    for place, messages in enumerate(conversations):
        try:
            example = Example.of(template, tokenizer, messages)
        except SharedToken:
            shared += 1
            continue
        except InputError as error:
            raise InputError(f"{what} conversation {place + 1}: {error}") from error
        if len(example) > length:
            long += 1
            continue
        kept[place] = example
    for count, why in (
        (long, f"have more than {length} tokens"),
        (shared, "have a response that shares a token with what it answers"),
    ):
        if count:
            warnings.warn(
                f"{count:,} of {len(conversations):,} {what} conversations {why}: left out",
                stacklevel=3,
            )
    return kept


class PackedBatches:
    """Rows into which conversations are packed: a pure function of the step.

    Each epoch the conversations are drawn in another order and put, the longest first, where they
    leave the least room (best fit decreasing); how many rows that takes depends on their lengths
    alone.

    Args:
        examples: what is packed, none longer than `length`.
        length: T at most.
        batch_tokens: about as many in a batch.
        seed: of the order.

    Attributes:
        left_out: how many of an epoch did not fit.
    """

    left_out = 0

    def __init__(
        self, examples: Sequence[Example], *, length: int, batch_tokens: int, seed: int
    ) -> None:
        self.examples, self.length, self.seed = examples, length, seed
        count = len(pack([len(example) for example in examples], length))
        self.rows = min(count, max(1, batch_tokens // length))
        self.per_epoch = count // self.rows
        self._epoch = -1

    def __call__(self, step: int) -> dict[str, Tensor]:
        """The batch of a step: `ids`, `targets` and `segments`, each (B, T)."""
        epoch, index = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            generator = np.random.default_rng([self.seed, epoch])
            order = generator.permutation(len(self.examples)).tolist()
            packed = pack([len(self.examples[place]) for place in order], self.length)
            rows = [[order[place] for place in row] for row in packed]
            self._rows = [rows[row] for row in generator.permutation(len(rows))]
            self._epoch = epoch
        chosen = self._rows[index * self.rows : (index + 1) * self.rows]
        return batch_of([[self.examples[place] for place in row] for row in chosen])


def pack(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Places of the lengths, row by row, none of which sums up to more than `room`."""
    rows: list[list[int]] = []
    open_rows: list[tuple[int, int]] = []  # the room that is left in a row, and which; sorted
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        length = lengths[place]
        tightest = bisect_left(open_rows, (length, 0))
        if tightest == len(open_rows):
            rows.append([])
            left, row = room, len(rows) - 1
        else:
            left, row = open_rows.pop(tightest)
        rows[row].append(place)
        if left > length:
            insort(open_rows, (left - length, row))
    return rows


def batch_of(rows: Sequence[Sequence[Example]]) -> dict[str, Tensor]:
    """Rows of packed conversations: `ids`, `targets` and `segments`, each (B, T)."""
    T = max(sum(map(len, row)) for row in rows)
    ids = torch.zeros(len(rows), T, dtype=torch.long)
    targets = torch.full_like(ids, IGNORED)
    segments = torch.zeros_like(ids)
    for number, row in enumerate(rows):
        start = 0
        for segment, example in enumerate(row, start=1):
            end = start + len(example)
            ids[number, start:end] = torch.from_numpy(example.ids)
            targets[number, start:end] = torch.from_numpy(example.targets)
            segments[number, start:end] = segment
            start = end
    return {"ids": ids, "targets": targets, "segments": segments}


def read_packed(module: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Logits of packed conversations, and the targets that belong to them.

    A decoder that does not ask its cache for a mask reads each conversation in a row of its own.

    Returns:
        Logits (B, T, V) and targets (B, T), or of as many rows as there are conversations.
    """
    segments, targets = batch["segments"], batch["targets"]
    if bool((segments <= 1).all()):  # one each, padded on the right: nothing to keep apart
        return module(batch["ids"]), targets
    try:
        return module(batch["ids"], Packed(segments)), targets
    except NotPackable:
        return module(unpack(batch["ids"], segments)), unpack(targets, segments, IGNORED)


def window_of(model: "Model", context: int | None) -> int:
    """How many tokens a conversation may have: those the model was trained on, or `context`."""
    limits = [context or model.config.max_seq_len, getattr(model.module, "max_len", None)]
    return min(limit for limit in limits if limit is not None)


@torch.inference_mode()
def response_nats(
    model: "Model", examples: Sequence[Example]
) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Of each conversation the negative log-likelihood of its responses in nats, and tokens (N, 2).

    Each token is read behind the right ones before it.
    """
    found = np.zeros((len(examples), 2))
    for places in by_length([len(example) for example in examples], SCORED_TOKENS):
        batch = batch_of([[examples[place]] for place in places])
        targets = batch["targets"].to(model.device)
        logits = model.module(batch["ids"].to(model.device)).float()  # (B, T, V)
        nats = nn.functional.cross_entropy(
            logits.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none"
        )  # (B, T)
        found[places, 0] = nats.double().sum(1).cpu().numpy()
        found[places, 1] = (targets != IGNORED).sum(1).cpu().numpy()
    return found


def answers(
    model: "Model",
    template: Template,
    conversations: Sequence[Messages],
    length: int,
    max_new_tokens: int = ANSWER_TOKENS,
) -> dict[int, str]:
    """What a model answers greedily to conversations, by their place, where it has room for that.

    Args:
        model: a decoder.
        template: how conversations are written.
        conversations: each ends with what is answered.
        length: tokens of a conversation with its answer.
        max_new_tokens: of an answer.
    """
    tokenizer = tokenizer_of(model)
    end_id, stop = answer_end(template, tokenizer)
    end_id = end_id_of(model) if end_id is None else end_id
    prompts = [prompt(template, tokenizer, messages) for messages in conversations]
    found = {}
    fits = [place for place, ids in enumerate(prompts) if len(ids) + max_new_tokens <= length]
    options = GenerationOptions(max_new_tokens=max_new_tokens, stop=stop or (), do_sample=False)
    for places in by_length([len(prompts[place]) for place in fits], ANSWERED_TOKENS):
        chosen = [fits[place] for place in places]
        written = generate(
            model.module,
            [prompts[place] for place in chosen],
            options,
            end_id=end_id,
            tokenizer=tokenizer,
        ).ids
        for place, ids in zip(chosen, written, strict=True):
            text = tokenizer.decode(ids)
            found[place] = (text.partition(stop)[0] if stop else text).strip()
    return found


def exact_match(
    model: "Model", template: Template, closed: Sequence[Messages], length: int
) -> dict[str, float]:
    """The share of conversations whose last answer is found, with its error and interval.

    Those after which there is no room for an answer are left out, and counted; NaN of none.

    Warns:
        UserWarning: how many.
    """
    asked = [messages[:-1] for messages in closed]
    given = answers(model, template, asked, length)
    right = [plain(answer) == plain(closed[n][-1]["content"]) for n, answer in given.items()]
    n, left = len(right), len(closed) - len(right)
    if left:
        warnings.warn(
            f"{left:,} of {len(closed):,} questions with one right answer leave no room for "
            f"{ANSWER_TOKENS} tokens of it in {length}: left out",
            stacklevel=3,
        )
    share = sum(right) / n if n else math.nan
    low, high = wilson(sum(right), n) if n else (math.nan, math.nan)
    found = {
        "exact_match": share,
        "exact_match_stderr": math.sqrt(share * (1 - share) / n) if n else math.nan,
        "exact_match_low": low,
        "exact_match_high": high,
    }
    return found | ({"exact_match_left_out": left} if left else {})


def plain(answer: str) -> str:
    """An answer without what does not matter: case, spaces, quotes, a full stop at its end."""
    words = re.sub(r"[\"'“”‘’`]", "", answer.lower())
    return " ".join(words.split()).rstrip(". ")


def wilson(right: int, n: int) -> tuple[float, float]:
    """Wilson's interval of a share, 95 per cent."""
    share, z2 = right / n, Z * Z
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    return max(0.0, middle - half), min(1.0, middle + half)
