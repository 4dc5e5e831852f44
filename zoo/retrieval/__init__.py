"""Questions to a folder of documents: passages found by words and meaning, an answer that cites.

`documents` reads a folder and cuts texts into passages, `words` and `library` rank them for a
question, `answer` lets a decoder write from them. `pip install 'txzoo[retrieval]'` brings bm25s,
which ranks by words, and FAISS (Johnson et al. 2017, arXiv:1702.08734), which searches vectors.
"""

from zoo.retrieval.answer import PROMPT, Answer, answer
from zoo.retrieval.documents import Document, Passage, Skipped, cut, read_files, read_folder
from zoo.retrieval.library import Hit, Library

__all__ = [
    "PROMPT",
    "Answer",
    "Document",
    "Hit",
    "Library",
    "Passage",
    "Skipped",
    "answer",
    "cut",
    "read_files",
    "read_folder",
]
