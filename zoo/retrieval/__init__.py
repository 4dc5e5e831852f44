"""Questions to a folder of documents: passages found by their meaning, an answer that cites them.

`documents` reads a folder and cuts texts into passages, `library` turns passages into vectors and
finds the nearest ones, `answer` lets a decoder write from them. `pip install 'txzoo[retrieval]'`
brings FAISS (Johnson et al. 2017, arXiv:1702.08734), which searches the vectors.
"""

from zoo.retrieval.answer import PROMPT, Answer, answer
from zoo.retrieval.documents import Document, Passage, Skipped, cut, read_folder
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
    "read_folder",
]
