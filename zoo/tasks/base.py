"""What the training loop and `zoo.evaluate` ask of a task."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from zoo.model import Model


class Batches(Protocol):
    """Training batches with random access, so that a resumed run sees what it would have seen.

    Attributes:
        per_epoch: how many batches one pass over the data takes.
    """

    per_epoch: int

    def __call__(self, step: int) -> Mapping[str, Tensor]:
        """The batch of a step, counted from 0: tensors whose first axis is the row."""


class BaseTask(ABC):
    """A data set, its splits, its preprocessing and its metrics.

    Attributes:
        splits: the splits that `evaluate` takes; "train" is where batches come from.
        test_splits: those whose scores a card reports.
        model_config: that of the model that is trained, None before there is one; set before
            `batches`.
    """

    splits: tuple[str, ...] = ("train", "validation", "test")
    test_splits: tuple[str, ...] = ("test",)
    model_config: Any = None

    @abstractmethod
    def build_tokenizer(self, settings: Mapping[str, Any]) -> "Tokenizer | None":
        """A tokenizer trained on the training split, as the recipe's [tokenizer] table asks.

        None for a task without texts; whatever else takes a tokenizer is then given None.
        """

    def config(self, tokenizer: "Tokenizer") -> dict[str, Any]:
        """Values that the task decides of an architecture's config, besides `vocab_size`."""
        return {}

    @abstractmethod
    def batches(
        self, tokenizer: "Tokenizer", *, length: int, batch_tokens: int, seed: int
    ) -> Batches:
        """Training batches of about `batch_tokens` tokens in rows of `length`."""

    @abstractmethod
    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean loss of a batch, differentiable, in nats."""

    @abstractmethod
    def evaluate(
        self, model: "Model", split: str, *, limit: int | None = None, context: int | None = None
    ) -> dict[str, float]:
        """Metrics on a split; `metric` and its standard error `metric_stderr`.

        Args:
            model: what is measured, in eval mode.
            split: one of `splits`.
            limit: measure on the first so many tokens or examples only.
            context: how many tokens the model reads at once; what it was trained on if None.
        """
