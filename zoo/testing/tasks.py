"""Checks of a task, against predictors whose scores are known.

Letters: B batch, T length, V vocabulary, N tokens.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import DataNotFoundError, MissingExtraError
from zoo.model import Model
from zoo.registry import registry, resolve
from zoo.tasks import (
    BaseTask,
    Captioning,
    Contrastive,
    ImageClassification,
    InstructionTuning,
    LanguageModeling,
    Translation,
)
from zoo.tasks.preferences import PreferenceTuning
from zoo.testing.kit import Failed, NotApplicable, Subject
from zoo.testing.static import require_spdx

LENGTH, BATCH_TOKENS, LIMIT = 16, 64, 200
CHARACTERS = 50_000  # of each split: a whole corpus would tell no more, and take minutes
SENTENCE, PAIRS = 512, 2000  # characters of the longest; of each split
CONVERSATION, CONVERSATIONS = 1 << 15, 200  # characters of the longest, as written; of each split
SETTINGS = {"kind": "character"}
TEXTS = ("", " ", "\n", "Füße, 漢字 and 🙂‍↔️", "\u202e\x00", "word " * 5000)


def classes(subject: Subject) -> None:
    """The class and what the entry says about it."""
    kind = resolve(subject.thing.target)
    if not (isinstance(kind, type) and issubclass(kind, BaseTask)):
        raise Failed(f"{subject.thing.target} must be a class of zoo.tasks.BaseTask, got {kind!r}")
    kind()
    if "train" not in kind.splits or not kind.test_splits:
        raise Failed(f"splits are {kind.splits}: there must be 'train', and a test split")
    if unknown := set(kind.test_splits) - set(kind.splits):
        raise Failed(f"test_splits {sorted(unknown)} are not among the splits {kind.splits}")
    if not subject.thing.metrics:
        raise Failed("the entry names no metric; the first one is the headline of every card")
    if subject.thing.license != "other":
        require_spdx(subject.thing.license)
    registry().pipelines.get(subject.thing.pipeline)


def tokenizer(subject: Subject) -> None:
    """Built twice it is the same; nothing that a person may type stops it. Pictures have none."""
    with data_at_hand():
        one, other = (task_of(subject).build_tokenizer(SETTINGS) for _ in range(2))
    if isinstance(task_of(subject), ImageClassification):
        if one is not None:
            raise Failed("build_tokenizer of a task of pictures must give None")
        return
    if one.to_str() != other.to_str():
        raise Failed("build_tokenizer gives another tokenizer the second time")
    size = one.get_vocab_size()
    for text in TEXTS:
        if any(not 0 <= token < size for token in one.encode(text).ids):
            raise Failed(f"the tokenizer gives ids past its vocabulary of {size} for {text[:20]!r}")


def batches(subject: Subject) -> None:
    """What lets a killed run go on exactly."""
    if isinstance(task_of(subject), PreferenceTuning):
        raise NotApplicable("preferences are learned by a trained model, and the kit has none")

    def made(seed: int) -> Any:
        task = task_of(subject)
        return task.batches(
            task.build_tokenizer(SETTINGS),
            length=length_of(task),
            batch_tokens=BATCH_TOKENS,
            seed=seed,
        )

    with data_at_hand():
        one, again, other = made(1), made(1), made(2)
    if not one.per_epoch >= 1:
        raise Failed(f"per_epoch is {one.per_epoch}, it must be at least 1")
    steps = (0, 1, one.per_epoch, 3)
    for step in steps:
        require_equal(one(step), again(step), f"step {step} differs between two runs of one seed")
    require_equal(one(0), again(0), "step 0 is another batch when it is asked for again")
    if all(equal(one(step), other(step)) for step in steps):
        raise Failed("another seed gives the same batches")
    if equal(one(0), one(1)) and one.per_epoch > 1:
        raise Failed("steps 0 and 1 are the same batch")


def loss(subject: Subject) -> None:
    """One who knows nothing loses log V nats a token."""
    task = language_task(subject)
    with data_at_hand():
        coder = task.build_tokenizer(SETTINGS)
        made = task.batches(coder, length=LENGTH, batch_tokens=BATCH_TOKENS, seed=1)
    V = coder.get_vocab_size()
    module = Uniform(V)
    value = task.loss(module, made(0))
    if value.shape != () or abs(value.item() - math.log(V)) > 1e-4:
        raise Failed(f"the loss of a uniform predictor is {value}, log {V} is {math.log(V):.4f}")
    value.backward()  # type: ignore[no-untyped-call]
    if module.weight.grad is None:
        raise Failed("no gradient comes back from the loss")


def evaluates(subject: Subject) -> None:
    """Every split, all metrics of the entry, twice the same."""
    task = language_task(subject)
    with data_at_hand():
        model = model_of(task, Uniform)
        for split in task.splits:
            found = task.evaluate(model, split, limit=LIMIT)
            for name in subject.thing.metrics:
                for key in (name, f"{name}_stderr"):
                    if not math.isfinite(found.get(key, math.nan)):
                        raise Failed(f"{split}: {key} is {found.get(key, 'missing')}")
                if found[f"{name}_stderr"] < 0:
                    raise Failed(f"{split}: {name}_stderr is below 0")
            if task.evaluate(model, split, limit=LIMIT) != found:
                raise Failed(f"{split}: measured again, the scores differ")


def known_scores(subject: Subject) -> None:
    """Perplexity V and 1, in every split."""
    task = language_task(subject)
    with data_at_hand():
        uniform, perfect = model_of(task, Uniform), model_of(task, Perfect)
        assert uniform.tokenizer is not None
        V = uniform.tokenizer.get_vocab_size()
        for split in task.test_splits:
            found = task.evaluate(uniform, split, limit=LIMIT)["perplexity_per_token"]
            if abs(found - V) > 1e-3 * V:
                raise Failed(f"a uniform predictor over {V} tokens has perplexity {found:.4g}")
            ids = uniform.tokenizer.encode(task.start + task.text(split)).ids
            perfect.module.text = torch.tensor(ids[: LIMIT + LENGTH + 1])
            scores = task.evaluate(perfect, split, limit=LIMIT)
            found, right = scores["perplexity_per_token"], scores["accuracy"]
            if found > 1.001 or right < 0.999:
                raise Failed(
                    f"a perfect predictor has perplexity {found:.4g}, accuracy {right:.4g}"
                )


@dataclass(frozen=True)
class PredictorConfig:
    """What a task asks a config for."""

    max_seq_len: int = LENGTH


@dataclass(frozen=True)
class PictureConfig:
    """What a task of pictures asks a config for."""

    max_seq_len: int = LENGTH
    image_size: int = 16
    n_channels: int = 3
    image_mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: tuple[float, ...] = (0.5, 0.5, 0.5)
    pad_id: int = 0
    start_id: int = 0


class Uniform(nn.Module):
    """Gives every token the same chance."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.config = PredictorConfig()
        self.weight = nn.Parameter(torch.zeros(vocab_size))

    def forward(self, ids: Tensor, cache: None = None) -> Tensor:
        """Logits (B, T, V), all 0."""
        return self.weight.expand(*ids.shape, -1)


