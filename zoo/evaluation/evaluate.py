"""`zoo.evaluate`: a model's metrics on a split of a task."""

from pathlib import Path

from zoo.errors import InputError, UnknownNameError
from zoo.loading import load
from zoo.model import Model
from zoo.registry import registry, resolve
from zoo.tasks import BaseTask


def evaluate(
    model: Model | str | Path,
    task: str | None = None,
    *,
    split: str = "test",
    limit: int | None = None,
    context: int | None = None,
) -> dict[str, float]:
    """Measure a model.

    Args:
        model: a model, or what `zoo.load` takes.
        task: a registered task; the one on the model's card if None.
        split: a split of the task.
        limit: only the first so many tokens or examples.
        context: tokens read at once, for language models; what it was trained on if None.

    Returns:
        Each metric, and under `metric_stderr` its standard error.

    Raises:
        UnknownNameError: no such task or split.
        InputError: no task is known, the task is for another pipeline, or `limit` or `context` is
            below 1.
    """
    if not isinstance(model, Model):
        model = load(str(model))
    name = task or (model.card.task if model.card is not None else None)
    if name is None:
        raise InputError(
            f"{model.name} has no card that names a task: pass one, txzoo list --tasks"
        )
    entry = registry().tasks.get(name)
    if entry.pipeline != model.pipeline:
        raise InputError(
            f"{name} is a {entry.pipeline} task, {model.name} is a {model.pipeline} model"
        )
    for option, value in {"limit": limit, "context": context}.items():
        if value is not None and value < 1:
            raise InputError(f"{option} must be at least 1, got {value}")
    implementation: BaseTask = resolve(entry.target)()
    if split not in implementation.splits:
        raise UnknownNameError(f"split of {name}", split, implementation.splits)
    return implementation.evaluate(model, split, limit=limit, context=context)
