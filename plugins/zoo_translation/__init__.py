"""English and German sentence pairs: Multi30k (Elliott et al. 2016, ACL W16-3210) and Tatoeba."""

from collections.abc import Iterable

from zoo import Task, hookimpl

METRICS = ("bleu", "bleu_lowercased", "chrf", "perplexity_per_token")
SUMMARIES = {
    "multi30k-en-de": ("Multi30kEnDe", "Captions of photographs into German; 29,000 pairs"),
    "multi30k-de-en": ("Multi30kDeEn", "Captions of photographs into English; 29,000 pairs"),
    "tatoeba-en-de": ("TatoebaEnDe", "Everyday sentences into German; 165,000 pairs"),
    "tatoeba-de-en": ("TatoebaDeEn", "Everyday sentences into English; 165,000 pairs"),
    "en-de": ("EnDe", "Captions and everyday sentences into German; 194,000 pairs"),
    "captions-en-de": ("CaptionsEnDe", "The same pairs into German, captions eight times an epoch"),
    "de-en": ("DeEn", "Captions and everyday sentences into English; 194,000 pairs"),
}


@hookimpl
def txzoo_tasks() -> Iterable[Task]:
    """Either data set alone, and both together in both directions."""
    return [
        Task(
            name,
            pipeline="translation",
            target=f"zoo_translation.task:{kind}",
            summary=summary,
            metrics=METRICS,
            license="other",
        )
        for name, (kind, summary) in SUMMARIES.items()
    ]
