"""TF-IDF with logistic regression: what a text classifier has to beat."""

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from zoo.errors import InputError, MissingExtraError
from zoo.registry import registry, resolve
from zoo.tasks import TextClassification
from zoo.tasks.classification import classification_scores


def tfidf_baseline(
    task: str,
    *,
    split: str = "test",
    words: int = 2,
    C: float = 10.0,
    texts: int | None = None,
    seed: int = 1,
) -> Mapping[str, float]:
    """Train on the training split and measure as models are measured.

    Args:
        task: name of a text-classification task.
        split: what is measured.
        words: counted are words and runs of up to so many; more than one, in at least two texts.
        C: inverse strength of the regularisation.
        texts: learn from so many drawn texts; from all if None.
        seed: of the draw.

    Returns:
        The metrics of the task with their standard errors; `seconds` of training, and how many
        `features` there are.

    Raises:
        UnknownNameError: no such task.
        InputError: another kind of task.
        MissingExtraError: scikit-learn is not installed.
    """
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer  # type: ignore[import-untyped]
        from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtraError("The TF-IDF baseline", "hf") from error
    found: Any = resolve(registry().tasks.get(task).target)()
    if not isinstance(found, TextClassification):
        raise InputError(f"{task} is no text classification, so it has no TF-IDF baseline")
    given, labels = found.examples("train")
    order = np.random.default_rng(seed).permutation(len(given))[:texts]
    started = time.monotonic()
    vectorizer = TfidfVectorizer(
        ngram_range=(1, words), min_df=2 if words > 1 else 1, sublinear_tf=True
    )
    features = vectorizer.fit_transform([given[place] for place in order])
    model = LogisticRegression(C=C, max_iter=1000)
    model.fit(features, [labels[place] for place in order])
    seconds = time.monotonic() - started
    measured, right = found.examples(split)
    chances = np.zeros((len(measured), len(found.labels)))
    chances[:, model.classes_] = model.predict_proba(vectorizer.transform(measured))
    scores = classification_scores(chances, np.asarray(right, dtype=np.int64), found.labels)
    return {**scores, "seconds": seconds, "features": float(len(vectorizer.vocabulary_))}
