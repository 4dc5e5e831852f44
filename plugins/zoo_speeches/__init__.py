"""Speeches of three presidents of the United States, to go on with, or to tell apart."""

from collections.abc import Iterable
from pathlib import Path

from zoo import Task, hookimpl


@hookimpl
def txzoo_tasks() -> Iterable[Task]:
    """One task with three test sets, one with three labels."""
    return [
        Task(
            "speeches-lm",
            pipeline="text-generation",
            target="zoo_speeches.task:Speeches",
            summary="Continue speeches of Obama, G. W. Bush and G. H. W. Bush, each one a test set",
            metrics=("perplexity_per_token", "bits_per_character", "accuracy"),
            license="other",
        ),
        Task(
            "speeches",
            pipeline="text-classification",
            target="zoo_speeches.task:Speakers",
            summary="Tell sentences of Obama, G. W. Bush and G. H. W. Bush apart",
            metrics=("accuracy", "macro_f1", "expected_calibration_error"),
            license="other",
        ),
    ]


@hookimpl
def txzoo_models() -> Iterable[Path]:
    """The model folders beside this file."""
    return Path(__file__).parent.glob("models/*/")
