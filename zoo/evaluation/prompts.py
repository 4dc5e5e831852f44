"""Prompts as something that is measured: which templates tell a user's pictures apart.

Source: Radford et al. 2021, arXiv:2103.00020, section 3.1.4. Intervals: Wilson 1927 for shares; the
bootstrap (Efron & Tibshirani 1993) over pictures for paired differences.

Letters: N pictures, L labels, D width of the space, K templates.
"""

import json
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from zoo.errors import InputError, RecipeError
from zoo.loading import load
from zoo.model import Model
from zoo.pipelines.picture_index import PictureIndex
from zoo.pipelines.zero_shot import (
    ZeroShotImageClassification,
    check_templates,
    named,
    require_different,
    with_synonyms,
)
from zoo.registry import registry, resolve
from zoo.tasks.contrastive import Contrastive
from zoo.tasks.image_classification import ImageClassification
from zoo.tasks.picture_folder import read_pictures, spoken, to_measure

CANDIDATES = (  # the bare label first; a few of the 80 of Radford et al. 2021
    "{}",
    "a {}",
    "a photo of a {}",
    "a photo of the {}",
    "a blurry photo of a {}",
    "a close-up photo of a {}",
    "a bad photo of a {}",
    "a good photo of a {}",
    "a photo of a small {}",
    "a photo of a large {}",
    "a low resolution photo of a {}",
    "a picture of a {}",
    "a drawing of a {}",
    "there is a {}",
    "a small {}",
    "a large {}",
)
MOST_CHOSEN = 8  # templates of an ensemble
DRAWS = 2000  # of the bootstrap
Z = 1.959964  # of an interval that holds the truth in 95 of 100 cases
SIZE = 32  # of pictures of a task

Hits = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Trial:
    """A set of templates, measured.

    Attributes:
        templates: one, or an ensemble.
        accuracy: share of the measured pictures whose label is right.
        low: of its 95 % interval.
        high: likewise.
        gain: accuracy less that of the first template, on the same pictures.
        gain_low: of its 95 % interval.
        gain_high: likewise.
        won: pictures that are right with it and wrong with the first template.
        lost: the other way round.
    """

    templates: tuple[str, ...]
    accuracy: float
    low: float
    high: float
    gain: float
    gain_low: float
    gain_high: float
    won: tuple[str, ...]
    lost: tuple[str, ...]


@dataclass(frozen=True)
class PromptStudy:
    """Templates on a user's pictures.

    Attributes:
        model: its name.
        data: the folder or the task.
        labels: the names of each label, the one it is called by first.
        negative_labels: likewise.
        chosen_on: how many pictures the best set was chosen on; others than those measured.
        measured_on: how many pictures every number is of.
        trials: each template alone; the first is what others are compared with.
        best: the chosen set.
    """

    model: str
    data: str
    labels: tuple[tuple[str, ...], ...]
    negative_labels: tuple[tuple[str, ...], ...]
    chosen_on: int
    measured_on: int
    trials: tuple[Trial, ...]
    best: Trial


@dataclass(frozen=True)
class Measured:
    """Pictures as vectors.

    Attributes:
        labels: names.
        right: places in them (N,).
        names: of the pictures (N,).
        vectors: of length 1 (N, D).
    """

    labels: tuple[str, ...]
    right: npt.NDArray[np.int64]
    names: tuple[str, ...]
    vectors: Tensor


