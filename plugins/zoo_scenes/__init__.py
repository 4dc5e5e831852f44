"""Scenes: drawings of coloured shapes with captions, some pairs of colour and shape held out."""

from collections.abc import Iterable

from zoo import Task, hookimpl


@hookimpl
def txzoo_tasks() -> Iterable[Task]:
    """Captions to be written, and captions to be found; with photographs and without."""
    return [
        Task(
            "scene-captions",
            pipeline="image-to-text",
            target="zoo_scenes.captions:SceneCaptions",
            summary="Say colour, shape, size, count and place of what a drawing shows",
            metrics=("exact_attributes", "bleu", "perplexity_per_token"),
            license="cc0-1.0",
        ),
        Task(
            "scene-contrastive",
            pipeline="zero-shot-image-classification",
            target="zoo_scenes.task:SceneContrastive",
            summary="Bring drawings and captions together; 8 of 64 kinds of thing are held out",
            metrics=("accuracy", "bare_label_accuracy", "ensemble_gain"),
            license="cc0-1.0",
        ),
        Task(
            "scene-cifar10-contrastive",
            pipeline="zero-shot-image-classification",
            target="zoo_scenes.task:SceneCifarContrastive",
            summary="The same with CIFAR-10, whose captions are templates with labels",
            metrics=(
                "accuracy",
                "bare_label_accuracy",
                "ensemble_gain",
                "cifar10_accuracy",
                "cifar10_bare_label_accuracy",
                "cifar10_ensemble_gain",
            ),
            license="other",
        ),
    ]
