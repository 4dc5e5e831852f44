"""What zoo-sums brings: names and where they lie. Importing it must stay cheap: no torch."""

from pathlib import Path

from zoo import Task, hookimpl


@hookimpl
def txzoo_tasks():
    return [
        Task(
            "sums",
            target="zoo_sums.task:Sums",
            pipeline="text-generation",
            summary="Sums of two numbers below 100, written out",
            metrics=("accuracy", "perplexity_per_token"),
            license="cc0-1.0",
        )
    ]


@hookimpl
def txzoo_models():
    return Path(__file__).parent.glob("models/*/")
