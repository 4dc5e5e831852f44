"""Running text that is larger than memory: files or a data set of the Hub, read as they are needed.

Documents come one by one through the `datasets` library and are cut into rows of tokens. A window
of rows is held at a time and drawn from by chance; neither text nor tokens are kept besides.
"""

import glob
import hashlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from zoo.data import from_hub
from zoo.errors import DataNotFoundError, InputError, MissingExtraError, TrainingError
from zoo.hookspecs import Task
from zoo.tasks.files import find_file
from zoo.tasks.language_modeling import LanguageModeling

if TYPE_CHECKING:
    from tokenizers import Tokenizer

HUB = "hf://datasets/"
# how a file ends, perhaps with .gz behind it, and what `datasets` calls such files
KINDS = {".txt": "text", ".parquet": "parquet", ".jsonl": "json", ".ndjson": "json", ".csv": "csv"}
HELD_OUT = 200_000  # characters at the beginning that scores are of, where no test data are given
SAMPLE = 10_000_000  # characters that a tokenizer is trained on
WINDOW = 64  # batches that are held at a time
TOGETHER = 64  # documents that the tokenizer is given at once


class Documents(Protocol):
    """Texts in a fixed order, one pass after another, from a place that can be gone back to."""

    def __iter__(self) -> Iterator[str]:
        """One pass from the place on; after it the place is the beginning."""

    def state_dict(self) -> dict[str, Any]:
        """The place, as JSON has it."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a place."""


