"""Decoding: greedy, sampling, beam search and streaming, over `module(ids, cache) -> logits`.

Options carry the names of `transformers` and mean the same; the reference tests hold the two equal.
Letters: R rows (prompts times copies or beams), V vocabulary, P prompts, K beams.
"""

import functools
import inspect
import math
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, fields
from difflib import get_close_matches
from numbers import Integral, Real
from random import Random
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo.errors import ContextLengthError, InputError
from zoo.nn import Cache, reordered
from zoo.nn.replay import Steps
from zoo.nn.threads import enough_threads

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from zoo.speculation import Draft

DEFAULT_NEW_TOKENS = 100
NEVER = -1e9  # the score of what must not be chosen; finite, so that sums stay numbers

Ending = Callable[
    [list[int], list[int]], bool
]  # prompt and new ids: does a stop text stand in them?

# what each number may be: its kind, its range, and the range in words
_RANGES: dict[str, tuple[type, Callable[[Any], bool], str]] = {
    "max_new_tokens": (Integral, lambda n: n >= 1, "a whole number from 1 on"),
    "temperature": (Real, lambda t: 0 <= t < math.inf, "0 (greedy) or above"),
    "top_k": (Integral, lambda k: k >= 0, "a whole number from 0 (no filter) on"),
    "top_p": (Real, lambda p: 0 < p <= 1, "above 0 and at most 1"),
    "repetition_penalty": (Real, lambda p: 0 < p < math.inf, "above 0; 1 changes nothing"),
    "num_beams": (Integral, lambda k: k >= 1, "a whole number from 1 on"),
    "length_penalty": (Real, math.isfinite, "a finite number"),
    "num_return_sequences": (Integral, lambda n: n >= 1, "a whole number from 1 on"),
    "seed": (Integral, lambda _: True, "a whole number"),
}


@dataclass(frozen=True, kw_only=True)
class GenerationOptions:
    """How to decode.

    Attributes:
        max_new_tokens: how many tokens to write at most; None for 100, or fewer if the model's
            positions end before.
        do_sample: draw tokens by chance; None for yes exactly if a temperature above 0, a top_k or
            a top_p is given.
        temperature: divides the scores before drawing; 0 means greedy, None means 1.
        top_k: draw among the k best tokens; None or 0 for all.
        top_p: draw among the fewest best tokens whose chances reach p together.
        repetition_penalty: makes tokens of the text so far less likely (above 1) or more (below).
        num_beams: above 1, search with so many hypotheses side by side.
        length_penalty: the power of its length that a hypothesis's log-probability is divided by.
        num_return_sequences: answers a prompt, for sampling and beam search.
        seed: of the draws. A prompt's draws do not depend on the other prompts beside it; copies of
            one prompt draw differently. None takes it from PyTorch's generator.
        stop: texts that end the writing when they appear.

    Raises:
        InputError: a value out of range, or options that contradict each other.
    """

    max_new_tokens: int | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    repetition_penalty: float = 1.0
    num_beams: int = 1
    length_penalty: float = 1.0
    num_return_sequences: int = 1
    seed: int | None = None
    stop: str | Sequence[str] = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name in _RANGES and not (value is None and field.default is None):
                kind, in_range, words = _RANGES[field.name]
                if not isinstance(value, kind) or not in_range(value):
                    raise InputError(f"{field.name} must be {words}, got {value!r}")
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        if not all(isinstance(text, str) and text for text in stop):
            raise InputError(f"stop must be texts that are not empty, got {self.stop!r}")
        object.__setattr__(self, "stop", stop)
        if self.do_sample and self.temperature == 0:
            raise InputError("do_sample=True and temperature=0 (greedy) contradict; leave one out")
        copies = self.num_return_sequences
        if self.num_beams > 1:
            if self.samples:
                raise InputError(
                    f"Beam search (num_beams={self.num_beams}) does not draw: leave out "
                    "do_sample, temperature, top_k and top_p, or num_beams"
                )
            if copies > self.num_beams:
                raise InputError(
                    f"num_return_sequences={copies} needs num_beams={copies} or more, "
                    f"got {self.num_beams}"
                )
        elif copies > 1 and not self.samples:
            raise InputError(
                f"Greedy decoding has one answer: num_return_sequences={copies} needs "
                f"do_sample=True or num_beams={copies}"
            )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "GenerationOptions":
        """Build from values by name.

        Raises:
            InputError: an unknown name (near misses suggested), or as the class says.
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                close = get_close_matches(name, known, n=1)
                guess = f" Did you mean {close[0]!r}?" if close else ""
                raise InputError(f"Unknown option {name!r}.{guess} There are: {', '.join(known)}")
        return cls(**values)

    @property
    def samples(self) -> bool:
        """Whether tokens are drawn by chance."""
        if self.do_sample is not None:
            return self.do_sample
        if self.temperature == 0:
            return False
        return self.temperature is not None or bool(self.top_k) or self.top_p is not None


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What was written.

    Attributes:
        ids: the new tokens of each answer, without the prompt and without the end token; prompt by
            prompt, `num_return_sequences` of each, best first.
        scores: of beam search, the log-probability of each answer over its length to the
            `length_penalty`; None for greedy decoding and sampling.
    """

    ids: list[list[int]]
    scores: list[float] | None = None


