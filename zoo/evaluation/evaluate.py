"""`zoo.evaluate`: a model's metrics on a split of a task, or on labelled texts."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from zoo.card import Card
from zoo.errors import CardError, DataNotFoundError, InputError, UnknownNameError
from zoo.hookspecs import Task
from zoo.loading import load
from zoo.model import Model
from zoo.registry import registry, resolve
from zoo.tasks import BaseTask
from zoo.tasks.labelled_file import (
    LabelledFile,
    Table,
    entry_of,
    open_data,
    read_table,
    warn_of_shared,
)


def evaluate(
    model: Model | str | Path,
    task: str | None = None,
    *,
    split: str = "test",
    limit: int | None = None,
    context: int | None = None,
    data: str | Path | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
) -> dict[str, float]:
    """Measure a model.

    Args:
        model: a model, or what `zoo.load` takes.
        task: a registered task; what the model's card says it was trained on if None.
        split: a split of the task.
        limit: only the first so many tokens or examples.
        context: tokens read at once, for language models; what it was trained on if None.
        data: labelled texts instead of a task, for text classification: a CSV, TSV or JSONL file,
            or `"hf://datasets/owner/name"`. All of them are the split "test"; of the file that the
            model was trained on, what was held out.
        text_column: of `data`; may be left out where only one column can be meant.
        label_column: likewise.

    Returns:
        Each metric, and under `metric_stderr` its standard error.

    Raises:
        UnknownNameError: no such task or split.
        DataNotFoundError: the data are not at hand.
        InputError: no task is known, the task is for another pipeline, `limit` or `context` is
            below 1, or `data` has other labels than the model or is not as it should be.
    """
    if not isinstance(model, Model):
        model = load(str(model))
    measured = choose(
        model, task, split, data=data, text_column=text_column, label_column=label_column
    )[1]
    check_sizes(limit=limit, context=context)
    return measured.evaluate(model, split, limit=limit, context=context)


def choose(
    model: Model,
    task: str | None,
    split: str,
    *,
    data: str | Path | None = None,
    text_column: str | None = None,
    label_column: str | None = None,
) -> tuple[Task, BaseTask]:
    """What a model is measured on: the entry and the task, which has the split.

    Raises:
        ZooError: as of `evaluate`.
    """
    given = {"text_column": text_column, "label_column": label_column}
    columns = {key: value for key, value in given.items() if value is not None}
    if data is not None and task is not None:
        raise InputError(f"measure on the task {task} or on {data}, not on both")
    if data is None and columns:
        raise InputError(f"{next(iter(columns))} belongs to a file: give it, --data or data=")
    implementation: BaseTask
    if data is not None:
        entry, implementation = _of_file(model, str(data), columns)
    elif task is None and model.card is not None and _facts(model.card):
        entry, implementation = trained_on(model.card)
    else:
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
        implementation = resolve(entry.target)()
    if split not in implementation.splits:
        raise UnknownNameError(f"split of {entry.name}", split, implementation.splits)
    return entry, implementation


def check_sizes(**sizes: int | None) -> None:
    """Raise `InputError` for a number below 1."""
    for option, value in sizes.items():
        if value is not None and value < 1:
            raise InputError(f"{option} must be at least 1, got {value}")


def trained_on(card: Card) -> tuple[Task, LabelledFile]:
    """The labelled texts that a model was trained on, read again.

    Raises:
        DataNotFoundError: they are not at hand, or others than they were.
    """
    facts = _facts(card)
    wanted = f"{facts['name']} ({facts['texts']} texts, sha256 {facts['sha256'][:12]}...)"
    try:
        task = open_data(facts, facts.get("seed", 1), near=card.folder)
    except DataNotFoundError as error:
        raise DataNotFoundError(
            f"{card.name} was trained on {wanted}: {error}. Go to where it lies, or measure on "
            "other texts with --data"
        ) from error
    for table, key in ((task.train, "sha256"), (task.test, "test_sha256")):
        if table is not None and table.sha256 != facts.get(key):
            raise DataNotFoundError(
                f"{table.path} is not the {table.name} of {card.name}, which was trained on "
                f"{wanted}; this one has sha256 {table.sha256[:12]}...: measure on it with --data"
            )
    return entry_of(task), task


def _facts(card: Card) -> dict[str, Any]:
    """What a card says of the texts that the model was trained on; empty for a task.

    Raises:
        CardError: not as `LabelledFile.facts` gives it.
    """
    facts = card.data["txzoo"].get("data")
    if not facts:
        return {}
    words = ("name", "path", "sha256", "text_column", "label_column")
    more = [
        key for key in ("test_path", "test_sha256") if isinstance(facts, Mapping) and key in facts
    ]
    if not isinstance(facts, Mapping) or not all(
        isinstance(facts.get(key), str) for key in (*words, *more)
    ):
        raise CardError(f"{card.path}: txzoo.data must be a mapping with {', '.join(words)}")
    return {"texts": "?", **facts}


def _of_file(model: Model, path: str, columns: Mapping[str, str]) -> tuple[Task, LabelledFile]:
    """A file that the user names: all of it, or what was held out when it is the model's own."""
    if model.pipeline != "text-classification":
        raise InputError(
            f"{path}: labelled texts measure text-classification models, {model.name} is a "
            f"{model.pipeline} model"
        )
    own = _facts(model.card) if model.card is not None else {}
    table = read_table(
        path,
        columns.get("text_column", ""),
        columns.get("label_column", ""),
        split="test",
        usual=[own[key] for key in ("text_column", "label_column") if own],
    )
    if own.get("sha256") == table.sha256:
        return _own_file(model, table, own)
    task = LabelledFile(None, table, labels=model.config.labels)
    if own and model.card is not None:
        with suppress(DataNotFoundError):  # where they are not at hand nobody can tell
            warn_of_shared(trained_on(model.card)[1].parts["train"][0], table, own["name"])
    return entry_of(task), task


def _own_file(model: Model, table: Table, own: Mapping[str, Any]) -> tuple[Task, LabelledFile]:
    columns = [own["text_column"], own["label_column"]]
    if "test_path" in own or columns != [table.text_column, table.label_column]:
        raise InputError(
            f"{model.name} was trained on {table.name}, columns {' and '.join(columns)}: scores on "
            "what it has learned say nothing. Measure without --data, or on other texts"
        )
    task = LabelledFile(table, seed=own.get("seed", 1))
    return entry_of(task), task