def study_prompts(
    model: Model | str | Path,
    data: str | Path,
    templates: Sequence[str] = CANDIDATES,
    *,
    synonyms: Mapping[str, Sequence[str]] | None = None,
    negative_labels: Sequence[str | Sequence[str]] = (),
    limit: int | None = None,
    seed: int = 1,
) -> PromptStudy:
    """Measure templates alone, and choose an ensemble of them.

    Half of the pictures of each label choose, the other half measure: the best of many on the same
    pictures would look better than it is. The ensemble begins with the best template and takes the
    one that helps most, again and again, while one helps.

    Args:
        model: one of pictures and texts, or what `zoo.load` takes.
        data: a folder with a folder for each label, or the name of a task of labelled pictures.
        templates: sentences with `{}` where the label goes; the first is what others are held
            against.
        synonyms: further names of labels, such as `{"dog": ["puppy"]}`.
        negative_labels: a picture that one of them fits better than every label counts as wrong.
        limit: of so many pictures only, drawn.
        seed: of all that is drawn.

    Raises:
        InputError: a template without `{}` or twice there, a synonym of no label, a negative label
            that is one of the labels, or too few pictures of one.
        DataNotFoundError: no such folder or task.
    """
    if not isinstance(model, Model):
        model = load(str(model))
    check_templates(templates)
    if twice := [one for one in templates if list(templates).count(one) > 1]:
        raise InputError(f"the template {twice[0]!r} stands there twice")
    pipeline = ZeroShotImageClassification(model)
    if limit is not None and limit < 1:
        raise InputError(f"limit must be at least 1, got {limit}")
    found = _embedded(pipeline, str(data), limit, seed)
    labels = [
        [spoken(names[0]), *names[1:]] for names in with_synonyms(found.labels, synonyms or {})
    ]
    others = named(negative_labels) if negative_labels else []
    require_different([*labels, *others])
    texts = torch.stack(  # (K, L, D), the negative labels last: they are never right
        [pipeline.classifier([*labels, *others], [template]) for template in templates]
    )
    choose, measure = halves(found.right, seed)
    best = greedy(found.vectors[choose], found.right[choose], texts)

    def hits_of(places: Sequence[int]) -> Hits:
        return _hits(found.vectors[measure], found.right[measure], texts, places)

    first = hits_of([0])
    names = [found.names[place] for place in measure]

    def trial(places: Sequence[int]) -> Trial:
        return _trial([templates[n] for n in places], hits_of(places), first, names, seed)

    return PromptStudy(
        model=model.name,
        data=str(data),
        labels=tuple(map(tuple, labels)),
        negative_labels=tuple(map(tuple, others)),
        chosen_on=len(choose),
        measured_on=len(measure),
        trials=tuple(trial([place]) for place in range(len(templates))),
        best=trial(best),
    )


def greedy(vectors: Tensor, right: npt.NDArray[np.int64], texts: Tensor) -> list[int]:
    """The places of the templates of an ensemble, in the order they are taken.

    Args:
        vectors: of the pictures that choose (N, D).
        right: their labels (N,).
        texts: of each template and label (K, L, D).
    """
    chosen: list[int] = []
    best = -1.0
    while len(chosen) < min(MOST_CHOSEN, len(texts)):
        rest = [place for place in range(len(texts)) if place not in chosen]
        shares = [_hits(vectors, right, texts, [*chosen, place]).mean() for place in rest]
        if max(shares) <= best:
            break
        best = float(max(shares))
        chosen.append(rest[int(np.argmax(shares))])
    return chosen