def generate(
    module: nn.Module,
    prompts: Sequence[Sequence[int]],
    options: GenerationOptions,
    *,
    end_id: int | None = None,
    tokenizer: "Tokenizer | None" = None,
    use_cache: bool = True,
) -> Generation:
    """Continue prompts, all in one batch.

    Args:
        module: a decoder in evaluation mode; one that looks at sources has a `cache_class`, and
            `texts(rows)`, the source of each row.
        prompts: token ids, of any lengths.
        options: how to decode.
        end_id: the token that ends a text.
        tokenizer: needed for `options.stop`.
        use_cache: False computes the whole text anew for each token: slow, and the same.

    Raises:
        InputError: an empty prompt, or stop texts without a tokenizer.
        ContextLengthError: more positions than the module has.
    """
    if not prompts:
        return Generation(ids=[])
    new = count_new(module, prompts, options)
    ends = _ending(options, tokenizer)
    with reordered(module):
        return _written(module, prompts, options, new, end_id, ends, use_cache)


def _written(
    module: nn.Module,
    prompts: Sequence[Sequence[int]],
    options: GenerationOptions,
    new: int,
    end_id: int | None,
    ends: Ending | None,
    use_cache: bool,
) -> Generation:
    """What `generate` gives, of prompts and options that are good."""
    if options.num_beams > 1:
        rows = _rows(module, _repeated(prompts, options.num_beams), new, use_cache)
        return _search(rows, options, new, end_id, ends)
    rows = _rows(module, _repeated(prompts, options.num_return_sequences), new, use_cache)
    written: list[list[int]] = [[] for _ in rows.texts]
    computed = list(range(len(written)))  # the answers that the rows are of
    running = set(computed)
    steps = _tokens(rows, options, new)
    tokens = next(steps)
    with suppress(StopIteration):  # all tokens are written
        while True:
            for answer, token in zip(computed, tokens, strict=True):
                if answer not in running:
                    continue
                ids = written[answer]
                if token != end_id:
                    ids.append(token)
                if token == end_id or (ends is not None and ends(rows.texts[answer], ids)):
                    running.remove(answer)
            if not running:
                break
            kept = _worth_computing([a in running for a in computed], options.num_return_sequences)
            if kept is not None:
                computed = [computed[row] for row in kept]
            tokens = steps.send(kept)
    return Generation(ids=written)


