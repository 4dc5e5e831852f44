"""What all pages share: the registry, the models in memory, and the bounds of a public page."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import zoo
from zoo import Card, Model
from zoo.generation import Kept
from zoo.registry import Registry, registry

COMPUTE = "compute"  # the one queue that every forward pass waits in


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds, so that one visitor cannot take the page from the others.

    Attributes:
        new_tokens: most tokens an answer may have.
        prompt_characters: longest prompt.
        file_megabytes: largest file, a picture above all.
        pictures: most pictures that are searched at once.
        texts: most texts that are held against each other, or against pictures, and most documents
            that are asked at once.
        document_megabytes: documents of one visitor together, which stay in memory.
        passages: most that are found for a question.
        attention_tokens: longest text whose attention is drawn.
        waiting: requests that may wait for their turn; more are told that the page is busy.
        models: how many are held in memory.
        conversations: of how many the keys and values are.
        visitors: of how many the pages are remembered as they left them, 2.5 MiB each.
        train_steps: most optimiser steps of a training.
        train_parameters: largest model that may be trained.
        train_seconds: longest training.
    """

    new_tokens: int = 200
    prompt_characters: int = 4000
    file_megabytes: int = 8
    pictures: int = 16
    texts: int = 24
    document_megabytes: int = 2
    passages: int = 10
    attention_tokens: int = 48
    waiting: int = 32
    models: int = 4
    conversations: int = 16
    visitors: int = 100
    train_steps: int = 500
    train_parameters: int = 1_000_000
    train_seconds: int = 600


class ModelStore:
    """Models in memory: loaded on first use, the least recently used let go.

    Args:
        size: how many are held.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._models: OrderedDict[str, Model] = OrderedDict()
        self._folders: dict[str, Path] = {}
        self._lock = threading.Lock()

    def get(self, name: str, tell: Callable[[str], None] | None = None) -> Model:
        """The model of a name, loaded if it is not in memory.

        Args:
            name: a registered model, or one that `add` was given.
            tell: called with a line before a load that takes a while.

        Raises:
            ZooError: it cannot be loaded, its weights are gone for example.
        """
        with self._lock:
            model = self._models.pop(name, None)
            if model is None:
                if tell is not None:
                    tell(f"Loading the weights of {name}")
                model = zoo.load(str(self._folders.get(name, name)))
            self._models[name] = model
            while len(self._models) > self.size:
                self._models.popitem(last=False)
            return model

    def add(self, name: str, folder: Path) -> None:
        """Make a model folder that is not registered known under a name, in place of an old one."""
        with self._lock:
            self._folders[name] = folder
            self._models.pop(name, None)

    def __contains__(self, name: str) -> bool:
        with self._lock:
            return name in self._models


class Readings:
    """What models have read of the latest conversations, their keys and values.

    Args:
        size: how many are held; of another one everything is read again.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._kept: OrderedDict[tuple[str, str], Kept] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, conversation: str, model: str) -> Kept:
        """That of a conversation with a model; an empty one if it is not held."""
        with self._lock:
            kept = self._kept.pop((conversation, model), None) or Kept()
            self._kept[conversation, model] = kept
            while len(self._kept) > self.size:
                self._kept.popitem(last=False)
            return kept


@dataclass
class Gallery:
    """One running gallery.

    Attributes:
        limits: its bounds.
        registry: what is installed.
        models: those in memory.
        readings: of conversations.
    """

    limits: Limits = field(default_factory=Limits)
    registry: Registry = field(default_factory=registry)
    models: ModelStore = field(init=False)
    readings: Readings = field(init=False)

    def __post_init__(self) -> None:
        self.models = ModelStore(self.limits.models)
        self.readings = Readings(self.limits.conversations)

    @property
    def cards(self) -> list[Card]:
        """The cards of all registered models, by name."""
        return [zoo.info(name) for name in zoo.list_models()]
