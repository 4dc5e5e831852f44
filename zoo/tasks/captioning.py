"""Captioning: pictures with captions in batches, loss, BLEU, and what captions say, counted.

Letters: B batch, C channels, S pixels a side, T caption length, V vocabulary, N pictures.
"""

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from zoo.errors import TrainingError
from zoo.generation import GenerationOptions
from zoo.images import normalised
from zoo.nn.loss import IGNORED, cross_entropy
from zoo.pipelines import tokenizer_of
from zoo.pipelines.reading import pad
from zoo.tasks.base import BaseTask
from zoo.tasks.classification import Floats
from zoo.tasks.masked_language import ratio
from zoo.tasks.translation import end_id_of, metrics, tokens, translation_scores
from zoo.tokenization import build_tokenizer, end_texts, pad_id_of

if TYPE_CHECKING:
    from PIL.Image import Image
    from tokenizers import Tokenizer

    from zoo.model import Model

BATCH = 128  # pictures measured at once
VOCABULARY_FROM = 1000  # pictures whose captions a tokenizer is trained on


class Captioned(Protocol):
    """Pictures of one size, what people may say of each, and what there is to be said."""

    def __len__(self) -> int:
        """N."""

    def __call__(self, places: Sequence[int], size: int) -> Tensor:
        """Pictures as uint8 (B, 3, S, S)."""

    def caption(self, place: int, draw: int) -> str:
        """A caption to learn from; another number may draw other words."""

    def references(self, place: int) -> Sequence[str]:
        """Captions that are right, the plainest first."""

    def attributes(self, place: int) -> Mapping[str, str]:
        """What is to be seen, by the names that `Captioning.described` uses; perhaps nothing."""