def stream(
    module: nn.Module,
    prompt: Sequence[int],
    options: GenerationOptions,
    *,
    end_id: int | None = None,
    tokenizer: "Tokenizer | None" = None,
    use_cache: bool = True,
    kept: "Kept | None" = None,
    draft: "Draft | None" = None,
) -> Iterator[int]:
    """Continue one prompt, giving each token as soon as it is chosen: those of `generate`.

    Arguments as in `generate`; with `kept`, what that has read of the prompt is not read again.
    With a `draft` some tokens at a time are chosen: the same ones if greedily, and by the same
    chances, but other draws, if not.

    Raises:
        InputError: as `generate`, at once, and for options with more than one answer.
        ContextLengthError: more positions than the module has.
    """
    if options.num_beams > 1 or options.num_return_sequences > 1:
        raise InputError(
            "Streaming writes one text from left to right: leave out num_beams and "
            "num_return_sequences, or stream"
        )
    new = count_new(module, [prompt], options)
    ends = _ending(options, tokenizer)
    chosen: Iterator[int]
    if draft is not None:
        chosen = draft.written(module, prompt, options, new)
    elif kept is not None:
        row = _KeptRow(module, kept, list(prompt), new)
        chosen = (token for (token,) in _tokens(row, options, new))
    else:
        rows = _rows(module, [list(prompt)], new, use_cache)
        chosen = (token for (token,) in _tokens(rows, options, new))

    def tokens() -> Iterator[int]:
        ids: list[int] = []
        with reordered(module):
            for token in chosen:
                if token == end_id:
                    return
                yield token
                ids.append(token)
                if ends is not None and ends(list(prompt), ids):
                    return

    return tokens()


def last_logits(module: nn.Module, ids: Tensor, cache: Cache | None, n: int = 1) -> Tensor:
    """Logits (B, n, V) of the last tokens of ids (B, T), in float32.

    A decoder that can be told so computes no others: its `forward` takes `logits_to_keep`.
    """
    keep = {"logits_to_keep": n} if _keeps(type(module).forward) else {}
    with enough_threads(module, ids.numel()):
        logits: Tensor = module(ids, cache, **keep)
    return (logits if logits.shape[1] == n else logits[:, -n:]).float()


@functools.cache
def _keeps(forward: Callable[..., Tensor]) -> bool:
    return "logits_to_keep" in inspect.signature(forward).parameters


def filter_scores(
    scores: Tensor, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0
) -> Tensor:
    """Scores (R, V) to draw from: divided by the temperature, then -inf where a filter cuts.

    Top-k keeps the k best and what equals the last of them. Top-p (Holtzman et al. 2020,
    arXiv:1904.09751) keeps the fewest best whose chances, among those left by top-k, reach p.
    """
    scores = scores / temperature
    if 0 < top_k < scores.shape[-1]:
        worst = scores.topk(top_k).values[:, -1:]  # (R, 1)
        scores = scores.masked_fill(scores < worst, -math.inf)
    if top_p < 1:
        ascending, order = scores.sort(dim=-1)
        cut = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
        cut[:, -1] = False  # the best stays, whatever p is
        scores = scores.masked_fill(cut.scatter(1, order, cut), -math.inf)
    return scores


def count_new(
    module: nn.Module, prompts: Sequence[Sequence[int]], options: GenerationOptions
) -> int:
    """How many tokens to write at most, once the prompts and their lengths are found good."""
    if not all(prompts):
        raise InputError("The prompt is empty: give at least one token to go on from")
    longest, max_len = max(map(len, prompts)), getattr(module, "max_len", None)
    wanted = options.max_new_tokens
    if max_len is None:
        return DEFAULT_NEW_TOKENS if wanted is None else wanted
    room = max_len - longest + 1  # the last token is written, never read
    if room < 1 or (wanted is not None and wanted > room):
        asked = "" if wanted is None else f" and {wanted} new ones"
        less = f"ask for max_new_tokens={room} at most, " if room > 0 else ""
        raise ContextLengthError(
            f"{longest} prompt tokens{asked}, but this model has {max_len} positions: {less}"
            "shorten the prompt, or take a model whose positions go on (ALiBi, RoPE, relative)"
        )
    return min(DEFAULT_NEW_TOKENS, room) if wanted is None else wanted


