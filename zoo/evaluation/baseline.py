"""TF-IDF with logistic regression: what a text classifier has to beat."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from zoo.errors import InputError, MissingExtraError
from zoo.evaluation.evaluate import check_sizes, choose
from zoo.model import Model
from zoo.registry import registry, resolve
from zoo.tasks import TextClassification
from zoo.tasks.classification import Floats, classification_scores

MOST_TEXTS = 50_000  # whose pairs of words fit into some gigabytes


def tfidf_baseline(
    task: str | TextClassification,
    *,
    split: str = "test",
    words: int | None = None,
    C: float = 10.0,
    texts: int | None = None,
    seed: int = 1,
    on: TextClassification | None = None,
    limit: int | None = None,
) -> Mapping[str, float]:
    """Train on the training split and measure as models are measured.

    Args:
        task: a text-classification task, or the name of one.
        split: what is measured.
        words: counted are words and runs of up to so many; more than one, in at least two texts.
            1 or 2 if None, whichever is more often right on a tenth of the training split.
        C: inverse strength of the regularisation.
        texts: learn from so many drawn texts; from all if None.
        seed: of the draw.
        on: the task whose split is measured, the same if None.
        limit: measure on the first so many texts only.

    Returns:
        The metrics of the task with their standard errors; `seconds` of training, `words`, and how
        many `features` there are.

    Raises:
        UnknownNameError: no such task.
        InputError: another kind of task, other labels in `on`, or too little text.
        MissingExtraError: scikit-learn is not installed.
    """
    name = task if isinstance(task, str) else type(task).__name__
    found: Any = resolve(registry().tasks.get(task).target)() if isinstance(task, str) else task
    if not isinstance(found, TextClassification):
        raise InputError(f"{name} is no text classification, so it has no TF-IDF baseline")
    on = on or found
    if on.labels != found.labels:
        raise InputError(
            f"the TF-IDF baseline would learn the labels {', '.join(found.labels)}, and be measured"
            f" on {', '.join(on.labels)}"
        )
    given, labels = found.examples("train")
    order = np.random.default_rng(seed).permutation(len(given))[:texts]
    started = time.monotonic()
    given, labels = [given[place] for place in order], [labels[place] for place in order]
    baseline = Tfidf(given, labels, words=words or _words(given, labels, C), C=C)
    seconds = time.monotonic() - started
    measured, right = on.examples(split)
    measured, right = measured[:limit], right[:limit]
    chances = baseline(measured, len(found.labels))
    scores = classification_scores(chances, np.asarray(right, dtype=np.int64), found.labels)
    facts = {"seconds": seconds, "features": baseline.features, "words": baseline.words}
    return {**scores, **{key: float(value) for key, value in facts.items()}}


def _words(texts: Sequence[str], labels: Sequence[int], C: float) -> int:
    """How long the runs of words should be, by the last tenth of some texts."""
    cut, right = len(texts) * 9 // 10, np.asarray(labels)

    def hits(words: int) -> int:
        try:
            learned = Tfidf(texts[:cut], labels[:cut], words=words, C=C)
        except InputError:  # too little text for that
            return -1
        chances = learned(texts[cut:], int(right.max()) + 1)
        return int((chances.argmax(axis=1) == right[cut:]).sum())

    return max((2, 1), key=hits)


class Tfidf:
    """TF-IDF with logistic regression, learned from labelled texts.

    Args:
        texts: to learn from.
        labels: the number of each one's label.
        words: as of `tfidf_baseline`, and `C` too.

    Attributes:
        features: how many words and runs of words are counted.
        words: as given.

    Raises:
        InputError: too little text.
        MissingExtraError: scikit-learn is not installed.
    """

    def __init__(
        self, texts: Sequence[str], labels: Sequence[int], *, words: int = 2, C: float = 10.0
    ) -> None:
        try:
            from sklearn.feature_extraction.text import (  # type: ignore[import-untyped]
                TfidfVectorizer,
            )
            from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
        except ImportError as error:
            raise MissingExtraError("The TF-IDF baseline", "hf") from error
        self.vectorizer = TfidfVectorizer(
            ngram_range=(1, words), min_df=2 if words > 1 else 1, sublinear_tf=True
        )
        try:
            features = self.vectorizer.fit_transform(texts)
            self.model = LogisticRegression(C=C, max_iter=1000).fit(features, labels)
        except ValueError as error:  # no word is left, or one label
            raise InputError(f"no TF-IDF baseline of {len(texts)} texts: {error}") from error
        self.features, self.words = len(self.vectorizer.vocabulary_), words

    def __call__(self, texts: Sequence[str], labels: int) -> Floats:
        """The probability of each of so many labels for each text (N, L)."""
        chances = np.zeros((len(texts), labels))
        chances[:, self.model.classes_] = self.model.predict_proba(self.vectorizer.transform(texts))
        return chances


def baseline_of(
    model: Model,
    task: str | None = None,
    *,
    split: str = "test",
    limit: int | None = None,
    data: str | Path | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
) -> Mapping[str, float]:
    """What TF-IDF reaches where a model is measured, having learned from what the model did.

    On a task it learns from the task's own training split; on a file of `data`, from what the
    model's card says the model was trained on; of more than 50,000 texts, from as many drawn.

    Args:
        model: a text classifier.
        task: as of `zoo.evaluate`.
        split: of the task.
        limit: measure on the first so many texts only.
        data: as of `zoo.evaluate`.
        text_column: as of `zoo.evaluate`.
        label_column: as of `zoo.evaluate`.

    Raises:
        ZooError: as of `zoo.evaluate` and of `tfidf_baseline`.
    """
    entry, on = choose(
        model, task, split, data=data, text_column=text_column, label_column=label_column
    )
    check_sizes(limit=limit)
    source = on if "train" in on.splits else choose(model, None, "train")[1]
    if not isinstance(on, TextClassification) or not isinstance(source, TextClassification):
        raise InputError(
            "the TF-IDF baseline is one of text classification; "
            f"{entry.name} is a {entry.pipeline} task"
        )
    return tfidf_baseline(source, split=split, texts=MOST_TEXTS, on=on, limit=limit)
