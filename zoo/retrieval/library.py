"""Passages of a folder: searched by words and by meaning, kept on disk.

Letters: N passages, D width of the encoder.
"""

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from zoo.errors import InputError, MissingExtraError
from zoo.folder import sha256
from zoo.model import Model
from zoo.retrieval.answer import DECODER, Answer, answer
from zoo.retrieval.documents import Document, Passage, Skipped, cut, read_files, read_folder
from zoo.retrieval.words import Words, counter

if TYPE_CHECKING:
    from tokenizers import Tokenizer

INDEX, PASSAGES = "index.faiss", "passages.json"
FORMAT = "txzoo-passages-2"
LONGEST = 128  # tokens of a passage; of more, one vector says too little about each part
DEPTH = 100  # passages of each ranking that are looked at
DAMPING = 60  # of a rank, as Cormack et al. found it
AT_ONCE = 256  # passages that are read between two steps of the bar
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Hit:
    """A passage that was found.

    Attributes:
        passage: where it stands, and its text.
        by_words: its rank among those that share words with the question, None for one of others.
        by_meaning: its rank by the cosine of its vector and the question's, None without an encoder
            and behind the first `DEPTH`.
    """

    passage: Passage
    by_words: int | None
    by_meaning: int | None


class Library:
    """The passages of a folder, in the order of its files.

    Args:
        encoder: a model with the pipeline `feature-extraction`, or one with such a body, or what
            `zoo.load` takes. Without one words are counted and meaning is not looked at.

    Attributes:
        encoder: the model that reads passages and questions, or None.
        ref: how it is loaded again.
        passages: N of them.
        documents: the sha256 of each file that was read.
        skipped: what was left out.
        index: a `faiss.IndexFlatIP` of N vectors of length 1: products are cosines, and all of
            them are looked at; None without an encoder.
        made_anew: how many passages were cut, and read by an encoder, when this was made.

    Raises:
        InputError: the model is no encoder.
        MissingExtraError: FAISS or bm25s is not installed.
    """

    def __init__(self, encoder: Model | str | Path | None = None) -> None:
        from zoo.loading import load
        from zoo.pipelines.feature_extraction import FeatureExtraction

        self.ref = encoder.name if isinstance(encoder, Model) else encoder and str(encoder)
        self.encoder = load(encoder) if isinstance(encoder, str | Path) else encoder
        self.embed: Any = None
        self.index: Any = None
        if self.encoder is not None:
            faiss = _faiss()
            self.embed = FeatureExtraction(self.encoder)
            self.index = faiss.IndexFlatIP(self.vectors(["width"]).shape[1])
        self.passages: list[Passage] = []
        self.documents: dict[str, str] = {}
        self.skipped: list[Skipped] = []
        self.made_anew = 0

    @classmethod
    def of(cls, folder: str | Path, encoder: Model | str | Path | None = None) -> "Library":
        """The passages of a folder's texts, Markdown and HTML.

        Args:
            folder: it and the folders in it are read.
            encoder: reads the passages for their meaning.

        Raises:
            InputError: nothing in the folder can be read, or the model is no encoder.
            MissingExtraError: FAISS or bm25s is not installed.
        """
        return cls(encoder).refreshed(folder)

    @classmethod
    def of_files(
        cls, files: Mapping[str, str | Path], encoder: Model | str | Path | None = None
    ) -> "Library":
        """The passages of some files, wherever they are.

        Args:
            files: the name that each document is to have, and where its file is.
            encoder: reads the passages for their meaning.

        Raises:
            InputError: none of them can be read, or the model is no encoder.
            MissingExtraError: FAISS or bm25s is not installed.
        """
        return cls(encoder)._holding(*read_files(files))

    def refreshed(self, folder: str | Path) -> "Library":
        """The folder as it is now, read by the same encoder: vectors of unchanged files stay.

        Raises:
            InputError: nothing in the folder can be read.
        """
        return self._holding(*read_folder(folder))

    def _holding(self, documents: Sequence[Document], skipped: list[Skipped]) -> "Library":
        """These documents, read by the same encoder: vectors of unchanged ones stay."""
        new = type(self)(self.encoder)
        new.ref, new.skipped = self.ref, skipped
        new.documents = {document.path: document.sha256 for document in documents}
        kept: dict[str, list[int]] = {}
        for place, passage in enumerate(self.passages):
            if new.documents.get(passage.path) == self.documents[passage.path]:
                kept.setdefault(passage.path, []).append(place)
        tokenizer, length = self._counter()
        sources: list[int] = []  # in this library, -1 for those that have no vector yet
        for document in documents:
            known = self.documents.get(document.path) == document.sha256
            places = kept.get(document.path, []) if known else None
            if places is None:
                found = cut(document, tokenizer, length)
                sources += [-1] * len(found)
            else:
                found = [self.passages[place] for place in places]
                sources += places
            new.passages += found
        new.made_anew = sources.count(-1)
        if self.index is None:
            return new
        where = np.array(sources, dtype=np.int64)
        vectors = np.empty((len(sources), self.index.d), dtype=np.float32)  # (N, D)
        if (where >= 0).any():
            vectors[where >= 0] = self.index.reconstruct_n(0, self.index.ntotal)[where[where >= 0]]
        if new.made_anew:
            missing = [new.passages[place].text for place in np.flatnonzero(where < 0)]
            vectors[where < 0] = self.vectors(missing)
        new.index.add(vectors)
        return new

    def _counter(self) -> "tuple[Tokenizer, int]":
        """What counts the tokens of a passage, and how many it may have."""
        if self.encoder is None:
            return counter(), LONGEST
        reader = self.embed.reader()
        special = len(reader.encode(["a"])[0].ids) - len(
            reader.tokenizer.encode("a", add_special_tokens=False).ids
        )
        return reader.tokenizer, min(LONGEST, reader.length) - special

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """Vectors of length 1 (len(texts), D), with a bar when it takes long."""
        from zoo.training.progress import Progress

        rows: list[Any] = []
        with Progress(f"{self.ref} reads", len(texts), enabled=len(texts) > AT_ONCE) as bar:
            for start in range(0, len(texts), AT_ONCE):
                rows += self.embed(list(texts[start : start + AT_ONCE]))
                bar.update(len(rows))
        return np.stack([row.numpy() for row in rows])

    def search(self, question: str, k: int = 5) -> list[Hit]:
        """The k passages that a question is most likely about, best first.

        They are ranked by words (BM25) and, where there is an encoder, by meaning (cosines), and
        each rank r counts 1 / (60 + r): reciprocal rank fusion (Cormack, Clarke & Buettcher 2009).
        Without an encoder only those are found that share a word with the question.

        Raises:
            InputError: k is below 1, or the question is empty.
        """
        if type(k) is not int or k < 1:
            raise InputError(f"k must be a whole number from 1 on, got {k!r}")
        if not question.strip():
            raise InputError(f"The text {question!r} is empty: give at least one word")
        if not self.passages:
            return []
        most = min(max(k, DEPTH), len(self.passages))
        meant = []
        if self.index is not None:
            meant = self.index.search(self.vectors([question]), most)[1][0].tolist()
        words = {place: rank for rank, place in enumerate(self._words.rank(question, most), 1)}
        meaning = {place: rank for rank, place in enumerate(meant, 1)}

        def worth(place: int) -> float:
            ranks = (ranking.get(place) for ranking in (words, meaning))
            return sum(1 / (DAMPING + rank) for rank in ranks if rank is not None)

        best = sorted(words | meaning, key=lambda place: (-worth(place), place))[:k]
        return [Hit(self.passages[at], words.get(at), meaning.get(at)) for at in best]

    @cached_property
    def _words(self) -> Words:
        return Words([passage.text for passage in self.passages])

    def ask(
        self, question: str, k: int = 5, model: Model | str | Path = DECODER, **options: Any
    ) -> Answer:
        """Let a decoder answer from the k best passages, as `zoo.retrieval.answer` says.

        Raises:
            InputError: as `search`, nothing was found, or the model writes no text.
        """
        return answer(question, [hit.passage for hit in self.search(question, k)], model, **options)

    def save(self, folder: str | Path) -> Path:
        """Write the passages as JSON, and the index if there is one; returns the folder's path.

        Raises:
            InputError: something else is there.
        """
        folder = Path(folder)
        if folder.exists() and not (folder / PASSAGES).is_file():
            if not folder.is_dir() or any(folder.iterdir()):
                raise InputError(f"{folder} is there and is no index: choose another folder")
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=folder) as temporary:
            beside = Path(temporary)
            made_with = None
            if self.encoder is not None:
                _faiss().write_index(self.index, str(beside / INDEX))
                made_with = {
                    "ref": self.ref,
                    "sha256": fingerprint(self.encoder),
                    "index_sha256": sha256(beside / INDEX),
                }
            data = {
                "format": FORMAT,
                "encoder": made_with,
                "documents": self.documents,
                "skipped": [dataclasses.asdict(item) for item in self.skipped],
                "passages": [dataclasses.asdict(passage) for passage in self.passages],
            }
            (beside / PASSAGES).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
            (folder / INDEX).unlink(missing_ok=True)
            for path in sorted(beside.iterdir()):  # the index first
                os.replace(path, folder / path.name)
        return folder

    @classmethod
    def load(cls, folder: str | Path, encoder: Model | str | Path | None = None) -> "Library":
        """Read what `save` wrote.

        Args:
            folder: where it is.
            encoder: the one it was made with; loaded by its name unless given.

        Raises:
            InputError: it is damaged, or made with another encoder.
            ZooError: the encoder cannot be loaded.
        """
        folder = Path(folder)
        anew = "remove it, and it is made anew"
        try:
            data = json.loads((folder / PASSAGES).read_text(encoding="utf-8"))
            made_with = data["encoder"]
            if data["format"] != FORMAT:
                raise ValueError
            if made_with is not None and sha256(folder / INDEX) != made_with["index_sha256"]:
                raise ValueError
            passages = [Passage(**passage) for passage in data["passages"]]
            skipped = [Skipped(**item) for item in data["skipped"]]
            documents: Mapping[str, str] = dict(data["documents"])
            ref = made_with and str(made_with["ref"])
            digest = str(made_with["sha256"]) if made_with else ""
            if not all(map(_is_whole, passages)):
                raise ValueError
            if not {passage.path for passage in passages} <= documents.keys():
                raise ValueError
        except FileNotFoundError as error:
            raise InputError(
                f"{folder} is no index of passages: it has no {error.filename}"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"The index in {folder} is damaged: {anew}") from error
        if ref is None and encoder is not None:
            raise InputError(f"The index in {folder} was made without an encoder: {anew}")
        library = cls(encoder if encoder is not None else ref)
        library.passages, library.skipped = passages, skipped
        library.documents = dict(documents)
        if library.encoder is None:
            return library
        if (own := fingerprint(library.encoder)) != digest:
            raise InputError(
                f"The index in {folder} was made with {ref} (sha256 {digest[:12]}...), this is "
                f"{library.encoder.name} (sha256 {own[:12]}...), whose vectors do not compare: "
                f"take the one it was made with, or {anew}"
            )
        index = _faiss().read_index(str(folder / INDEX))
        if (index.d, index.ntotal) != (library.index.d, len(passages)):
            raise InputError(f"The index in {folder} is damaged: {anew}")
        library.index = index
        return library


def fingerprint(model: Model) -> str:
    """A sha256 of all that a vector depends on: tokenizer, configuration, weights."""
    import torch

    digest = hashlib.sha256(json.dumps(model.config.to_dict(), sort_keys=True).encode())
    if model.tokenizer is not None:
        digest.update(model.tokenizer.to_str().encode())
    for name, tensor in sorted(model.module.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _is_whole(passage: Passage) -> bool:
    """Whether a passage from a file has what it should."""
    texts, lines = (passage.path, passage.text), (passage.first, passage.last)
    return all(type(one) is str for one in texts) and all(type(one) is int for one in lines)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError("Searching documents", "retrieval") from error
    return faiss
