"""What every format is made of, and how a written folder is held against the model it is of.

Letters: B batch, T length, V vocabulary, L labels, C channels.
"""

import inspect
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import takewhile
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from zoo.errors import InputError
from zoo.generation import GenerationOptions, generate
from zoo.model import Model
from zoo.nn import EncoderDecoder, VisionEncoderDecoder
from zoo.registry import registry

PROMPTS = (
    "The president of the United States said that",
    "It was the best of times, it was the worst of times",
    "In the middle of the night",
)
NEW_TOKENS = 64
READING = ("text-classification", "token-classification", "fill-mask", "image-classification")
FACTS = "txzoo"  # the key under which a file of one piece says what `facts_of` gives


class Engine(Protocol):
    """Another project's reading of an exported folder, opened."""

    def logits(self, *inputs: Tensor) -> Tensor:
        """What the model gives for ids (1, T) or pixels (1, C, height, width)."""

    def encode(self, text: str) -> list[int] | None:
        """The tokens of a text; None where the tokenizer is left to whoever uses it."""

    def greedy(self, ids: Sequence[int], new: int) -> list[int]:
        """The `new` most likely tokens after a text, whatever they are."""


class Format(ABC):
    """A layout: which architectures it can hold, how it is written, and what reads it.

    Attributes:
        engine: the distribution that reads it.
        pip: what installs that.
        rounding: by how much of their spread logits may differ and still be called the same; None
            where the numbers are coarser by intention.
    """

    engine: str
    pip: str
    rounding: float | None = 1e-3

    @abstractmethod
    def require(self, name: str, architecture: type) -> None:
        """Say at once what cannot be done.

        Args:
            name: of the model.
            architecture: the class of its module.

        Raises:
            MissingExtraError: a package that writes it is not installed.
            InputError: it cannot hold the architecture; says why, and what can be done.
        """

    def look(self, name: str, architecture: type, source: Path) -> None:  # noqa: B027  most need not
        """Say what cannot be done by what stands beside the weights, before they are read.

        Args:
            name: of the model.
            architecture: the class of its module.
            source: its folder.

        Raises:
            InputError: as of `require`.
        """

    @abstractmethod
    def write(self, model: Model, folder: Path) -> None:
        """Write the files into an empty folder."""

    @abstractmethod
    def open(self, folder: Path) -> Engine:
        """Open a written folder in the engine."""

    @abstractmethod
    def opened_by(self, folder: Path) -> str:
        """What to write to open it, or a sentence about it."""

    def missing(self) -> str | None:
        """The pip line when the engine is not installed, else None."""
        try:
            version(self.engine)
        except PackageNotFoundError:
            return f"pip install {self.pip}"
        return None


@dataclass(frozen=True)
class Check:
    """How an exported model compares with the one it is of.

    Attributes:
        engine: what read it, with its version.
        texts: how many texts or pictures.
        difference: the largest difference of a logit.
        spread: the standard deviation of the logits, to judge it by.
        largest: the largest logit, whatever its sign.
        same: greedy tokens up to the first that differs, of all texts together.
        tokens: greedy tokens of all texts; 0 for a model that writes none.
        agreed: labels, or words of a model that fills hidden ones, that are the same.
        labels: all of them, one a text or picture, or one a token; 0 for other models.
        misread: texts that it reads as other tokens.
        rounding: as of the format.
    """

    engine: str
    texts: int
    difference: float
    spread: float
    largest: float
    same: int
    tokens: int
    agreed: int
    labels: int
    misread: int
    rounding: float | None

    @property
    def ok(self) -> bool:
        """Whether the two are alike as far as the format promises."""
        alike = self.rounding is None or self.difference <= self.rounding * max(self.spread, 1.0)
        return alike and not self.misread