class Captioning(BaseTask):
    """Pictures to be put into words. A subclass says which, and how to read a split.

    The module is called as `module(pixels, ids)`, (B, C, S, S) and (B, T), and gives logits
    (B, T, V). A caption is read behind the token for padding, and must give its tokens and the one
    that ends it.

    Attributes:
        attributes: what captions say, such as `("colour", "shape")`; none where nobody can tell.
        num_beams: of the captions that are measured.
        drawn: whether the pictures are made by the task itself, so that a page may show some.
    """

    loss_of_tokens = True
    drawn = False
    attributes: tuple[str, ...] = ()
    num_beams = 4

    @abstractmethod
    def pictures(self, split: str) -> Captioned:
        """The pictures of a split."""

    def drawing(self, split: str, place: int, size: int) -> "Image":
        """One of its own pictures, S pixels a side, to show."""
        from PIL.Image import fromarray

        (pixels,) = self.pictures(split)([place], size)  # (3, S, S)
        return fromarray(pixels.permute(1, 2, 0).numpy())

    def described(self, caption: str) -> Mapping[str, str]:
        """What a caption says, by attribute; what it leaves out is left out."""
        return {}

    def build_tokenizer(self, settings: Mapping[str, Any]) -> "Tokenizer":
        """A tokenizer trained on captions of the training split."""
        pictures = self.pictures("train")
        places = range(min(len(pictures), VOCABULARY_FROM))
        captions = [pictures.caption(place, draw) for place in places for draw in (0, 1)]
        tokenizer = build_tokenizer("\n".join(captions), settings)
        end_texts(tokenizer)
        return tokenizer

    def config(self, tokenizer: "Tokenizer") -> dict[str, Any]:
        """The tokens for padding, which a caption begins with too, and for its end."""
        pad_id = pad_id_of(tokenizer)
        return {"pad_id": pad_id, "start_id": pad_id, "end_id": end_id_of(tokenizer)}

    def batches(
        self, tokenizer: "Tokenizer", *, length: int, batch_tokens: int, seed: int
    ) -> "CaptionBatches":
        """Pictures of the training split, each epoch in another order and with other captions."""
        return CaptionBatches(
            self.pictures("train"),
            self.model_config,
            tokenizer,
            rows=max(1, batch_tokens // length),
            length=length,
            seed=seed,
        )

    def loss(self, module: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
        """Mean cross-entropy of the captions' tokens, in nats."""
        logits = module(batch["pixels"], batch["ids"])  # (B, T, V)
        return cross_entropy(logits.flatten(0, 1), batch["targets"].flatten())

    def evaluate(
        self, model: "Model", split: str, *, limit: int | None = None, context: int | None = None
    ) -> dict[str, float]:
        """What the model's captions say, BLEU, and perplexity; `limit` counts pictures.

        `exact_attributes` is the share of captions that say every attribute as it is, and
        `ATTRIBUTE_accuracy` that of one; what a caption leaves out is not said right. `bleu` is as
        of translations, with all references of each picture, from 0 to 100. `perplexity_per_token`
        is that of the plainest reference, its end counted, each token read behind the right ones
        before it; its standard error is that of a ratio of sums over pictures.

        Raises:
            MissingExtraError: `sacrebleu` is not installed.
        """
        metrics()  # writing takes a while: say first what is missing
        pictures = self.pictures(split)
        places = range(len(pictures) if limit is None else min(limit, len(pictures)))
        captions = self.captions(model, pictures, places)
        scores = self.attribute_scores(captions, [pictures.attributes(place) for place in places])
        found = translation_scores(captions, [pictures.references(place) for place in places])
        scores |= {name: found[name] for name in ("bleu", "bleu_stderr")}
        loss, error = ratio(*caption_nats(model, pictures, places).T)
        perplexity = math.exp(min(loss, 700.0))
        return scores | {
            "perplexity_per_token": perplexity,
            "perplexity_per_token_stderr": perplexity * error,
        }

    def captions(self, model: "Model", pictures: Captioned, places: Sequence[int]) -> list[str]:
        """What the model writes of pictures, best of `num_beams`."""
        from zoo.pipelines.image_to_text import ImageToText

        pipeline, options = ImageToText(model), GenerationOptions(num_beams=self.num_beams)
        found: list[str] = []
        for start in range(0, len(places), BATCH):
            batch = pictures(places[start : start + BATCH], model.config.image_size)
            answers = pipeline.of_pixels(normalised(batch, model.config), options)
            found += [group[0].text for group in answers]
        return found

    def attribute_scores(
        self, captions: Sequence[str], right: Sequence[Mapping[str, str]]
    ) -> dict[str, float]:
        """The shares of captions that say what is to be seen, with binomial standard errors.

        Args:
            captions: N texts.
            right: what is to be seen in each picture.
        """
        if not self.attributes:
            return {}
        said = [self.described(caption) for caption in captions]
        hits = np.array(
            [
                [one.get(name) == truth[name] for name in self.attributes]
                for one, truth in zip(said, right, strict=True)
            ]
        )  # (N, attributes)
        columns: dict[str, Any] = {"exact_attributes": hits.all(1)}
        columns |= {f"{name}_accuracy": hits[:, n] for n, name in enumerate(self.attributes)}
        scores = {}
        for name, column in columns.items():
            share, N = float(column.mean()), len(column)
            scores[name] = share
            error = math.sqrt(share * (1 - share) / (N - 1)) if N > 1 else math.nan
            scores[f"{name}_stderr"] = error
        return scores


class CaptionBatches:
    """Batches of pictures with a caption each: a pure function of the step.

    Epoch e takes the pictures in an order drawn from (seed, e), and draw e of their captions.
    Pictures are neither moved nor mirrored: captions say where things are.

    Args:
        pictures: of the training split.
        config: of the model: `image_size`, how pixels are normalised, `pad_id`, `start_id`.
        tokenizer: of the captions.
        rows: B.
        length: T at most; what of a caption is longer is not learned.
        seed: of the order.

    Raises:
        TrainingError: fewer pictures than a batch has.
    """

    def __init__(
        self,
        pictures: Captioned,
        config: Any,
        tokenizer: "Tokenizer",
        *,
        rows: int,
        length: int,
        seed: int,
    ) -> None:
        self.pictures, self.config, self.tokenizer = pictures, config, tokenizer
        self.rows, self.length, self.seed = rows, length, seed
        self.per_epoch = len(pictures) // rows
        if self.per_epoch < 1:
            raise TrainingError(
                f"{len(pictures)} pictures are too few for a batch of {rows}: lower batch_tokens"
            )

    def __call__(self, step: int) -> dict[str, Tensor]:
        """The batch of a step: `pixels` (B, C, S, S), `ids` and `targets` (B, T)."""
        epoch, index = divmod(step, self.per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(len(self.pictures))
        places = order[index * self.rows :][: self.rows].tolist()
        pixels = self.pictures(places, self.config.image_size)
        captions = [self.pictures.caption(place, epoch) for place in places]
        return {
            "pixels": normalised(pixels, self.config),
            **caption_batch(self.tokenizer, captions, self.config, self.length),
        }


def caption_batch(
    tokenizer: "Tokenizer", captions: Sequence[str], config: Any, length: int
) -> dict[str, Tensor]:
    """Captions side by side: `ids` and `targets` (B, T), at most `length` of each."""
    right = [row[:length] for row in tokens(tokenizer, captions)]
    targets, _ = pad(right, IGNORED)
    start = np.array([config.start_id], dtype=np.int32)
    ids, _ = pad([np.concatenate([start, row[:-1]]) for row in right], config.pad_id)
    return {"ids": ids, "targets": targets}


@torch.inference_mode()
def caption_nats(model: "Model", pictures: Captioned, places: Sequence[int]) -> Floats:
    """How well the plainest references are predicted, each token behind the right ones before it.

    Returns:
        For each picture: negative log-likelihood in nats, and tokens (N, 2).
    """
    tokenizer, config = tokenizer_of(model), model.config
    module: Any = model.module
    length = module.max_len if module.max_len is not None else 1 << 20
    found = np.zeros((len(places), 2))
    for start in range(0, len(places), BATCH):
        some = places[start : start + BATCH]
        right = [pictures.references(place)[0] for place in some]
        batch = caption_batch(tokenizer, right, config, length)
        pixels = normalised(pictures(some, config.image_size), config).to(model.device)
        logits = module(pixels, batch["ids"].to(model.device)).float()  # (B, T, V)
        nats = nn.functional.cross_entropy(
            logits.transpose(1, 2),
            batch["targets"].to(model.device),
            ignore_index=IGNORED,
            reduction="none",
        )  # (B, T)
        rows = slice(start, start + len(some))
        found[rows, 0] = nats.double().sum(1).cpu().numpy()
        found[rows, 1] = (batch["targets"] != IGNORED).sum(1).numpy()
    return found
