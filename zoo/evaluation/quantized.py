"""What quantisation does to a model: its size, its speed and its score, before and after."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from zoo.errors import DataNotFoundError, InputError, MissingExtraError
from zoo.evaluation.evaluate import check_sizes, evaluate
from zoo.evaluation.speed import TOKENS, Figure, is_timed, measured, works
from zoo.export.base import arguments
from zoo.folder import WEIGHTS
from zoo.generation import GenerationOptions, generate
from zoo.model import Model
from zoo.nn.quantized import KINDS, kind_of, to_stored
from zoo.quantization import quantize, require_float
from zoo.tasks.language_modeling import token_scores

OWN_TOKENS = 2048  # of text that a model writes to be measured on, where its task has none here
OWN_LENGTH = 256  # of them in a row


@dataclass(frozen=True)
class Row:
    """A model as one kind of numbers.

    Attributes:
        kind: of its weights: `float32`, `int8`, ...
        bytes: of its weights on disk, or of what a file of them holds where there is none.
        speed: what it does a second; None for what is not timed.
        score: of the metric; None where there is nothing to measure on.
        error: standard error of the score, or None.
    """

    kind: str
    bytes: int
    speed: Figure | None
    score: float | None
    error: float | None


@dataclass(frozen=True)
class Effect:
    """What `effect` found.

    Attributes:
        rows: the model as it is, then each kind.
        metric: what the scores are; empty where there are none.
        text: what they were measured on, or why on nothing.
    """

    rows: tuple[Row, ...]
    metric: str
    text: str

    def change(self, row: Row) -> float | None:
        """By which share of it the first row's score changed."""
        before = self.rows[0].score
        if row is self.rows[0] or not before or row.score is None:
            return None
        return row.score / before - 1


def effect(
    model: Model,
    kinds: Sequence[str] = tuple(KINDS),
    *,
    limit: int | None = None,
    batch: int = 1,
    tokens: int = TOKENS,
    rounds: int = 5,
) -> Effect:
    """Quantise a model in several ways, and measure each beside the model as it is.

    The score is the first metric of its task, on the split that its card has scores of. Where the
    data are not at hand, a decoder is measured on 2,048 tokens that it writes itself, drawn by its
    own chances: the logarithm of such a perplexity grows by the Kullback-Leibler divergence of what
    it becomes from what it was.

    Args:
        model: as `zoo.quantize` takes it.
        kinds: of `zoo.quantize`.
        limit: measure the score on the first so many tokens or examples only.
        batch: texts or pictures at a time, of timing.
        tokens: to write in a round of timing.
        rounds: of timing; all kinds take turns.

    Raises:
        InputError: an unknown kind, a size below 1, or as of `zoo.quantize`.
    """
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown or not kinds:
        what = repr(unknown[0]) if unknown else "none"
        raise InputError(f"Unknown quantisation {what}. There is: {', '.join(KINDS)}")
    check_sizes(limit=limit, batch=batch, tokens=tokens, rounds=rounds)
    require_float(model, "quantised once more")
    dtype = str(next(model.module.parameters()).dtype).removeprefix("torch.")
    models = {dtype: model} | {kind: quantize(model, kind) for kind in kinds}
    speeds: list[Figure | None] = [None] * len(models)
    if is_timed(model):
        timed = [works(one, batches=(batch,), tokens=tokens)[-1] for one in models.values()]
        speeds = list(measured(timed, rounds))
    score, text = _measure(model, limit)
    scores = [score(one) for one in models.values()]
    rows = [
        Row(kind, _bytes(one), speed, value, error)
        for (kind, one), speed, (_, value, error) in zip(
            models.items(), speeds, scores, strict=True
        )
    ]
    return Effect(tuple(rows), scores[0][0], text)


Score = tuple[str, float | None, float | None]  # a metric, its value, its standard error


def _measure(model: Model, limit: int | None) -> tuple[Callable[[Model], Score], str]:
    """How to score a model and the likes of it, and on what."""
    scored = [] if model.card is None else model.card.scores
    split = scored[0].split if scored and scored[0].split else "test"

    def on_task(one: Model) -> Score:
        found = evaluate(one, split=split, limit=limit)
        name = next(iter(found))
        return name, found[name], found.get(f"{name}_stderr")

    try:
        evaluate(model, split=split, limit=1)
    except (DataNotFoundError, MissingExtraError, InputError) as error:
        if "cache" not in arguments(type(model.module)):
            return lambda one: ("", None, None), f"nothing: {error}"
        rows = _own_rows(model)
        text = f"{sum(map(len, rows)) - len(rows):,} tokens that {model.name} writes itself, since"
        return lambda one: _perplexity(one, rows), f"{text} {error}"
    assert model.card is not None  # or no task would be known
    most = "" if limit is None else f", the first {limit:,}"
    return on_task, f"{model.card.task or 'the data it was trained on'}, {split}{most}"


def _own_rows(model: Model) -> list[list[int]]:
    """Texts that a decoder writes, each after a token of its own."""
    most = getattr(model.module, "max_len", None) or OWN_LENGTH
    length = min(OWN_LENGTH, most)
    rows = math.ceil(OWN_TOKENS / length)
    size = model.config.vocab_size
    prompts = [[1 + row * (size - 1) // rows] for row in range(rows)]
    options = GenerationOptions(max_new_tokens=length, temperature=1.0, seed=1)
    written = generate(model.module, prompts, options).ids
    return [prompt + new for prompt, new in zip(prompts, written, strict=True)]


def _perplexity(model: Model, rows: Sequence[Sequence[int]]) -> Score:
    """Perplexity per token of texts behind their first tokens, and its standard error."""
    nats = torch.cat([token_scores(model.module, torch.tensor(r), len(r) - 1)[0] for r in rows])
    value = nats.mean().exp().item()
    return "perplexity_per_token", value, value * nats.std().item() / math.sqrt(len(nats))


def _bytes(model: Model) -> int:
    files = {} if model.card is None else model.card.files
    if (
        kind_of(model.module) is None and WEIGHTS in files
    ):  # perhaps in less precision than it computes in
        return files[WEIGHTS].bytes
    return sum(tensor.nbytes for tensor in to_stored(model.module.state_dict()).values())