def compare(model: Model, folder: Path, format: Format, prompts: Sequence[str]) -> Check:
    """Open a written folder in the other engine, and hold it against the model.

    Args:
        model: what was exported.
        folder: what was written.
        format: its layout.
        prompts: texts to go on from; of a model without tokenizer random tokens are taken, of one
            that sees as many of random pixels.

    Raises:
        InputError: the engine is not installed, or the model is of a kind that is not compared.
    """
    if isinstance(model.module, VisionEncoderDecoder):
        raise InputError(f"{model.name} puts pictures into words, which is not compared")
    if (line := format.missing()) is not None:
        raise InputError(f"{format.engine} is not installed, so nothing is compared: {line}")
    module = model.module
    engine = format.open(folder)
    difference, spread, largest = 0.0, 0.0, 0.0
    same, tokens, agreed, labels = 0, 0, 0, 0
    inputs = list(_inputs(model, prompts))
    tokenizer = model.tokenizer
    misread = 0
    if tokenizer is not None:
        misread = sum(
            engine.encode(text) not in (None, tokenizer.encode(text).ids) for text in prompts
        )
    for given in inputs:
        ours: list[int] = []
        if writes(type(module)):
            ids: list[int] = given[0].tolist()
            new = min(NEW_TOKENS, longest(module) - len(ids))
            ours = greedy(module, ids, new)
            theirs = engine.greedy(ids, new)
            pairs = zip(ours, theirs, strict=True)
            same += sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
            tokens += new
        if isinstance(module, EncoderDecoder):
            told = torch.tensor([[module.config.start_id, *ours[:-1]]])
            asked: tuple[Tensor, ...] = (given, told)
        else:
            asked = (given,)
        with torch.inference_mode():
            expected = module(*asked).float()
        found = engine.logits(*asked).float()
        difference = max(difference, float((found - expected).abs().max()))
        spread = max(spread, float(expected.std()))
        largest = max(largest, float(expected.abs().max()))
        if model.pipeline in READING:
            chosen = expected.argmax(-1)
            agreed += int((found.argmax(-1) == chosen).sum())
            labels += chosen.numel()
    return Check(
        engine=f"{format.engine} {version(format.engine)}",
        texts=len(inputs),
        difference=difference,
        spread=spread,
        largest=largest,
        same=same,
        tokens=tokens,
        agreed=agreed,
        labels=labels,
        misread=misread,
        rounding=format.rounding,
    )


def facts_of(model: Model, format: str) -> str:
    """What `zoo.engines` must know of a model beside its numbers, as JSON.

    Args:
        model: that is written.
        format: it is written in.
    """
    kind = type(model.module)
    target = f"{kind.__module__}:{kind.__qualname__}"
    entries = registry().architectures.items()
    named = (name for name, entry in entries if entry.target == target)
    facts = {
        "name": model.name,
        "format": format,
        "architecture": next(named) if model.card is None else model.card.architecture,
        "config": model.config.to_dict(),
        "pipeline": model.pipeline,
        "max_len": getattr(model.module, "max_len", None),
    }
    return json.dumps(facts)


def arguments(architecture: type) -> list[str]:
    """Names of what the module of an architecture is called with."""
    return list(inspect.signature(architecture.forward).parameters)[1:]  # type: ignore[attr-defined]


def is_wrapped(architecture: type) -> bool:
    """Whether `transformers` computes it, by a configuration of its own within ours."""
    config: Any = getattr(architecture, "config_class", None)
    return is_dataclass(config) and "transformers" in {field.name for field in fields(config)}


def writes(architecture: type) -> bool:
    """Whether it reads tokens and writes tokens."""
    taken = arguments(architecture)
    return "cache" in taken or taken[:2] == ["source", "ids"]


def longest(module: nn.Module) -> int:
    """Tokens that a text of the check may have, those that are written included."""
    most: int = getattr(module.config, "max_seq_len", None) or 512
    return most


def greedy(module: nn.Module, ids: list[int], new: int) -> list[int]:
    """The most likely tokens after a text, or as the answer to a source."""
    options = GenerationOptions(max_new_tokens=new)
    if isinstance(module, EncoderDecoder):
        from zoo.pipelines.text2text import Given

        given = Given(module, [ids])
        return generate(given, given.prompts, options).ids[0]
    return generate(module, [ids], options).ids[0]


def _inputs(model: Model, prompts: Sequence[str]) -> Iterator[Tensor]:
    """What the model is asked: ids (1, T), or pixels (1, C, height, width)."""
    config: Any = model.config
    chance = torch.Generator().manual_seed(0)
    first = arguments(type(model.module))[0]
    if first == "pixels":
        size, channels = config.image_size, getattr(config, "n_channels", 3)
        for _ in prompts:
            yield torch.randn(1, channels, size, size, generator=chance)
        return
    room = max(1, longest(model.module) // 2)
    if model.tokenizer is None:
        for _ in prompts:
            yield torch.randint(config.vocab_size, (1, min(8, room)), generator=chance)
        return
    rows = [model.tokenizer.encode(prompt).ids[:room] for prompt in prompts]
    if not any(rows):
        raise InputError(f"None of the prompts has a token of {model.name}: give others")
    for row in rows:
        if row:
            yield torch.tensor([row])