def _repeated(prompts: Sequence[Sequence[int]], times: int) -> list[list[int]]:
    """Each prompt so many times, the copies side by side."""
    return [list(prompt) for prompt in prompts for _ in range(times)]


def _ending(options: GenerationOptions, tokenizer: "Tokenizer | None") -> Ending | None:
    """The check for the options' stop texts."""
    if not options.stop:
        return None
    if tokenizer is None:
        raise InputError(f"stop={options.stop!r} needs the tokenizer, to see texts in tokens")
    decode = tokenizer.decode
    # a token is at least a byte of text; four more, so that a character cut in two is no matter
    window = max(len(text.encode()) for text in options.stop) + 4

    def ends(prompt: list[int], ids: list[int]) -> bool:
        # decoders join a token to the one before
        before = ids[-window - 1 : -window] if len(ids) > window else prompt[-1:]
        text = decode(before + ids[-window:])[len(decode(before)) :]
        return any(stop in text for stop in options.stop)

    return ends


def _worth_computing(running: Sequence[bool], group: int) -> list[int] | None:
    """The rows to go on with, when a quarter of them or more is done; a group goes as a whole.

    To leave rows out costs a copy of the cache, so that it is not done for each.
    """
    alive = [
        row
        for first in range(0, len(running), group)
        if any(running[first : first + group])
        for row in range(first, first + group)
    ]
    return alive if len(alive) <= 0.75 * len(running) else None


class _CachedRows:
    """Next-token scores of a batch of texts, by way of the key/value cache.

    Args:
        module: the decoder.
        texts: ids of each row; shorter ones are padded on the left.
        new: tokens to come; the last one is never read.
    """

    def __init__(self, module: nn.Module, texts: list[list[int]], new: int) -> None:
        like = next(module.parameters())
        longest = max(map(len, texts))
        columns = _columns(longest + new - 1, getattr(module, "max_len", None))
        padding = [longest - len(text) for text in texts]
        padded = [[0] * pad + text for pad, text in zip(padding, texts, strict=True)]
        self.module = module
        self.texts = texts
        self.ids = torch.tensor(padded, device=like.device)  # (R, T)
        # a decoder that looks at a source says which cache it wants, and what a row is written from
        self.written_from = getattr(module, "texts", lambda rows: texts)(len(texts))
        self.cache = getattr(module, "cache_class", Cache).of(
            module.config,
            len(texts),
            columns,
            padding=torch.tensor(padding, device=like.device),
            like=like,
        )
        self.steps = _steps(module, self.cache)

    def first(self) -> Tensor:
        """Scores (R, V) of what follows the texts."""
        return self.step(self.ids)

    def step(self, ids: Tensor) -> Tensor:
        """Scores (R, V) of what follows after ids (R, T) are appended."""
        if ids.shape[1] == 1 and self.steps is not None:
            return self.steps(ids)[:, 0]
        return last_logits(self.module, ids, self.cache)[:, 0]

    def reorder(self, rows: Tensor) -> None:
        """Keep these rows, (R,), in this order."""
        if len(rows) < len(self.ids) and hasattr(self.module, "keep"):
            self.module.keep(rows, len(self.ids))  # type: ignore[operator]
        if len(rows) < len(self.ids) or self.cache.padding is not None:
            self.steps = None  # other calls, or the same of tensors that come and go
        self.ids = self.ids[rows]
        self.cache.reorder(rows)


