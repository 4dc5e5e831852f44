"""Pictures and captions brought together: batches, the contrastive loss, zero-shot accuracy.

Source: Radford et al. 2021, "Learning Transferable Visual Models From Natural Language
Supervision", arXiv:2103.00020 (CLIP), sections 2.3 and 3.1.4.

Letters: B batch, C channels, S pixels a side, T caption length, L labels, N pictures.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import InputError, TrainingError
from zoo.images import normalised
from zoo.pipelines.zero_shot import ZeroShotImageClassification, text_ids
from zoo.registry import registry, resolve
from zoo.tasks.base import BaseTask
from zoo.tasks.image_classification import ImageClassification, moved
from zoo.tasks.translation import end_id_of
from zoo.tokenization import build_tokenizer, end_texts, pad_id_of

if TYPE_CHECKING:
    import numpy.typing as npt
    from tokenizers import Tokenizer

    from zoo.model import Model

VOCABULARY_FROM = 600  # pictures of a source whose captions a tokenizer is trained on
BARE = ("{}",)  # the label alone
PHOTO_TEMPLATES = (  # a few of the 80 of Radford et al. 2021
    "a photo of a {}",
    "a blurry photo of a {}",
    "a small photo of a {}",
    "a photo of the {}",
    "a low resolution photo of a {}",
    "a close-up photo of a {}",
    "a bad photo of a {}",
    "a good photo of a {}",
)


class Source(Protocol):
    """Pictures with captions and labels.

    Attributes:
        names: of the labels.
        templates: sentences with a place for a label, `{}`, that pictures are classified by.
        size: pixels a side, as the pictures are.
        moves: whether a picture that is moved and mirrored still fits its caption.
    """

    names: tuple[str, ...]
    templates: tuple[str, ...]
    size: int
    moves: bool

    @property
    def labels(self) -> Sequence[int]:
        """Places in `names` (N,)."""

    def __len__(self) -> int:
        """N."""

    def __call__(self, places: Sequence[int], size: int) -> Tensor:
        """Pictures as uint8 (B, 3, S, S)."""

    def caption(self, place: int, draw: int) -> str:
        """A caption to learn from; another number may draw other words."""


class Templated:
    """The pictures of a task of image classification; a template with the label is the caption.

    Args:
        task: its name.
        split: of it.
        templates: as of `Source`.

    Raises:
        InputError: it is another kind of task.
    """

    moves = True

    def __init__(self, task: str, split: str, templates: tuple[str, ...], size: int = 32) -> None:
        found = resolve(registry().tasks.get(task).target)()
        if not isinstance(found, ImageClassification):
            raise InputError(f"{task} is no task of labelled pictures")
        self.templates, self.size = templates, size
        self.names = found.labels
        self._pictures = found.pictures(split)
        self.labels = self._pictures.labels

    def __len__(self) -> int:
        return len(self.labels)

    def __call__(self, places: Sequence[int], size: int) -> Tensor:
        """Pictures as uint8 (B, 3, S, S)."""
        return self._pictures(places, size)

    def caption(self, place: int, draw: int) -> str:
        """A template, drawn, with the label in it."""
        generator = np.random.default_rng([place, draw])
        template = self.templates[int(generator.integers(len(self.templates)))]
        return template.replace("{}", self.names[self.labels[place]])


class Contrastive(BaseTask):
    """Pictures with captions. A subclass says which.

    The module is called as `module(pixels, ids)`, (B, C, S, S) and (B, T), and gives the scaled
    similarity of each picture to each text (B, B).
    """

    @abstractmethod
    def sources(self, split: str) -> Mapping[str, Source]:
        """Where a split's pictures come from; each gives as many to a batch."""

    def build_tokenizer(self, settings: Mapping[str, Any]) -> "Tokenizer":
        """A tokenizer trained on captions and templates of the training split."""
        texts: list[str] = []
        for source in self.sources("train").values():
            places = np.linspace(0, len(source) - 1, min(len(source), VOCABULARY_FROM), dtype=int)
            texts += [source.caption(place, draw) for place in places.tolist() for draw in (0, 1)]
            texts += [one.replace("{}", name) for one in source.templates for name in source.names]
        tokenizer = build_tokenizer("\n".join(text.lower() for text in texts), settings)
        end_texts(tokenizer)
        return tokenizer

    def config(self, tokenizer: "Tokenizer") -> dict[str, Any]:
        """The tokens for padding and for a text's end, where it is read off."""
        return {"pad_id": pad_id_of(tokenizer), "end_id": end_id_of(tokenizer)}

    def batches(
        self, tokenizer: "Tokenizer", *, length: int, batch_tokens: int, seed: int
    ) -> "PairBatches":
        """Pictures of the training split, each epoch in another order and with other captions."""
        return PairBatches(
            list(self.sources("train").values()),
            self.model_config,
            tokenizer,
            rows=max(2, batch_tokens // length),
            length=length,
            seed=seed,
        )

    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Symmetric cross-entropy of who belongs to whom, in nats; of each process's own rows."""
        return symmetric_loss(module(batch["pixels"], batch["ids"]))

    def evaluate(
        self, model: "Model", split: str, *, limit: int | None = None, context: int | None = None
    ) -> dict[str, float]:
        """Zero-shot accuracy with all templates, and with the bare label; `limit` counts pictures.

        The first source's are `accuracy` and `bare_label_accuracy`, others' have their name before
        them. `ensemble_gain` is how much more the templates get right than the bare label, with the
        standard error of paired differences.
        """
        pipeline = ZeroShotImageClassification(model)
        scores: dict[str, float] = {}
        for place, (name, source) in enumerate(self.sources(split).items()):
            count = len(source) if limit is None else min(limit, len(source))
            right = np.asarray(source.labels[:count])
            pictures = embedded(pipeline, source, count)
            hits = {}
            for kind, templates in (("", source.templates), ("bare_label_", BARE)):
                texts = pipeline.classifier([[label] for label in source.names], templates)
                hits[kind] = ((pictures @ texts.T).argmax(-1).numpy() == right).astype(float)
            prefix = f"{name}_" if place else ""
            for kind, one in hits.items():
                _add(scores, f"{prefix}{kind}accuracy", one)
            _add(scores, f"{prefix}ensemble_gain", hits[""] - hits["bare_label_"])
        return scores


class PairBatches:
    """Batches of pictures with a caption each: a pure function of the step.

    Each source gives an equal part of a batch, in an order drawn from (seed, source, its epoch),
    with that epoch's draw of captions. Pictures that may be are moved and mirrored.

    Args:
        sources: of the training split.
        config: of the model: `image_size`, how pixels are normalised, `pad_id`.
        tokenizer: of the captions.
        rows: B.
        length: T; of a longer caption the end is left out.
        seed: of all that is drawn.

    Raises:
        TrainingError: a source has fewer pictures than a batch takes of it.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        config: Any,
        tokenizer: "Tokenizer",
        *,
        rows: int,
        length: int,
        seed: int,
    ) -> None:
        self.sources, self.config, self.tokenizer = sources, config, tokenizer
        self.length, self.seed = length, seed
        self.rows = rows // len(sources)
        least = min(len(source) for source in sources)
        if not 1 <= self.rows <= least:
            raise TrainingError(
                f"a batch of {rows} pictures takes {self.rows} of each of {len(sources)} sources, "
                f"the smallest has {least}: change batch_tokens"
            )
        self.per_epoch = len(sources[0]) // self.rows
        self._orders: dict[int, tuple[int, npt.NDArray[np.int64]]] = {}

    def __call__(self, step: int) -> dict[str, Tensor]:
        """The batch of a step: `pixels` (B, C, S, S), `ids` (B, T)."""
        pixels, captions = [], []
        for number, source in enumerate(self.sources):
            epoch, index = divmod(step, len(source) // self.rows)
            order = self._order(number, epoch)
            places = order[index * self.rows :][: self.rows].tolist()
            found = source(places, self.config.image_size)
            pixels.append(moved(found, [self.seed, step], flips=True) if source.moves else found)
            captions += [source.caption(place, epoch).lower() for place in places]
        return {
            "pixels": normalised(torch.cat(pixels), self.config),
            "ids": text_ids(self.tokenizer, captions, self.length, pad_id_of(self.tokenizer)),
        }

    def _order(self, number: int, epoch: int) -> "npt.NDArray[np.int64]":
        if self._orders.get(number, (-1,))[0] != epoch:
            generator = np.random.default_rng([self.seed, number, epoch])
            self._orders[number] = epoch, generator.permutation(len(self.sources[number]))
        return self._orders[number][1]


def symmetric_loss(logits: Tensor) -> Tensor:
    """Mean of the cross-entropies of pictures among texts and of texts among pictures, in nats.

    Args:
        logits: scaled similarity of picture i to text j (B, B); i belongs to i.
    """
    right = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


def embedded(pipeline: Any, source: Source, count: int) -> Tensor:
    """Normalised vectors of a source's first pictures (N, D)."""
    found = []
    for start in range(0, count, pipeline.batch):
        places = range(start, min(start + pipeline.batch, count))
        pixels = source(places, source.size).permute(0, 2, 3, 1).numpy()  # (B, S, S, C)
        found.append(pipeline.embed_pictures(list(pixels)))
    return torch.cat(found)


def _add(scores: dict[str, float], name: str, values: "npt.NDArray[np.float64]") -> None:
    scores[name] = float(values.mean())
    N = len(values)
    scores[f"{name}_stderr"] = float(values.std(ddof=1) / math.sqrt(N)) if N > 1 else math.nan
