"""Where a translator errs: its worst sentences, and how good short and long ones are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from zoo.errors import InputError
from zoo.evaluation.evaluate import check_sizes, choose
from zoo.loading import load
from zoo.model import Model
from zoo.tasks import Translation
from zoo.tasks.translation import LengthRow, metrics


@dataclass(frozen=True)
class Translated:
    """A sentence, what a model made of it, and what would have been right.

    Attributes:
        place: of the sentence in the split, counted from 0.
        source: the sentence.
        translation: the model's.
        references: the right ones.
        chrf: of the translation alone, 0 to 100, against the reference that it is nearest to.
    """

    place: int
    source: str
    translation: str
    references: tuple[str, ...]
    chrf: float


@dataclass(frozen=True)
class TranslationErrors:
    """What `translation_errors` finds.

    Attributes:
        task: name of the task, or of the file.
        split: of it.
        sentences: how many were translated.
        worst: those of the lowest chrF, lowest first, at most as many as were asked for.
        by_length: scores for each range of source lengths, shortest ones first.
        scores: what `zoo.evaluate` returns.
    """

    task: str
    split: str
    sentences: int
    worst: tuple[Translated, ...]
    by_length: tuple[LengthRow, ...]
    scores: Mapping[str, float]


def translation_errors(
    model: Model | str | Path,
    task: str | None = None,
    split: str = "test",
    n: int = 20,
    *,
    limit: int | None = None,
    context: int | None = None,
    data: str | Path | Sequence[str | Path] | None = None,
    source_column: str | None = None,
    target_column: str | None = None,
) -> TranslationErrors:
    """Find the sentences that a translator is worst at, and what their length has to do with it.

    Args:
        model: a model, or what `zoo.load` takes.
        task: as of `zoo.evaluate`.
        split: of the task.
        n: how many sentences at most.
        limit: only the first so many sentences are translated.
        context: as of `zoo.evaluate`.
        data: as of `zoo.evaluate`.
        source_column: as of `zoo.evaluate`.
        target_column: as of `zoo.evaluate`.

    Raises:
        InputError: the task is no translation, or `n` is below 1.
        MissingExtraError: `sacrebleu` is not installed.
        ZooError: as of `zoo.evaluate`.
    """
    if not isinstance(model, Model):
        model = load(str(model))
    entry, found = choose(
        model, task, split, data=data, source_column=source_column, target_column=target_column
    )
    if not isinstance(found, Translation):
        raise InputError(
            f"translations are looked at in a task of sentence pairs; {entry.name} is a "
            f"{entry.pipeline} task"
        )
    check_sizes(errors=n, limit=limit, context=context)
    chrf = metrics()["chrf"]
    sources = list(found.pairs(split)[0][:limit])
    translations = found.translations(model, sources)
    every = [
        Translated(
            place,
            source,
            translation,
            tuple(references),
            float(chrf.sentence_score(translation, list(references)).score),
        )
        for place, (source, translation, references) in enumerate(
            zip(sources, translations, found.references(split)[:limit], strict=True)
        )
    ]
    return TranslationErrors(
        entry.name,
        split,
        len(every),
        tuple(sorted(every, key=lambda one: one.chrf)[:n]),
        tuple(found.by_source_length(model, split, limit=limit, translations=translations)),
        found.evaluate(model, split, limit=limit, context=context, translations=translations),
    )