def _columns(wanted: int, limit: int | None) -> int:
    """How many columns a cache gets: lengths that are near each other have as many.

    So the steps of one text serve the next (`zoo.nn.replay`), which is rarely just as long.
    """
    whole = -(-wanted // 64) * 64
    return whole if limit is None else max(wanted, min(whole, limit))


def _steps(module: nn.Module, cache: Cache) -> Steps | None:
    """Those of one token a row, for as long as the rows stay where they are."""
    return Steps(lambda ids: last_logits(module, ids, cache), module, cache)


class Kept:
    """A text that has been read, and its keys and values: what one answer leaves to the next.

    Attributes:
        ids: the tokens that were read and are still at hand.
        cache: their keys and values; None before the first one.
        read: how many tokens were ever read.
    """

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.cache: Cache | None = None
        self.read = 0

    def begin(self, module: nn.Module, text: Sequence[int], columns: int) -> list[int]:
        """Go back to where a text is another one; returns what is left of it to be read.

        Args:
            module: that reads.
            text: token ids; the last one is always read, since scores come from it.
            columns: as many as the cache must hold.
        """
        pairs = zip(self.ids, text[:-1], strict=False)
        same = next((n for n, (old, new) in enumerate(pairs) if old != new), None)
        same = min(len(self.ids), len(text) - 1) if same is None else same
        if self.cache is None or self.cache.max_len < columns:
            like = next(module.parameters())
            grown = Cache.of(module.config, 1, columns, like=like)
            if self.cache is not None:
                grown.memory[..., :same, :] = self.cache.memory[..., :same, :]
            self.cache = grown
        self.cache.length = same  # columns behind it are written over
        del self.ids[same:]
        return list(text[same:])


class _KeptRow(_CachedRows):
    """One text, of which only that is read which a `Kept` has not read yet."""

    def __init__(self, module: nn.Module, kept: Kept, text: list[int], new: int) -> None:
        left = kept.begin(module, text, len(text) + new - 1)
        assert kept.cache is not None  # made by the line above
        self.module, self.kept, self.cache = module, kept, kept.cache
        self.texts = self.written_from = [text]
        self.ids = torch.tensor([left], device=next(module.parameters()).device)
        self.steps = _steps(module, self.cache)

    def step(self, ids: Tensor) -> Tensor:
        scores = super().step(ids)
        self.kept.ids += ids[0].tolist()
        self.kept.read += ids.shape[1]
        return scores


class _WholeRows:
    """The same without a cache: each row on its own, from its first token."""

    def __init__(self, module: nn.Module, texts: list[list[int]]) -> None:
        device = next(module.parameters()).device
        self.module = module
        self.texts = self.written_from = texts
        self.ids = [torch.tensor(text, device=device) for text in texts]

    def first(self) -> Tensor:
        return torch.cat([last_logits(self.module, ids[None], None)[:, 0] for ids in self.ids])

    def step(self, ids: Tensor) -> Tensor:
        self.ids = [torch.cat(pair) for pair in zip(self.ids, ids, strict=True)]
        return self.first()

    def reorder(self, rows: Tensor) -> None:
        self.ids = [self.ids[row] for row in rows.tolist()]


def _rows(
    module: nn.Module, texts: list[list[int]], new: int, use_cache: bool
) -> _CachedRows | _WholeRows:
    return _CachedRows(module, texts, new) if use_cache else _WholeRows(module, texts)


class Repetition:
    """The penalty on tokens that stand in the text already (Keskar et al. 2019, arXiv:1909.05858).

    Args:
        penalty: positive scores are divided by it, negative ones multiplied.
        rows: the texts it starts from.
    """

    def __init__(self, penalty: float, rows: _CachedRows | _WholeRows) -> None:
        config: Any = rows.module.config
        device = next(rows.module.parameters()).device
        self.penalty = penalty
        self.seen = torch.zeros(len(rows.texts), config.vocab_size, dtype=torch.bool, device=device)
        for row, text in enumerate(rows.texts):
            self.seen[row, text] = True

    def __call__(self, scores: Tensor) -> Tensor:
        """Scores (R, V) with the penalty."""
        return penalised(scores, self.seen, self.penalty)

    def add(self, tokens: Tensor) -> None:
        """Tokens (R,) were appended."""
        self.seen.scatter_(1, tokens[:, None], True)

    def reorder(self, rows: Tensor) -> None:
        """Keep these rows, (R,), in this order."""
        self.seen = self.seen[rows]


def penalised(scores: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Scores (R, V), where `seen` (R, V) divided by the penalty, or multiplied if negative."""
    return torch.where(seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


class Draw:
    """Draws a token for each row, each row from its own stream of chance.

    Rows with different texts use the same stream of the seed, so that a text's draws are those it
    would have alone; copies of a text use one stream each.

    Args:
        options: how they are drawn.
        texts: what each row goes on from.
        first: the number of the first copy.
    """

    def __init__(
        self, options: GenerationOptions, texts: Sequence[Sequence[int]], first: int = 0
    ) -> None:
        seed = int(torch.randint(2**62, ())) if options.seed is None else options.seed
        copies: Counter[tuple[int, ...]] = Counter()
        self.streams = []
        for text in map(tuple, texts):
            self.streams.append(Random(f"{seed}/{first + copies[text]}"))
            copies[text] += 1
        self.temperature = 1.0 if options.temperature is None else options.temperature
        self.top_k = options.top_k or 0
        self.top_p = 1.0 if options.top_p is None else options.top_p

    def __call__(self, scores: Tensor) -> Tensor:
        """A token for each row of scores (R, V): (R,)."""
        return self.pick(self.chances(scores))

    def chances(self, scores: Tensor) -> Tensor:
        """The chance of each token (R, V), by its score (R, V)."""
        scores = filter_scores(
            scores, temperature=self.temperature, top_k=self.top_k, top_p=self.top_p
        )
        return scores.softmax(dim=-1)

    def pick(self, chances: Tensor) -> Tensor:
        """A token for each row (R,), in proportion to its chances (R, V), of whatever sum."""
        reached = chances.cumsum(dim=-1)  # (R, V)
        # above 0 and at most 1: the first token to reach such a share of the sum has a chance
        shares = [[1 - stream.random()] for stream in self.streams]
        wanted = reached[:, -1:] * torch.tensor(shares, device=chances.device)  # (R, 1)
        return torch.searchsorted(reached, wanted)[:, 0]


@torch.inference_mode()
def _tokens(
    rows: _CachedRows | _WholeRows, options: GenerationOptions, new: int
) -> Generator[list[int], list[int] | None, None]:
    """One token for each row, `new` times, greedily or drawn.

    It goes on with the rows that it is sent, or with all.
    """
    penalty = options.repetition_penalty
    repetition = None if penalty == 1 else Repetition(penalty, rows)
    draw = Draw(options, rows.written_from) if options.samples else None
    scores = rows.first()
    for left in range(new - 1, -1, -1):
        if repetition is not None:
            scores = repetition(scores)
        tokens = scores.argmax(dim=-1) if draw is None else draw(scores)  # (R,)
        kept = yield tokens.tolist()
        if left:
            if kept is not None:
                index = torch.tensor(kept, device=tokens.device)
                tokens = tokens[index]
                rows.reorder(index)
                if repetition is not None:
                    repetition.reorder(index)
                if draw is not None:
                    draw.streams = [draw.streams[row] for row in kept]
            if repetition is not None:
                repetition.add(tokens)
            scores = rows.step(tokens[:, None])


@torch.inference_mode()
def _search(
    rows: _CachedRows | _WholeRows,
    options: GenerationOptions,
    new: int,
    end_id: int | None,
    ends: Ending | None,
) -> Generation:
    """Beam search: the K best unfinished hypotheses of each prompt grow side by side.

    A hypothesis that ends among the K best of a step is finished and keeps its score. A prompt is
    done when its best unfinished one, scored at its present length, is behind K finished ones
    (`early_stopping=False` in `transformers`).

    Args:
        rows: P times K of them, a prompt's side by side.
        options: how to decode.
        new: tokens to write at most.
        end_id: the token that ends a text.
        ends: the check for stop texts.
    """
    K = options.num_beams
    P = len(rows.texts) // K
    penalty = options.repetition_penalty
    repetition = None if penalty == 1 else Repetition(penalty, rows)
    prompts = rows.texts[::K]
    places = list(range(P))  # of the prompts that are computed, among all
    scores = rows.first()  # (P * K, V)
    C, device = min(2 * K, scores.shape[-1]), scores.device
    offsets = torch.arange(P, device=device)[:, None] * K  # (P, 1), first row of each prompt
    written = torch.empty(P * K, 0, dtype=torch.long, device=device)
    live = torch.full((P, K), NEVER, device=device)
    live[:, 0] = 0  # the K rows are still the same text: let only one of them grow
    finished: list[list[tuple[float, list[int]]]] = [[] for _ in range(P)]
    searching = [True] * P
    for n in range(1, new + 1):
        # of 2 K candidates at most K end by the end token, so that K can go on
        if repetition is None:
            normal = scores.logsumexp(dim=-1, keepdim=True)  # (P * K, 1)
            likely, tokens = scores.topk(C)  # (P * K, C), among which the prompt's 2 K best are
            likely = likely - normal
        else:
            likely, tokens = repetition(scores.log_softmax(dim=-1)).topk(C)
        total = (likely.view(P, K, C) + live[..., None]).view(P, K * C)
        best, index = total.topk(2 * K)  # (P, 2 K)
        origin, token = index // C + offsets, tokens.view(P, K * C).gather(1, index)
        candidates = torch.cat([written[origin], token[..., None]], dim=-1)  # (P, 2 K, n)
        ended = torch.full_like(token, n == new, dtype=torch.bool)
        if end_id is not None:
            ended |= token == end_id
        if ends is not None:
            stopped = [
                [ends(prompt, ids) for ids in group]
                for prompt, group in zip(prompts, candidates.tolist(), strict=True)
            ]
            ended |= torch.tensor(stopped, device=device)
        for prompt, place in ended[:, :K].nonzero().tolist():
            if searching[prompt]:
                ids = candidates[prompt, place].tolist()
                score = best[prompt, place].item() / n**options.length_penalty
                found = finished[places[prompt]]
                found.append((score, ids[:-1] if ids[-1] == end_id else ids))
        live, kept = (best + ended * NEVER).topk(K)  # (P, K)
        reach = (live[:, 0] / n**options.length_penalty).tolist()
        for prompt, place in enumerate(places):
            hypotheses = finished[place]
            hypotheses.sort(key=lambda pair: -pair[0])
            del hypotheses[K:]
            full = len(hypotheses) == K
            searching[prompt] &= not full or reach[prompt] > hypotheses[-1][0]
        if n == new or not any(searching):
            break
        source, tokens = origin.gather(1, kept), token.gather(1, kept)  # (P, K)
        alive = _worth_computing(searching, 1)
        if alive is not None:
            source, tokens, live = source[alive], tokens[alive], live[alive]
            prompts, places = [prompts[p] for p in alive], [places[p] for p in alive]
            searching = [True] * len(alive)
            P, offsets = len(alive), offsets[: len(alive)]
        source, tokens = source.flatten(), tokens.flatten()  # (P * K,)
        written = torch.cat([written[source], tokens[:, None]], dim=1)
        rows.reorder(source)
        if repetition is not None:
            repetition.reorder(source)
            repetition.add(tokens)
        scores = rows.step(tokens[:, None])
    answers = [pair for found in finished for pair in found[: options.num_return_sequences]]
    return Generation(ids=[ids for _, ids in answers], scores=[score for score, _ in answers])
