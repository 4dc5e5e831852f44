"""Emotion: short messages with six emotions (Saravia et al. 2018, ACL D18-1404)."""

from collections.abc import Iterable
from pathlib import Path

from zoo import Task, hookimpl


@hookimpl
def txzoo_tasks() -> Iterable[Task]:
    """All messages to learn from, or a part of them."""
    return [
        Task(
            "emotion",
            pipeline="text-classification",
            target="zoo_emotion.task:Emotion",
            summary="Tell six emotions in short messages apart; 16,000 to learn from",
            metrics=("accuracy", "macro_f1", "expected_calibration_error"),
            license="other",
        ),
        Task(
            "emotion-2000",
            pipeline="text-classification",
            target="zoo_emotion.task:EmotionSmall",
            summary="Tell six emotions in short messages apart; 2,000 to learn from",
            metrics=("accuracy", "macro_f1", "expected_calibration_error"),
            license="other",
            studies=tuple(Path(__file__).parent.glob("studies/*.toml")),
        ),
    ]
