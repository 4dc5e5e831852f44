"""What the modules of all engines have in common.

Letters: B batch, T length, S columns of the cache, V vocabulary.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor, nn

from zoo.errors import ContextLengthError, FolderError, InputError
from zoo.export.base import FACTS
from zoo.nn import Cache
from zoo.registry import registry, resolve

if TYPE_CHECKING:
    from tokenizers import Tokenizer

ONE_THREAD = 4 << 20  # bytes of weights up to which a second thread costs more than it brings


class EngineModule(nn.Module):
    """A module whose numbers are computed elsewhere, and which is called as any other.

    Args:
        facts: what the exported file says of the model.

    Attributes:
        engine: that computes them.
        format: that it reads.
        max_len: positions that there are, if they end.
    """

    engine: str

    def __init__(self, facts: Mapping[str, Any]) -> None:
        super().__init__()
        architecture = resolve(registry().architectures.get(facts["architecture"]).target)
        self.config: Any = architecture.config_class.from_dict(facts["config"])
        self.format: str = facts["format"]
        self.max_len: int | None = facts["max_len"]
        # holds no number: it says where ids go, and of which kind the numbers in a cache are
        self.place = nn.Parameter(torch.empty(0), requires_grad=False)

    def state_dict(self, *_: Any, **__: Any) -> NoReturn:
        """Raise `InputError`: the weights are the engine's."""
        raise InputError(
            f"{self.engine} holds these weights: load the model without engine to save, export or "
            "change it"
        )

    def _apply(self, *_: Any, **__: Any) -> NoReturn:
        raise InputError(
            f"{self.engine} computes on the processor, in the precision of its file: load the "
            "model without engine to move it"
        )


class EngineDecoder(EngineModule, ABC):
    """A decoder.

    What was read is in the cache alone, so that beams may move its rows, a chat or a draft take
    columns back, and several texts be written in turns. Arguments as those of `EngineModule`.
    """

    @torch.no_grad()
    def forward(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """Logits of the next token at every position.

        Args:
            ids: token ids (B, T), the continuation of what `cache` holds.
            cache: what was read so far; filled by T more columns.

        Returns:
            Logits (B, T, V).

        Raises:
            ContextLengthError: more tokens than the model has positions.
        """
        B, T = ids.shape
        if cache is None:
            cache = Cache.of(self.config, B, T, like=self.place)
        length = cache.length + T
        if self.max_len is not None and length > self.max_len:
            raise ContextLengthError(
                f"{length} tokens, but this model has {self.max_len} positions"
            )
        logits = self.read(ids, cache)
        cache.advance(T)
        return logits

    @abstractmethod
    def read(self, ids: Tensor, cache: Cache) -> Tensor:
        """Logits (B, T, V) of ids (B, T), and what was read of them into the cache's columns."""


@dataclass(frozen=True)
class Opened:
    """An exported folder, opened by its engine.

    Attributes:
        module: computes.
        tokenizer: None where the folder has none.
        facts: what `zoo.export.base.facts_of` gave when it was written.
    """

    module: EngineModule
    tokenizer: "Tokenizer | None"
    facts: dict[str, Any]


def read_facts(told: Mapping[str, str], path: Path) -> dict[str, Any]:
    """What an exported file says of the model that it is of.

    Args:
        told: its metadata.
        path: of the file.

    Raises:
        FolderError: nothing, since something else wrote it.
    """
    if FACTS not in told:
        raise FolderError(f"{path} does not say what model it is of: write it with txzoo export")
    facts: dict[str, Any] = json.loads(told[FACTS])
    return facts


def threads_for(bytes: int) -> int:
    """How many threads compute a model with so many bytes of weights."""
    return 1 if bytes <= ONE_THREAD else torch.get_num_threads()
