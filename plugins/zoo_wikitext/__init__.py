"""WikiText-2 (Merity et al. 2016, arXiv:1609.07843): articles to go on with, or to fill in."""

from collections.abc import Iterable
from pathlib import Path

from zoo import Task, hookimpl


@hookimpl
def txzoo_tasks() -> Iterable[Task]:
    """Two tasks on the same texts."""
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
            studies=tuple(Path(__file__).parent.glob("studies/*.toml")),
        ),
        Task(
            "wikitext-2-spans",
            pipeline="text2text-generation",
            target="zoo_wikitext.task:WikiText2Spans",
            summary="Write what is hidden of Wikipedia articles, span by span, as T5 learned to",
            metrics=("perplexity_per_token",),
            license="cc-by-sa-3.0",
        ),
    ]
