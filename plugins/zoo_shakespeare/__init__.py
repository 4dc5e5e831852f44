"""Tiny Shakespeare: 1.1 million characters of plays (Karpathy 2015)."""

from collections.abc import Iterable
from pathlib import Path

from zoo import Task, hookimpl


@hookimpl
def txzoo_tasks() -> Iterable[Task]:
    """One task."""
    return [
        Task(
            "tinyshakespeare",
            pipeline="text-generation",
            target="zoo_shakespeare.task:TinyShakespeare",
            summary="Continue Shakespeare's plays; 1.1 million characters, the last tenth unseen",
            metrics=("bits_per_character", "perplexity_per_token", "accuracy"),
            license="cc0-1.0",
        )
    ]


@hookimpl
def txzoo_models() -> Iterable[Path]:
    """The model folders beside this file."""
    return Path(__file__).parent.glob("models/*/")
