"""IMDb: film reviews, positive or negative (Maas et al. 2011, ACL P11-1015)."""

from collections.abc import Iterable
from pathlib import Path

from zoo import Task, hookimpl


@hookimpl
def txzoo_tasks() -> Iterable[Task]:
    """Sentiment, from all reviews or from few, and the reviews as text to fill in."""
    return [
        Task(
            "imdb",
            pipeline="text-classification",
            target="zoo_imdb.task:Imdb",
            summary="Tell film reviews that praise from those that pan; 25,000 to learn from",
            metrics=("accuracy", "macro_f1", "expected_calibration_error"),
            license="other",
        ),
        Task(
            "imdb-2000",
            pipeline="text-classification",
            target="zoo_imdb.task:ImdbSmall",
            summary="Tell film reviews that praise from those that pan; 2,000 to learn from",
            metrics=("accuracy", "macro_f1", "expected_calibration_error"),
            license="other",
            studies=tuple(Path(__file__).parent.glob("studies/*.toml")),
        ),
        Task(
            "imdb-mlm",
            pipeline="fill-mask",
            target="zoo_imdb.task:ImdbUnlabelled",
            summary="Fill in hidden words of film reviews; 74,000 to learn from, without labels",
            metrics=("masked_perplexity", "masked_accuracy"),
            license="other",
        ),
    ]
