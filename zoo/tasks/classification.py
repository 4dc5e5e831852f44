"""Classification of texts: batches, loss, and four kinds of score with their standard errors.

Letters: B batch, T length, L labels, N texts.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from zoo.errors import InputError, TrainingError
from zoo.pipelines.reading import Reader, Row, last_tokens, pad
from zoo.pipelines.text_classification import TextClassification as Pipeline
from zoo.tasks.base import BaseTask
from zoo.tokenization import build_tokenizer, mark_texts, pad_id_of

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from zoo.model import Model

Label = int | Sequence[float]  # its place in `labels`, or the probability of each of them
Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]
POOL = 32  # batches among which rows of like length are brought together
RESAMPLES = 200  # enough for a standard error's two digits
BINS = 15  # of confidence: Guo et al. 2017, arXiv:1706.04599


class TextClassification(BaseTask):
    """Texts to be given one label each. A subclass says which labels, and how to read a split.

    Attributes:
        labels: names, in the order of the head's logits.
    """

    labels: tuple[str, ...] = ()

    @abstractmethod
    def examples(self, split: str) -> tuple[Sequence[str], Sequence[int]]:
        """The texts of a split and the place in `labels` of each one's label."""

    def training_examples(self) -> tuple[Sequence[str], Sequence[Label]]:
        """The texts that are learned from, and the label of each or how likely each label is.

        Those of the training split, unless a subclass knows more; what is likely is learned as
        Hinton et al. 2015 do (arXiv:1503.02531, at temperature 1).
        """
        return self.examples("train")

    def build_tokenizer(self, settings: Mapping[str, Any]) -> "Tokenizer":
        """A tokenizer trained on the training split; texts begin with a token of their own."""
        tokenizer = build_tokenizer("\n".join(self.examples("train")[0]), settings)
        mark_texts(tokenizer)
        return tokenizer

    def config(self, tokenizer: "Tokenizer") -> dict[str, Any]:
        """A head for the labels, and the token that stands for padding."""
        return {
            "head": "classification",
            "labels": list(self.labels),
            "pad_id": pad_id_of(tokenizer),
        }

    def batches(
        self, tokenizer: "Tokenizer", *, length: int, batch_tokens: int, seed: int
    ) -> "ExampleBatches":
        """Texts that are learned from, in an order drawn anew for each epoch."""
        texts, labels = self.training_examples()
        return ExampleBatches(
            Reader(tokenizer, length, last_tokens(length))(texts),
            labels,
            rows=max(1, batch_tokens // length),
            seed=seed,
            pad_id=pad_id_of(tokenizer),
        )

    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean cross-entropy of the label, or of the probabilities, in nats."""
        logits = module(batch["ids"], batch["real"])  # (B, L)
        return nn.functional.cross_entropy(logits, batch["targets"])

    def evaluate(
        self, model: "Model", split: str, *, limit: int | None = None, context: int | None = None
    ) -> dict[str, float]:
        """Accuracy, macro F1, calibration and the confusion matrix; `limit` counts texts.

        Raises:
            InputError: the model's labels are not the task's.
        """
        texts, labels = self.examples(split)
        return classification_scores(
            self.probabilities(model, texts[:limit], context),
            np.asarray(labels[:limit], dtype=np.int64),
            self.labels,
        )

    def probabilities(
        self, model: "Model", texts: Sequence[str], context: int | None = None
    ) -> Floats:
        """The probability of each label for each text (N, L)."""
        theirs = tuple(model.config.labels)
        if theirs != self.labels:
            raise InputError(
                f"{model.name} has the labels {', '.join(theirs) or 'of no kind'}; "
                f"the task has {', '.join(self.labels)}"
            )
        pipeline = Pipeline(model)
        length = min(context or model.config.max_seq_len, model.config.max_seq_len)
        rows = Reader(pipeline.tokenizer, length, last_tokens(length))(texts)
        logits = torch.stack(pipeline.outputs(rows))  # (N, L)
        found: Floats = logits.double().softmax(-1).numpy()
        return found


class LengthBatches:
    """Which texts stand in which batch, so that those of one are of like length.

    Epoch e takes the texts in an order drawn from (seed, e), sorts each pool of `POOL` batches by
    length, so that little is padding, and takes the batches in an order drawn too: a pure function
    of the step. The rows that fill no batch are left out, others in each epoch.

    Args:
        lengths: of the texts, in tokens.
        rows: B.
        seed: of the order.

    Raises:
        TrainingError: fewer than one batch of texts.
    """

    def __init__(self, lengths: Sequence[int], *, rows: int, seed: int) -> None:
        self.rows, self.seed = rows, seed
        self.lengths = np.array(lengths)
        self.per_epoch = len(lengths) // rows
        if self.per_epoch < 1:
            raise TrainingError(
                f"{len(lengths)} training texts are too few for a batch of {rows}: "
                "lower batch_tokens"
            )
        self._epoch = -1

    def places(self, step: int) -> list[int]:
        """The places of a step's texts (B,)."""
        epoch, index = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            self._batches, self._epoch = self._order(epoch), epoch
        found: list[int] = self._batches[index].tolist()
        return found

    def _order(self, epoch: int) -> Indices:
        """The places of each batch's texts (batches, B)."""
        generator = np.random.default_rng([self.seed, epoch])
        order = generator.permutation(len(self.lengths))[: self.per_epoch * self.rows]
        for start in range(0, len(order), POOL * self.rows):
            pool = order[start : start + POOL * self.rows]
            order[start : start + len(pool)] = pool[np.argsort(self.lengths[pool], kind="stable")]
        found: Indices = generator.permutation(order.reshape(self.per_epoch, self.rows))
        return found


class ExampleBatches(LengthBatches):
    """Batches of labelled texts of like length: a pure function of the step.

    Args:
        texts: the texts.
        labels: of each text; or the probability of each label, if that is said of any text.
        rows: B.
        seed: of the order.
        pad_id: stands where a row is shorter than the batch.

    Raises:
        TrainingError: fewer than one batch of texts, or one label only.
    """

    def __init__(
        self, texts: Sequence[Row], labels: Sequence[Label], *, rows: int, seed: int, pad_id: int
    ) -> None:
        super().__init__([len(text.ids) for text in texts], rows=rows, seed=seed)
        self.texts, self.pad_id = texts, pad_id
        self.targets = _targets(labels)  # (N,) or (N, L)
        if (self.targets == self.targets[0]).all():
            raise TrainingError(f"all {len(texts)} training texts have one label: nothing to learn")

    def __call__(self, step: int) -> dict[str, Tensor]:
        """The batch of a step: `ids` and `real` (B, T), `targets` (B,) or (B, L)."""
        places = self.places(step)
        ids, real = pad([self.texts[place].ids for place in places], self.pad_id)
        return {"ids": ids, "real": real, "targets": self.targets[places]}


def _targets(labels: Sequence[Label]) -> Tensor:
    """Labels (N,); if one of them is given by probabilities, all as probabilities (N, L)."""
    likely = [label for label in labels if isinstance(label, Sequence)]
    if not likely:
        return torch.tensor(labels)
    certain = torch.eye(len(likely[0])).tolist()
    return torch.tensor([one if isinstance(one, Sequence) else certain[one] for one in labels])


def classification_scores(
    probabilities: Floats, labels: Indices, names: Sequence[str]
) -> dict[str, float]:
    """The metrics of predictions, each with its standard error.

    Those of shares are binomial; those of F1 and calibration are the deviation over `RESAMPLES`
    draws of the texts with replacement, the same draws each time (Efron & Tibshirani 1993).

    Args:
        probabilities: (N, L), rows summing to 1.
        labels: the right ones (N,).
        names: of the labels.

    Returns:
        `accuracy`; `macro_f1`, the mean of the labels' F1; `expected_calibration_error`, how far
        confidence and accuracy lie apart; and for each two labels `is_A_called_B`, the share of the
        texts of label A that are given label B.
    """
    N, L = probabilities.shape
    guesses, confidence = probabilities.argmax(1), probabilities.max(1)
    right = (guesses == labels).astype(float)
    scores: dict[str, float] = {}

    def add(name: str, value: float, error: float) -> None:
        scores[name], scores[f"{name}_stderr"] = float(value), float(error)

    draws = np.random.default_rng(0).integers(N, size=(RESAMPLES, N))

    def spread(measure: Callable[[Any], float]) -> float:
        return float(np.std([measure(draw) for draw in draws], ddof=1)) if N > 1 else float("nan")

    add("accuracy", right.mean(), _share_error(right.mean(), N))
    everything = np.arange(N)

    def f1(draw: Indices) -> float:
        return macro_f1(confusion(labels[draw], guesses[draw], L))

    def calibration(draw: Indices) -> float:
        return calibration_error(confidence[draw], right[draw])

    add("macro_f1", f1(everything), spread(f1))
    add("expected_calibration_error", calibration(everything), spread(calibration))
    table = confusion(labels, guesses, L)
    for a, row in enumerate(table):
        for b, count in enumerate(row):
            total = row.sum()
            share = count / total if total else float("nan")
            add(f"is_{names[a]}_called_{names[b]}", share, _share_error(share, total))
    return scores


def confusion(labels: Indices, guesses: Indices, L: int) -> Indices:
    """How often each label (row) was taken for each label (column), (L, L)."""
    found: Indices = np.bincount(labels * L + guesses, minlength=L * L).reshape(L, L)
    return found


def macro_f1(table: Indices) -> float:
    """Mean over labels of 2 hits / (texts of it + guesses of it); of what never occurs it is 0."""
    both = table.sum(0) + table.sum(1)
    return float(np.mean(2 * np.diag(table) / np.maximum(both, 1)))


def calibration_error(confidence: Floats, right: Floats, bins: int = BINS) -> float:
    """Mean distance of confidence and accuracy over bins of confidence, weighed by their texts.

    Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv:1706.04599, eq. 3.
    """
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(place, confidence - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(right))


def _share_error(share: float, N: int) -> float:
    """Standard error of a share of N independent texts; NaN of fewer than two."""
    return float(np.sqrt(share * (1 - share) / (N - 1))) if N > 1 else float("nan")
