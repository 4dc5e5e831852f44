"""Emotion: short messages with six emotions (Saravia et al. 2018, ACL D18-1404)."""

from collections.abc import Iterable

from zoo import Task, hookimpl


@hookimpl
def txzoo_tasks() -> Iterable[Task]:
    """One task."""
    return [
        Task(
            "emotion",
            pipeline="text-classification",
            target="zoo_emotion.task:Emotion",
            summary="Tell six emotions in short messages apart; 16,000 to learn from",
            metrics=("accuracy", "macro_f1", "expected_calibration_error"),
            license="other",
        )
    ]
