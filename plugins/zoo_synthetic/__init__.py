"""Synthetic sequences: patterns whose next token can be known, and how often."""

from collections.abc import Iterable
from pathlib import Path

from zoo import Task, hookimpl


@hookimpl
def txzoo_tasks() -> Iterable[Task]:
    """One task."""
    return [
        Task(
            "synthetic",
            pipeline="text-generation",
            target="zoo_synthetic.task:Synthetic",
            summary="Continue six patterns of numbers; 93.8 % of the tokens can be foretold",
            metrics=("accuracy", "accuracy_of_reachable", "perplexity_per_token"),
            license="cc0-1.0",
        )
    ]


@hookimpl
def txzoo_models() -> Iterable[Path]:
    """The model folders beside this file."""
    return Path(__file__).parent.glob("models/*/")
