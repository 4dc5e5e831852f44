"""CIFAR-10: 60,000 small photographs of ten things (Krizhevsky 2009)."""

from collections.abc import Iterable

from zoo import Task, hookimpl


@hookimpl
def txzoo_tasks() -> Iterable[Task]:
    """One task."""
    return [
        Task(
            "cifar10",
            pipeline="image-classification",
            target="zoo_cifar.task:Cifar10",
            summary="Say which of ten things a photograph of 32 x 32 pixels shows",
            metrics=("accuracy", "macro_f1", "expected_calibration_error"),
            license="other",
        )
    ]
