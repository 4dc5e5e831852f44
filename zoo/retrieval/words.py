"""Passages ranked by the words that they share with a question."""

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from zoo.errors import MissingExtraError


class Words:
    """`words(["The bees sleep.", "A hive."])` ranks both texts for a question: BM25.

    Robertson & Zaragoza 2009, "The Probabilistic Relevance Framework: BM25 and Beyond", by the
    package `bm25s` (Lù 2024, arXiv:2407.03618) with its usual values: k1 1.5, b 0.75, lower case,
    words of two letters and more, the frequent ones of English left aside.

    Args:
        texts: N of them.

    Raises:
        MissingExtraError: `bm25s` is not installed.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        self.bm25s = _bm25s()
        found = self.bm25s.tokenize(list(texts), show_progress=False)
        self.known = set(found.vocab)
        self.count = len(texts) if self.known - {""} else 0
        if self.count:
            self.index: Any = self.bm25s.BM25()
            self.index.index(found, show_progress=False)

    def rank(self, question: str, most: int) -> list[int]:
        """The places of texts that share a word with a question, best first, at most so many."""
        [words] = self.bm25s.tokenize([question], return_ids=False, show_progress=False)
        asked = [word for word in words if word in self.known]
        if not self.count or not asked:
            return []
        found = self.index.retrieve([asked], k=min(most, self.count), show_progress=False)
        places, scores = found.documents[0].tolist(), found.scores[0].tolist()
        return [place for place, score in zip(places, scores, strict=True) if score > 0]


def counter() -> Tokenizer:
    """Counts words and signs where no model's tokenizer counts tokens."""
    tokenizer = Tokenizer(WordLevel({"": 0}, unk_token=""))
    tokenizer.pre_tokenizer = Whitespace()
    return tokenizer


def _bm25s() -> Any:
    try:
        import bm25s
    except ImportError as error:
        raise MissingExtraError("Searching documents", "retrieval") from error
    return bm25s
