"""What the training loop and `zoo.evaluate` ask of a task."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor, nn

from zoo.errors import RecipeError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from zoo.conversation import Template
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
        objective: what a recipe's [objective] table may say, with the usual values.
        template: how the task writes conversations; it goes into the folder of what is trained.
        loss_of_tokens: whether the loss is the mean of tokens' negative log-likelihoods, so that
            its exponential is a perplexity.
    """

    splits: tuple[str, ...] = ("train", "validation", "test")
    test_splits: tuple[str, ...] = ("test",)
    model_config: Any = None
    objective: Mapping[str, Any] = {}
    template: "Template | None" = None
    loss_of_tokens: bool = False

    def set_objective(self, values: Mapping[str, Any]) -> None:
        """Take a recipe's [objective] table.

        Raises:
            RecipeError: an unknown key, or a value of another kind.
        """
        usual = self.objective
        for key, value in values.items():
            if key not in usual:
                known = ", ".join(usual) or "none"
                raise RecipeError(f"[objective] has no key {key!r} for this task. Keys: {known}")
            of_text = isinstance(usual[key], str)
            words = "a text" if of_text else "a number"
            if type(value) not in ((str,) if of_text else (int, float)):
                raise RecipeError(f"[objective] {key} must be {words}, got {value!r}")
        self.objective = {**usual, **values}

    def begin(self, base: "Model") -> None:
        """Look at the trained model that will be adapted, before anything of it changes."""
        return None

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

    def signatures(self, split: str, *, limit: int | None = None) -> dict[str, str]:
        """How metrics of `evaluate` are counted, where the library that counts them has a word."""
        return {}
