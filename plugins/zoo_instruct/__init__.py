"""Instructions to be followed, answers that are preferred, and recipes of small models for both."""

from collections.abc import Iterable
from pathlib import Path

from zoo import Task, hookimpl


@hookimpl
def txzoo_tasks() -> Iterable[Task]:
    """The text to begin with, the instructions, few of them, and the preferences."""
    return [
        Task(
            "instruct-text",
            pipeline="text-generation",
            target="zoo_instruct.task:InstructText",
            summary="Continue Wikipedia, film reviews and instructions; 10 million words",
            metrics=(
                "perplexity_per_word",
                "perplexity_per_token",
                "bits_per_character",
                "accuracy",
            ),
            license="other",
        ),
        Task(
            "instruct",
            pipeline="text-generation",
            target="zoo_instruct.task:Instruct",
            summary="Follow instructions in English; 39,000 to learn from",
            metrics=("perplexity_of_responses", "exact_match"),
            license="other",
        ),
        Task(
            "instruct-1100",
            pipeline="text-generation",
            target="zoo_instruct.task:InstructSmall",
            summary="Follow short instructions in English; 1,100 of them",
            metrics=("perplexity_of_responses", "exact_match"),
            license="apache-2.0",
        ),
        Task(
            "preferences",
            pipeline="text-generation",
            target="zoo_instruct.task:Preferences",
            summary="Prefer the polite answer of two to short instructions",
            metrics=("preference_accuracy", "preference_margin"),
            license="apache-2.0",
        ),
    ]


@hookimpl
def txzoo_models() -> Iterable[Path]:
    """The model folders beside this file."""
    return Path(__file__).parent.glob("models/*/")