class Source:
    """The documents of files, or of a data set of the Hub.

    Args:
        path: a file (.txt, a document a line; .parquet, .jsonl, .ndjson or .csv, a document a row;
            perhaps with .gz), a pattern such as `texts/*.jsonl`, a folder of such files, or
            `hf://datasets/owner/name[/configuration][@revision]`.
        column: that holds the texts, where there are columns.
        near: a folder where a file is looked for too.

    Attributes:
        head: the first documents, up to `HELD_OUT` characters.
        sha256: of these.

    Raises:
        DataNotFoundError: it is not there.
        InputError: files of another kind or of several, no such column, or no text.
        MissingExtraError: `datasets` is not installed.
    """

    def __init__(self, path: str, column: str = "", *, near: Path | None = None) -> None:
        self.path, self.name = path, path.removeprefix(HUB).rstrip("/").split("/")[-1]
        rows, self.column = _opened(path, column, near)
        if path.startswith(HUB):
            self.name = "/".join(path.removeprefix(HUB).partition("@")[0].split("/")[:2])
        self._rows = rows
        self.load_state_dict({})
        first = head(self, HELD_OUT)
        if not "".join(first).strip():
            raise InputError(f"{path} has no text in its first {HELD_OUT:,} characters")
        self.head = first
        self.load_state_dict({})
        self.sha256 = hashlib.sha256("".join(first).encode()).hexdigest()

    def __iter__(self) -> Iterator[str]:
        self._rows.load_state_dict(self._place)  # which counts from the first row on
        for row in self._rows:
            self._is_reading = True
            text = row.get(self.column)
            if not isinstance(text, str):
                raise InputError(
                    f"{self.path}: a row has no text in the column {self.column!r}, its columns "
                    f"are {', '.join(map(repr, row))}: choose one with --text-column"
                )
            yield f"{text}\n"
        self.load_state_dict({})

    def after(self, documents: int) -> "Source":
        """The same without its first documents."""
        rest = object.__new__(Source)
        rest.__dict__.update(self.__dict__, _rows=self._rows.skip(documents))
        rest.load_state_dict({})
        return rest

    def state_dict(self) -> dict[str, Any]:
        """The place that was read up to; empty for the beginning."""
        state: dict[str, Any] = self._rows.state_dict() if self._is_reading else self._place
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a place, with the next pass."""
        self._place, self._is_reading = state, False


def head(documents: Iterable[str], characters: int) -> list[str]:
    """The first documents, so many that they have the characters together; or all of them."""
    found, count = [], 0
    for text in documents:
        found.append(text)
        count += len(text)
        if count >= characters:
            break
    return found


class TextStream(LanguageModeling):
    """Running text from a source, for language models.

    Without `test` the first documents, up to `HELD_OUT` characters, are held out as "test". The
    split "train" is measured on what comes after them, as much as a tokenizer is trained on.

    Args:
        train: what is learned from; None to measure only.
        test: what is measured on, all of it.

    Raises:
        InputError: there is nothing behind what is held out.
    """

    def __init__(self, train: Source | None, test: Source | None = None) -> None:
        self.train, self.test = train, test
        self.learned = train
        self.splits = ("train", "test") if train is not None else ("test",)
        self._held_out = ""
        if train is not None and test is None:
            self._held_out = "".join(train.head)
            self.learned = train.after(len(train.head))
            if not head(self.learned.after(0), 1):
                raise InputError(
                    f"{train.path} has {len(self._held_out):,} characters, all of which would be "
                    "held out: give texts to test on, --test-data or test_data="
                )

    def text(self, split: str) -> str:
        """What is measured on."""
        if split == "train":
            return self.tokenizer_text()
        return self._held_out if self.test is None else "".join(self.test)

    def tokenizer_text(self) -> str:
        """The first documents that are learned from, up to `SAMPLE` characters."""
        assert self.learned is not None  # there is no other tokenizer to be trained
        return "".join(head(self.learned.after(0), SAMPLE))

    def batches(  # type: ignore[override]  # tokens that are streamed, not kept
        self, tokenizer: "Tokenizer", *, length: int, batch_tokens: int, seed: int
    ) -> "StreamBatches":
        """Rows cut from the documents one after another, drawn from a window at a time."""
        assert self.learned is not None  # what is only measured is not trained on
        rows = max(1, batch_tokens // length)
        documents = self.learned.after(0)  # a place of its own
        return StreamBatches(
            documents,
            tokenizer,
            start=self.start,
            length=length,
            rows=rows,
            seed=seed,
            window=WINDOW,
        )

    def facts(self) -> dict[str, Any]:
        """What a card says of the data, enough to read them again."""
        assert self.train is not None  # cards are of what was trained
        train = self.train
        found = {
            "name": train.name,
            "path": train.path,
            "sha256": train.sha256,
            "characters": sum(map(len, train.head)),
            **({"text_column": train.column} if train.column != "text" else {}),
        }
        if self.test is None:
            return found
        test = {"name": self.test.name, "path": self.test.path, "sha256": self.test.sha256}
        return found | {f"test_{key}": value for key, value in test.items()}


class StreamBatches:
    """Rows of `length` tokens of a stream, each with the same row one token later as its targets.

    A pure function of the step, as with other data: a window's rows are drawn in an order that
    depends on the seed and the window's number alone. A window that was passed is had again by
    reading from the beginning; where a run goes on, `restore` saves reading up to there.

    Args:
        documents: of the training text.
        tokenizer: of the model.
        start: text that stands before the first document.
        length: T.
        rows: B.
        seed: of the order.
        window: batches that are held at a time.

    Attributes:
        per_epoch: beyond all counting: the end of a stream is not known before it is reached.
    """

    per_epoch = sys.maxsize

    def __init__(
        self,
        documents: Documents,
        tokenizer: "Tokenizer",
        *,
        start: str,
        length: int,
        rows: int,
        seed: int,
        window: int,
    ) -> None:
        self.documents, self.tokenizer = documents, tokenizer
        self.length, self.rows, self.seed, self.window = length, rows, seed, window
        first = tokenizer.encode(start, add_special_tokens=False).ids
        # before each window: its number, the place in the documents, the tokens left over
        self._beginning = {"window": 0, "place": documents.state_dict(), "left": first}
        self.restore(self._beginning)

    def __call__(self, step: int) -> dict[str, Tensor]:
        """The batch of a step: `ids` and `targets`, each (B, T)."""
        window, index = divmod(step, self.window)
        if window < self._next - 1:
            self.restore(self._beginning)
        while self._next <= window:
            self._read()
        starts = self._starts[index * self.rows : (index + 1) * self.rows]  # (B,)
        found = self._ids[starts[:, None] + torch.arange(self.length + 1)]  # (B, T + 1)
        return {"ids": found[:, :-1], "targets": found[:, 1:]}

    def state(self) -> dict[str, Any]:
        """Where the window begins that was read last, as JSON has it."""
        return self._before

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from where `state` was taken."""
        self._before = {**state}
        self._next, self._left = state["window"], list(state["left"])
        self.documents.load_state_dict(state["place"])
        self._texts: Iterator[str] = iter(self.documents)

    def _read(self) -> None:
        """Fill the next window."""
        place = self.documents.state_dict()
        self._before = {"window": self._next, "place": place, "left": self._left}
        count = self.window * self.rows * self.length + 1  # the last one is only a target
        ids, is_empty = list(self._left), False
        while len(ids) < count:
            texts = list(islice(self._texts, TOGETHER))
            for encoding in self.tokenizer.encode_batch(texts, add_special_tokens=False):
                ids += encoding.ids
            if not texts:  # the end: from the beginning again
                if is_empty:
                    raise TrainingError("the training text is empty: it gives no token")
                self._texts, is_empty = iter(self.documents), True
            else:
                is_empty = False
        self._left = ids[count - 1 :]
        self._ids = torch.tensor(ids[:count])
        order = np.random.default_rng([self.seed, self._next]).permutation(self.window * self.rows)
        self._starts = torch.from_numpy(order) * self.length
        self._next += 1


