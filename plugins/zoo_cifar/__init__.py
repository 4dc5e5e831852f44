"""CIFAR-10: 60,000 small photographs of ten things (Krizhevsky 2009)."""

from collections.abc import Iterable

from zoo import Task, hookimpl


@hookimpl
def txzoo_tasks() -> Iterable[Task]:
    """With a head for its labels, and with labels in words."""
    return [
        Task(
            "cifar10",
            pipeline="image-classification",
            target="zoo_cifar.task:Cifar10",
            summary="Say which of ten things a photograph of 32 x 32 pixels shows",
            metrics=("accuracy", "macro_f1", "expected_calibration_error"),
            license="other",
        ),
        Task(
            "cifar10-zero-shot",
            pipeline="zero-shot-image-classification",
            target="zoo_cifar.task:Cifar10ZeroShot",
            summary="The same by sentences with the labels, for models of pictures and texts",
            metrics=("accuracy", "bare_label_accuracy", "ensemble_gain"),
            license="other",
        ),
    ]
