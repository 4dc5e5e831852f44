"""Passages with their vectors: made of a folder, kept on disk, searched by meaning.

Letters: N passages, D width of the encoder.
"""

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.errors import InputError, MissingExtraError
from zoo.folder import sha256
from zoo.model import Model
from zoo.retrieval.answer import DECODER, Answer, answer
from zoo.retrieval.documents import Passage, Skipped, cut, read_folder

ENCODER = "alibi-lm"  # of what is bundled it finds most, see docs/guides/ask.md
INDEX, PASSAGES = "index.faiss", "passages.json"
FORMAT = "txzoo-passages-1"
LONGEST = 128  # tokens of a passage; of more, one vector says too little about each part
AT_ONCE = 256  # passages that are read between two steps of the bar
Vectors = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Hit:
    """A passage that was found.

    Attributes:
        passage: where it stands, and its text.
        score: the cosine of its vector and the question's.
    """

    passage: Passage
    score: float


class Library:
    """The passages of a folder, in the order of its files.

    Args:
        encoder: a model with the pipeline `feature-extraction`, one with such a body, or a language
            model, whose tokens' vectors are then taken; or what `zoo.load` takes.

    Attributes:
        encoder: the model that reads passages and questions.
        ref: how it is loaded again.
        passages: N of them.
        documents: the sha256 of each file that was read.
        skipped: what was left out.
        index: a `faiss.IndexFlatIP` of N vectors of length 1: products are cosines, and all of
            them are looked at.
        made_anew: how many passages were read by the encoder when this was made.

    Raises:
        InputError: the model is no encoder.
        MissingExtraError: FAISS is not installed.
    """

    def __init__(self, encoder: Model | str | Path = ENCODER) -> None:
        from zoo.loading import load
        from zoo.pipelines.feature_extraction import FeatureExtraction
        from zoo.retrieval.tokens import TokenVectors

        faiss = _faiss()
        self.ref = encoder.name if isinstance(encoder, Model) else str(encoder)
        self.encoder = encoder if isinstance(encoder, Model) else load(encoder)
        writes = self.encoder.pipeline == "text-generation"
        self.embed: Any = (TokenVectors if writes else FeatureExtraction)(self.encoder)
        self.passages: list[Passage] = []
        self.documents: dict[str, str] = {}
        self.skipped: list[Skipped] = []
        self.made_anew = 0
        self.index: Any = faiss.IndexFlatIP(self.vectors(["width"]).shape[1])

    @classmethod
    def of(cls, folder: str | Path, encoder: Model | str | Path = ENCODER) -> "Library":
        """The passages of a folder's texts, Markdown and HTML.

        Args:
            folder: it and the folders in it are read.
            encoder: reads the passages.

        Raises:
            InputError: nothing in the folder can be read, or the model is no encoder.
            MissingExtraError: FAISS is not installed.
        """
        return cls(encoder).refreshed(folder)

    def refreshed(self, folder: str | Path) -> "Library":
        """The folder as it is now, read by the same encoder: vectors of unchanged files stay.

        Raises:
            InputError: nothing in the folder can be read.
        """
        documents, skipped = read_folder(folder)
        new = type(self)(self.encoder)
        new.ref, new.skipped = self.ref, skipped
        new.documents = {document.path: document.sha256 for document in documents}
        kept: dict[str, list[int]] = {}
        for place, passage in enumerate(self.passages):
            if new.documents.get(passage.path) == self.documents[passage.path]:
                kept.setdefault(passage.path, []).append(place)
        reader = self.embed.reader()
        special = len(reader.encode(["a"])[0].ids) - len(
            reader.tokenizer.encode("a", add_special_tokens=False).ids
        )
        length = min(LONGEST, reader.length) - special
        sources: list[int] = []  # in this library, -1 for those that have no vector yet
        for document in documents:
            known = self.documents.get(document.path) == document.sha256
            places = kept.get(document.path, []) if known else None
            if places is None:
                found = cut(document, reader.tokenizer, length)
                sources += [-1] * len(found)
            else:
                found = [self.passages[place] for place in places]
                sources += places
            new.passages += found
        where = np.array(sources, dtype=np.int64)
        vectors = np.empty((len(sources), self.index.d), dtype=np.float32)  # (N, D)
        if (where >= 0).any():
            vectors[where >= 0] = self.index.reconstruct_n(0, self.index.ntotal)[where[where >= 0]]
        missing = [new.passages[place].text for place in np.flatnonzero(where < 0)]
        if missing:
            vectors[where < 0] = self.vectors(missing)
        new.index.add(vectors)
        new.made_anew = len(missing)
        return new

    def vectors(self, texts: Sequence[str]) -> Vectors:
        """Vectors of length 1 (len(texts), D), with a bar when it takes long."""
        from zoo.training.progress import Progress

        rows: list[Any] = []
        with Progress(
            f"{self.encoder.name} reads", len(texts), enabled=len(texts) > AT_ONCE
        ) as bar:
            for start in range(0, len(texts), AT_ONCE):
                rows += self.embed(list(texts[start : start + AT_ONCE]))
                bar.update(len(rows))
        return np.stack([row.numpy() for row in rows])

    def search(self, question: str, k: int = 5) -> list[Hit]:
        """The k passages that are nearest to a question, nearest first.

        Raises:
            InputError: k is below 1, or the question is empty.
        """
        if type(k) is not int or k < 1:
            raise InputError(f"k must be a whole number from 1 on, got {k!r}")
        if not self.passages:
            return []
        scores, places = self.index.search(self.vectors([question]), min(k, len(self.passages)))
        return [
            Hit(self.passages[place], score)
            for score, place in zip(scores[0].tolist(), places[0].tolist(), strict=True)
        ]

    def ask(
        self, question: str, k: int = 5, model: Model | str | Path = DECODER, **options: Any
    ) -> Answer:
        """Let a decoder answer from the k nearest passages, as `zoo.retrieval.answer` says.

        Raises:
            InputError: as `search`, or the model writes no text.
        """
        return answer(question, [hit.passage for hit in self.search(question, k)], model, **options)

    def save(self, folder: str | Path) -> Path:
        """Write the index, and the passages as JSON, into a folder; returns its path.

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
            _faiss().write_index(self.index, str(beside / INDEX))
            data = {
                "format": FORMAT,
                "encoder": {"ref": self.ref, "sha256": fingerprint(self.encoder)},
                "index_sha256": sha256(beside / INDEX),
                "documents": self.documents,
                "skipped": [dataclasses.asdict(item) for item in self.skipped],
                "passages": [dataclasses.asdict(passage) for passage in self.passages],
            }
            (beside / PASSAGES).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
            for name in (INDEX, PASSAGES):
                os.replace(beside / name, folder / name)
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
            if data["format"] != FORMAT or sha256(folder / INDEX) != data["index_sha256"]:
                raise ValueError
            passages = [Passage(**passage) for passage in data["passages"]]
            skipped = [Skipped(**item) for item in data["skipped"]]
            documents: Mapping[str, str] = dict(data["documents"])
            made_with = data["encoder"]["ref"], data["encoder"]["sha256"]
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
        library = cls(encoder if encoder is not None else made_with[0])
        if fingerprint(library.encoder) != made_with[1]:
            raise InputError(
                f"The index in {folder} was made with {made_with[0]} (sha256 "
                f"{made_with[1][:12]}...), this is {library.encoder.name} (sha256 "
                f"{fingerprint(library.encoder)[:12]}...), whose vectors do not compare: take the "
                f"one it was made with, or {anew}"
            )
        index = _faiss().read_index(str(folder / INDEX))
        if (index.d, index.ntotal) != (library.index.d, len(passages)):
            raise InputError(f"The index in {folder} is damaged: {anew}")
        library.index, library.passages, library.skipped = index, passages, skipped
        library.documents = dict(documents)
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