class Perfect(Uniform):
    """Knows the text: each row's next tokens are those it holds, the last one is looked up."""

    text: Tensor  # (N,)

    def forward(self, ids: Tensor, cache: None = None) -> Tensor:
        """Logits (B, T, V) that are certain of the right token."""
        T = ids.shape[1]
        windows = self.text.unfold(0, T + 1, 1)  # (N - T, T + 1)
        logits = torch.zeros(*ids.shape, len(self.weight))
        for row, given in enumerate(ids):
            places = (windows[:, :T] == given).all(dim=1).nonzero()
            if len(places):
                right = windows[places[0, 0], 1:]  # (T,)
                logits[row].scatter_(1, right[:, None], 50.0)
        return logits


def task_of(subject: Subject) -> Any:
    """The task, made anew; of long texts the beginnings only, of pairs the first ones."""
    task = resolve(subject.thing.target)()
    if isinstance(task, LanguageModeling):
        text = task.text
        task.text = lambda split: text(split)[:CHARACTERS]  # type: ignore[method-assign]
    if isinstance(task, Translation):
        pairs = task.pairs

        def first(split: str) -> tuple[Sequence[str], Sequence[str]]:
            sources, targets = pairs(split)
            return sources[:PAIRS], targets[:PAIRS]

        task.pairs = first  # type: ignore[method-assign]
    if isinstance(task, Captioning | Contrastive | ImageClassification):
        task.model_config = PictureConfig()
    if isinstance(task, InstructionTuning):
        told = task.conversations
        task.conversations = lambda split: told(split)[:CONVERSATIONS]  # type: ignore[method-assign]
    return task


def length_of(task: Any) -> int:
    """How many characters the kit's rows have: what does not fit is left out."""
    if isinstance(task, InstructionTuning):
        return CONVERSATION
    return SENTENCE if isinstance(task, Translation) else LENGTH


def language_task(subject: Subject) -> LanguageModeling:
    """The task, when it continues texts."""
    task = task_of(subject)
    if not isinstance(task, LanguageModeling):
        raise NotApplicable("the kit knows the scores of text to be continued so far")
    return task


def model_of(task: LanguageModeling, kind: type[Uniform]) -> Model:
    """A predictor behind the task's tokenizer."""
    coder = task.build_tokenizer(SETTINGS)
    module = kind(coder.get_vocab_size()).eval()
    return Model(
        name=kind.__name__.lower(),
        module=module,
        config=module.config,
        tokenizer=coder,
        pipeline="text-generation",
        card=None,
    )


@contextmanager
def data_at_hand() -> Iterator[None]:
    """What is not here cannot be checked, and says so."""
    try:
        yield
    except (DataNotFoundError, MissingExtraError) as error:
        raise NotApplicable(f"its data are not at hand: {error}") from error


def require_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor], what: str) -> None:
    """Raise unless two batches are the same."""
    if not equal(one, other):
        raise Failed(what)


def equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two batches hold the same tensors."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)