def is_stream(data: Mapping[str, Any]) -> bool:
    """Whether a recipe's [data] describes running text: by its file, or by its one column."""
    path = str(data["path"])
    kind = KINDS.get(_suffix(Path(path)))
    only_text = bool(data.get("text_column")) and not data.get("label_column")
    if kind in ("text", "parquet") or (only_text and (kind or path.startswith(HUB))):
        return True
    return not path.startswith(HUB) and (glob.has_magic(path) or Path(path).is_dir())


def open_stream(data: Mapping[str, Any], seed: int = 1, *, near: Path | None = None) -> TextStream:
    """The task that a recipe's [data] describes.

    Args:
        data: `path`, and perhaps `text_column` and `test_path`.
        seed: not needed, for nothing is drawn by chance.
        near: a folder where a file is looked for too.

    Raises:
        ZooError: as of `Source` and `TextStream`.
    """
    column = data.get("text_column", "")
    train = Source(data["path"], column, near=near)
    test = data.get("test_path")
    return TextStream(train, Source(test, column, near=near) if test else None)


def entry_of(task: TextStream, license: str = "unknown") -> Task:
    """What a plugin would say of the task."""
    source = task.train or task.test
    assert source is not None  # a task has one of them
    return Task(
        source.name,
        pipeline="text-generation",
        target=f"{__name__}:TextStream",
        metrics=("perplexity_per_word", "perplexity_per_token", "bits_per_character", "accuracy"),
        license=license,
    )


def _opened(path: str, column: str, near: Path | None) -> tuple[Any, str]:
    """An `IterableDataset` of what is at a path, and the column of the texts."""
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("Reading texts as a stream", "hf") from error
    if path.startswith(HUB):
        place, _, revision = path.removeprefix(HUB).partition("@")
        owner, _, rest = place.partition("/")
        name, _, configuration = rest.partition("/")
        if not owner or not name:
            raise InputError(f"A data set of the Hub reads {HUB}owner/name, got {path!r}")
        rows = from_hub(
            f"{owner}/{name}",
            split="train",
            name=configuration or None,
            revision=revision or "main",
            streaming=True,
        )
        return rows, column or "text"
    files = _files(path, near)
    kinds = {_kind(file) for file in files}
    if len(kinds) > 1:
        raise InputError(f"{path} has files of several kinds: {', '.join(sorted(kinds))}")
    (kind,) = kinds
    if kind == "text" and column not in ("", "text"):
        raise InputError(f"{path} is plain text, which has no column {column!r}")
    names = [str(file) for file in files]
    rows = datasets.load_dataset(kind, data_files=names, split="train", streaming=True)
    return rows, column or "text"


def _files(path: str, near: Path | None) -> list[Path]:
    """The files that a path means, in the order of their names."""
    if glob.has_magic(path):
        found = sorted(Path(name) for name in glob.glob(path, recursive=True))
    elif Path(path).is_dir():
        found = sorted(Path(path).iterdir())
    else:
        return [find_file(path, near)]
    found = [file for file in found if file.is_file() and not file.name.startswith(".")]
    if not found:
        raise DataNotFoundError(f"{path}: there is no such file, from {Path.cwd()} on")
    return found


def _kind(file: Path) -> str:
    """What `datasets` calls files of this kind."""
    kind = KINDS.get(_suffix(file))
    if kind is None:
        raise InputError(
            f"{file}: running text comes as {', '.join(KINDS)}, each perhaps with .gz; this ends "
            f"in {''.join(file.suffixes) or 'nothing'}"
        )
    return kind


def _suffix(file: Path) -> str:
    """How a file's name ends, but for .gz."""
    suffixes = [suffix.lower() for suffix in file.suffixes if suffix.lower() != ".gz"]
    return suffixes[-1] if suffixes else ""
