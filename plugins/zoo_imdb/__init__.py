"""IMDb: film reviews, positive or negative (Maas et al. 2011, ACL P11-1015)."""

from collections.abc import Iterable

from zoo import Task, hookimpl


@hookimpl
def txzoo_tasks() -> Iterable[Task]:
    """One task."""
    return [
        Task(
            "imdb",
            pipeline="text-classification",
            target="zoo_imdb.task:Imdb",
            summary="Tell film reviews that praise from those that pan; 25,000 to learn from",
            metrics=("accuracy", "macro_f1", "expected_calibration_error"),
            license="other",
        )
    ]
