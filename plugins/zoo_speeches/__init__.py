"""Speeches of three presidents of the United States, for language modelling."""

from collections.abc import Iterable
from pathlib import Path

from zoo import Task, hookimpl


@hookimpl
def txzoo_tasks() -> Iterable[Task]:
    """One task with three test sets."""
    return [
        Task(
            "speeches-lm",
            pipeline="text-generation",
            target="zoo_speeches.task:Speeches",
            summary="Continue speeches of Obama, G. W. Bush and G. H. W. Bush, each one a test set",
            metrics=("perplexity_per_token", "bits_per_character", "accuracy"),
            license="other",
        )
    ]


@hookimpl
def txzoo_models() -> Iterable[Path]:
    """The model folders beside this file."""
    return Path(__file__).parent.glob("models/*/")
