"""Where a classifier errs: what it is most sure of and wrong, and texts of which length."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import InputError
from zoo.evaluation.evaluate import check_sizes, choose
from zoo.loading import load
from zoo.model import Model
from zoo.tasks import ImageClassification, TextClassification
from zoo.tasks.classification import classification_scores

QUARTERS = (0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Mistake:
    """A text or a picture that was given a wrong label.

    Attributes:
        place: of it in the split, counted from 0.
        text: the text; of a picture what it is called, for one in a folder its path there.
        label: the right one.
        given: the one that the model gives.
        probability: that the model gives it.
    """

    place: int
    text: str
    label: str
    given: str
    probability: float


@dataclass(frozen=True)
class Quarter:
    """About a quarter of the texts, those of like length.

    Attributes:
        words: of the shortest and of the longest of them.
        texts: how many they are; texts of one length are never divided.
        wrong: how many of them were given a wrong label.
        share: `wrong / texts`.
        share_stderr: its binomial standard error; NaN of one text.
    """

    words: tuple[int, int]
    texts: int
    wrong: int
    share: float
    share_stderr: float


@dataclass(frozen=True)
class Errors:
    """What `errors` finds.

    Attributes:
        task: name of the task, or of the file.
        split: of it.
        texts: how many were read, or pictures.
        wrong: how many of them were given a wrong label.
        surest: the wrong ones, most confident first, at most as many as were asked for.
        by_length: the share of errors in each quarter of the texts, shortest ones first; none of
            pictures.
        scores: what `zoo.evaluate` returns.
        what: was classified: "texts" or "pictures".
    """

    task: str
    split: str
    texts: int
    wrong: int
    surest: tuple[Mistake, ...]
    by_length: tuple[Quarter, ...]
    scores: Mapping[str, float]
    what: str = "texts"


def errors(
    model: Model | str | Path,
    task: str | None = None,
    split: str = "test",
    n: int = 20,
    *,
    limit: int | None = None,
    context: int | None = None,
    data: str | Path | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
) -> Errors:
    """Find the texts or pictures that a classifier gets wrong and is most sure of.

    Args:
        model: a model, or what `zoo.load` takes.
        task: as of `zoo.evaluate`.
        split: of the task.
        n: how many at most.
        limit: only the first so many are read.
        context: tokens read at once.
        data: as of `zoo.evaluate`.
        text_column: as of `zoo.evaluate`.
        label_column: as of `zoo.evaluate`.

    Raises:
        InputError: the task is no classification, or `n` is below 1.
        ZooError: as of `zoo.evaluate`.
    """
    if not isinstance(model, Model):
        model = load(str(model))
    entry, found = choose(
        model, task, split, data=data, text_column=text_column, label_column=label_column
    )
    if not isinstance(found, TextClassification | ImageClassification):
        raise InputError(
            f"errors are looked for in the classification of texts and pictures; {entry.name} is a "
            f"{entry.pipeline} task"
        )
    check_sizes(errors=n, limit=limit, context=context)
    shown = isinstance(found, ImageClassification)
    if isinstance(found, ImageClassification):
        pictures = found.pictures(split)
        texts, labels = found.names(split), pictures.labels
        chances = found.probabilities(model, pictures, len(labels[:limit]))  # (N, L)
    else:
        texts, labels = found.examples(split)
        chances = found.probabilities(model, texts[:limit], context)
    texts, right = texts[:limit], np.asarray(labels[:limit], dtype=np.int64)
    given, sure = chances.argmax(1), chances.max(1)
    wrong = given != right
    order = [int(place) for place in np.argsort(-sure, kind="stable") if wrong[place]]
    surest = [
        Mistake(
            place,
            texts[place],
            found.labels[right[place]],
            found.labels[given[place]],
            float(sure[place]),
        )
        for place in order[:n]
    ]
    return Errors(
        entry.name,
        split,
        len(texts),
        len(order),
        tuple(surest),
        () if shown else by_length([len(text.split()) for text in texts], wrong),
        classification_scores(chances, right, found.labels),
        "pictures" if shown else "texts",
    )


def by_length(lengths: list[int], wrong: Any) -> tuple[Quarter, ...]:
    """The share of errors in quarters of the texts by their length; empty quarters are left out.

    Args:
        lengths: of the texts, in words.
        wrong: whether each one was given a wrong label.
    """
    words, errs = np.asarray(lengths), np.asarray(wrong, dtype=bool)
    edges = np.quantile(words, QUARTERS, method="inverted_cdf")
    place = np.searchsorted(edges, words)  # a length equal to an edge is below it
    found = []
    for quarter in np.unique(place):
        mine = place == quarter
        N, share = int(mine.sum()), float(errs[mine].mean())
        error = math.sqrt(share * (1 - share) / (N - 1)) if N > 1 else math.nan
        ends = int(words[mine].min()), int(words[mine].max())
        found.append(Quarter(ends, N, int(errs[mine].sum()), share, error))
    return tuple(found)
