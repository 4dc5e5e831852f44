"""WikiText-2: language modelling on Wikipedia articles (Merity et al. 2016, arXiv:1609.07843)."""

from collections.abc import Iterable

from zoo import Task, hookimpl


@hookimpl
def txzoo_tasks() -> Iterable[Task]:
    """One task."""
    return [
        Task(
            "wikitext-2",
            pipeline="text-generation",
            target="zoo_wikitext.task:WikiText2",
            summary="Continue Wikipedia articles; 2.1 million words to learn from",
            metrics=(
                "perplexity_per_word",
                "perplexity_per_token",
                "bits_per_character",
                "accuracy",
            ),
            license="cc-by-sa-3.0",
        )
    ]
