"""Classification of pictures: batches with the usual augmentation, loss, scores.

Letters: B batch, C channels, S pixels a side, L labels, N pictures.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from zoo.errors import InputError, RecipeError, TrainingError
from zoo.images import normalised
from zoo.tasks.base import BaseTask
from zoo.tasks.classification import Floats, classification_scores

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from zoo.model import Model

BATCH = 256  # pictures measured at once
BORDER = 8  # a crop is moved by up to a side's eighth: 4 of 32 pixels, He et al. 2016, section 4.2


class Pictures(Protocol):
    """Pictures of one size, and what each shows."""

    @property
    def labels(self) -> Sequence[int]:
        """Places in the task's labels (N,)."""

    def __call__(self, places: Sequence[int], size: int) -> Tensor:
        """Pictures as uint8 (B, 3, S, S)."""


class ImageClassification(BaseTask):
    """Pictures to be given one label each. A subclass says which labels, and how to read a split.

    Attributes:
        labels: names, in the order of the head's logits.
        flips: whether a picture shows the same from the other side; digits do not.
        objective: `label_smoothing`, how much of a label's weight all labels share evenly (Szegedy
            et al. 2016, arXiv:1512.00567, section 7), from 0 to below 1; `cutmix`, how many of the
            batches have a piece of another picture in each (`cut_mixed`), from 0 to 1.
    """

    labels: tuple[str, ...] = ()
    flips = True
    objective: Mapping[str, Any] = {"label_smoothing": 0.0, "cutmix": 0.0}

    def set_objective(self, values: Mapping[str, Any]) -> None:
        """Take a recipe's [objective] table.

        Raises:
            RecipeError: as of any task, or a share out of range.
        """
        super().set_objective(values)
        smoothing, mixed = self.objective["label_smoothing"], self.objective["cutmix"]
        if not 0 <= smoothing < 1:
            raise RecipeError(
                f"[objective] label_smoothing must be from 0 to below 1, got {smoothing}"
            )
        if not 0 <= mixed <= 1:
            raise RecipeError(f"[objective] cutmix must be from 0 to 1, got {mixed}")

    @abstractmethod
    def pictures(self, split: str) -> Pictures:
        """The pictures of a split."""

    def names(self, split: str) -> Sequence[str]:
        """What each picture of a split is called, for people who look for it."""
        return [f"{split} {place}" for place in range(len(self.pictures(split).labels))]

    def build_tokenizer(self, settings: Mapping[str, Any]) -> None:
        """Pictures have none."""

    def config(self, tokenizer: "Tokenizer | None") -> dict[str, Any]:
        """The names that a head tells apart."""
        return {"labels": list(self.labels)}

    def batches(
        self, tokenizer: "Tokenizer | None", *, length: int, batch_tokens: int, seed: int
    ) -> "PictureBatches":
        """Pictures of the training split, each epoch in another order, moved and mirrored."""
        return PictureBatches(
            self.pictures("train"),
            self.model_config,
            rows=max(1, batch_tokens // length),
            seed=seed,
            flips=self.flips,
            cutmix=self.objective["cutmix"],
        )

    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean cross-entropy of the label, in nats; of a mixed picture of both, by their shares."""
        smoothing: float = self.objective["label_smoothing"]
        logits = module(batch["pixels"])

        def against(targets: Tensor) -> Tensor:  # (B,)
            return nn.functional.cross_entropy(
                logits, targets, reduction="none", label_smoothing=smoothing
            )

        if "others" not in batch:
            return against(batch["targets"]).mean()
        share = batch["share"]
        both = share * against(batch["targets"]) + (1 - share) * against(batch["others"])
        return both.mean()

    def evaluate(
        self, model: "Model", split: str, *, limit: int | None = None, context: int | None = None
    ) -> dict[str, float]:
        """Accuracy, macro F1, calibration and the confusion matrix; `limit` counts pictures.

        Raises:
            InputError: as of `probabilities`.
        """
        pictures = self.pictures(split)
        labels = np.asarray(pictures.labels[:limit], dtype=np.int64)
        return classification_scores(
            self.probabilities(model, pictures, len(labels)), labels, self.labels
        )

    @torch.inference_mode()
    def probabilities(self, model: "Model", pictures: Pictures, count: int) -> Floats:
        """The probability of each label for each of the first pictures (N, L).

        Raises:
            InputError: the model's labels are not the task's.
        """
        theirs = tuple(model.config.labels)
        if theirs != self.labels:
            raise InputError(
                f"{model.name} has the labels {', '.join(theirs)}; the task has "
                f"{', '.join(self.labels)}"
            )
        size = model.config.image_size
        found = []
        for start in range(0, count, BATCH):
            pixels = pictures(range(start, min(start + BATCH, count)), size).to(model.device)
            found.append(model.module(normalised(pixels, model.config)).double().softmax(-1).cpu())
        result: Floats = torch.cat(found).numpy()
        return result


class PictureBatches:
    """Batches of pictures: a pure function of the step.

    Epoch e takes the pictures in an order drawn from (seed, e). Each is moved by up to an eighth of
    its side, black coming in at the border, and mirrored or not, as drawn from (seed, step): the
    augmentation of He et al. 2016, "Deep Residual Learning", arXiv:1512.03385, section 4.2. Some
    batches are mixed by `cut_mixed` then.

    Args:
        pictures: of the training split.
        config: of the model: `image_size`, and how pixels are normalised.
        rows: B.
        seed: of all that is drawn.
        flips: whether pictures are mirrored.
        cutmix: how many batches are mixed, from 0 to 1.

    Raises:
        TrainingError: fewer pictures than a batch has, or one label only.
    """

    def __init__(
        self,
        pictures: Pictures,
        config: Any,
        *,
        rows: int,
        seed: int,
        flips: bool,
        cutmix: float = 0.0,
    ) -> None:
        self.pictures, self.config = pictures, config
        self.rows, self.seed, self.flips, self.cutmix = rows, seed, flips, cutmix
        N = len(pictures.labels)
        self.per_epoch = N // rows
        if self.per_epoch < 1:
            raise TrainingError(
                f"{N} pictures are too few for a batch of {rows}: lower batch_tokens"
            )
        if len(set(pictures.labels)) < 2:
            raise TrainingError(f"all {N} pictures have one label: nothing to learn")
        self._epoch = -1
        self._order = np.empty(0, dtype=np.int64)

    def __call__(self, step: int) -> dict[str, Tensor]:
        """The batch of a step: `pixels` (B, C, S, S), `targets` (B,).

        Of a mixed one also `others`, the labels of what was mixed in (B,), and `share`, how much of
        each picture is its own (B,).
        """
        epoch, index = divmod(step, self.per_epoch)
        if epoch != self._epoch:
            generator = np.random.default_rng([self.seed, epoch])
            self._order = generator.permutation(len(self.pictures.labels))
            self._epoch = epoch
        places = self._order[index * self.rows :][: self.rows].tolist()
        size = self.config.image_size
        pixels = moved(self.pictures(places, size), [self.seed, step], flips=self.flips)
        targets = torch.tensor([self.pictures.labels[place] for place in places])
        generator = np.random.default_rng([self.seed, step, 1])
        if generator.random() >= self.cutmix:
            return {"pixels": normalised(pixels, self.config), "targets": targets}
        pixels, order, share = cut_mixed(pixels, generator)
        return {
            "pixels": normalised(pixels, self.config),
            "targets": targets,
            "others": targets[order],
            "share": torch.full((len(pixels),), share),
        }


def cut_mixed(pixels: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor, float]:
    """Pictures (B, C, S, S), each with the same piece of another one of the batch in it.

    Source: Yun et al. 2019, "CutMix", arXiv:1905.04899, section 3.1: the piece has a share 1 - r of
    the area, r drawn evenly from 0 to 1, and its middle anywhere; what stands out is cut off.

    Returns:
        The pictures; the place in the batch that each piece is from (B,); the share of the area
        that stayed.
    """
    B, _, S, _ = pixels.shape
    order = torch.from_numpy(generator.permutation(B))
    side = S * (1 - generator.random()) ** 0.5
    middles = generator.integers(0, S, size=2)
    (top, left), (bottom, right) = (
        [min(max(int(middle + half), 0), S) for middle in middles] for half in (-side / 2, side / 2)
    )
    mixed = pixels.clone()
    mixed[:, :, top:bottom, left:right] = pixels[order, :, top:bottom, left:right]
    return mixed, order, 1 - (bottom - top) * (right - left) / S**2


def moved(pixels: Tensor, seed: Sequence[int], *, flips: bool) -> Tensor:
    """Pictures (B, C, S, S), each moved across and down and perhaps mirrored, by drawn amounts."""
    B, _, S, _ = pixels.shape
    border = S // BORDER
    generator = np.random.default_rng(seed)
    down, across = generator.integers(0, 2 * border + 1, size=(2, B))
    mirrored = torch.from_numpy(generator.random(B) < 0.5) & flips
    padded = nn.functional.pad(pixels, (border,) * 4)
    rows = torch.from_numpy(down)[:, None] + torch.arange(S)  # (B, S)
    columns = torch.from_numpy(across)[:, None] + torch.arange(S)
    columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    batch = torch.arange(B)[:, None, None]
    found = padded.permute(0, 2, 3, 1)[batch, rows[:, :, None], columns[:, None, :]]  # (B, S, S, C)
    return found.permute(0, 3, 1, 2)