def wilson(hits: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share of `count` independent trials (Wilson 1927, eq. of p. 212)."""
    share, spread = hits / count, Z * Z / count
    middle = (share + spread / 2) / (1 + spread)
    width = Z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, middle - width), min(1.0, middle + width)


def halves(right: npt.NDArray[np.int64], seed: int) -> tuple[list[int], list[int]]:
    """Places of the pictures that choose and of those that measure: of each label half.

    Raises:
        InputError: fewer than two pictures of a label.
    """
    generator = np.random.default_rng(seed)
    parts: tuple[list[int], list[int]] = ([], [])
    for label in np.unique(right):
        own = generator.permutation(np.flatnonzero(right == label))
        if len(own) < 2:
            raise InputError("each label needs two pictures: one to choose by, one to measure")
        parts[0].extend(own[: len(own) // 2].tolist())
        parts[1].extend(own[len(own) // 2 :].tolist())
    return sorted(parts[0]), sorted(parts[1])


def write_prompts(study: PromptStudy, path: Path) -> None:
    """Write the best set as a TOML file, which `read_prompts` and `txzoo run --prompts` read."""

    def listed(words: Sequence[str]) -> str:
        return "[" + ", ".join(json.dumps(word, ensure_ascii=False) for word in words) + "]"

    best = study.best
    lines = [
        f"# accuracy {best.accuracy:.3f}, 95 % interval {best.low:.3f} to {best.high:.3f}, on "
        f"{study.measured_on} pictures; {json.dumps(study.trials[0].templates[0])} alone: "
        f"{study.trials[0].accuracy:.3f}",
        f"# chosen on {study.chosen_on} other pictures, of {len(study.trials)} templates",
        f"model = {json.dumps(study.model)}",
        f"data = {json.dumps(study.data)}",
        "templates = [",
        *[f"  {json.dumps(one, ensure_ascii=False)}," for one in best.templates],
        "]",
    ]
    for key, labels in (("labels", study.labels), ("negative_labels", study.negative_labels)):
        if labels:
            lines += [f"{key} = [", *[f"  {listed(names)}," for names in labels], "]"]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def read_prompts(path: Path) -> dict[str, Any]:
    """What a file that `write_prompts` wrote calls a model with: labels and templates.

    Raises:
        RecipeError: it is not such a file.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RecipeError(f"{path} holds no prompts: {error}") from error
    keys = ("labels", "templates", "negative_labels")
    found: dict[str, Any] = {key: values[key] for key in keys if key in values}
    if not all(isinstance(value, list) for value in found.values()) or "templates" not in found:
        raise RecipeError(f"{path} holds no prompts: it needs a list `templates`")
    check_templates(found["templates"])
    for key in found.keys() - {"templates"}:
        named(found[key])
    return found


def _embedded(
    pipeline: ZeroShotImageClassification, data: str, limit: int | None, seed: int
) -> Measured:
    """The vectors of a folder's pictures or of a task's, at most `limit` of them."""
    tasks = registry().tasks
    is_task = data in tasks.names() and not Path(data).is_dir()
    if is_task:
        task = resolve(tasks.get(data).target)()
        if isinstance(task, Contrastive):
            source: Any = next(iter(task.sources("test").values()))
            labels, right = source.names, np.asarray(source.labels)
        elif isinstance(task, ImageClassification):
            source = task.pictures("test")
            labels, right = task.labels, np.asarray(source.labels)
        else:
            raise InputError(f"{data} is no task of labelled pictures")
        names = [f"{labels[label]} {place}" for place, label in enumerate(right)]
    else:
        album = to_measure(read_pictures(data), data)
        labels = tuple(dict.fromkeys(album.labels))
        right = np.asarray([labels.index(label) for label in album.labels])
        names = album.names
    places = np.arange(len(right))
    if limit is not None and limit < len(places):
        places = np.sort(np.random.default_rng(seed).permutation(len(right))[:limit])
    kept = tuple(names[n] for n in places)
    if not is_task:
        files = [album.files[place] for place in places]
        _, vectors = PictureIndex.of(pipeline).vectors(files)
        return Measured(tuple(labels), right[places], kept, vectors)
    found = []
    for start in range(0, len(places), pipeline.batch):
        some = places[start : start + pipeline.batch].tolist()
        inputs = list(source(some, SIZE).permute(0, 2, 3, 1).numpy())
        found.append(pipeline.embed_pictures(inputs))
    return Measured(tuple(labels), right[places], kept, torch.cat(found))


def _hits(
    vectors: Tensor, right: npt.NDArray[np.int64], texts: Tensor, places: Sequence[int]
) -> Hits:
    """1 for each picture whose label is right by an ensemble, 0 for the others (N,)."""
    classifier = F.normalize(texts[list(places)].mean(0), dim=-1)  # (L, D)
    found: Hits = ((vectors @ classifier.T).argmax(-1).numpy() == right).astype(np.float64)
    return found


def _trial(
    templates: Sequence[str], hits: Hits, first: Hits, names: Sequence[str], seed: int
) -> Trial:
    change = hits - first
    draws = np.random.default_rng(seed).integers(len(change), size=(DRAWS, len(change)))
    gain_low, gain_high = np.quantile(change[draws].mean(1), (0.025, 0.975))
    low, high = wilson(float(hits.sum()), len(hits))
    return Trial(
        templates=tuple(templates),
        accuracy=float(hits.mean()),
        low=low,
        high=high,
        gain=float(change.mean()),
        gain_low=float(gain_low),
        gain_high=float(gain_high),
        won=tuple(name for name, one in zip(names, change, strict=True) if one > 0),
        lost=tuple(name for name, one in zip(names, change, strict=True) if one < 0),
    )
