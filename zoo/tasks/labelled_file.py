"""A file of labelled texts as a task: CSV, TSV or JSONL, or a data set of the Hub."""

import hashlib
import json
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.data import from_hub
from zoo.errors import InputError
from zoo.hookspecs import Task
from zoo.pipelines.reading import Reader, Row, last_tokens
from zoo.tasks.classification import ExampleBatches, Floats, TextClassification
from zoo.tasks.files import (
    Found,
    fifth_of_each,
    find_file,
    in_two,
    is_unicode,
    read_rows,
    rows_have,
    some,
    texts_of,
    warn_of_shared,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from zoo.model import Model

HUB = "hf://datasets/"
TEXTS = "text sentence review content message comment document body tweet utterance".split()
LABELS = "label sentiment class category target emotion topic intent".split()
EXAMPLE = {"text": "A joy.", "label": "positive"}
NUMBER = re.compile(r"[+-]?\d+(\.\d+)?")


@dataclass(frozen=True)
class Table:
    """Texts with their labels, as read from one place.

    Attributes:
        path: where it was read from, as it was given.
        name: of the file, or of the data set.
        sha256: of the file; of a data set of the Hub, of its texts and labels.
        text_column: where the texts stand.
        label_column: where the labels stand.
        texts: the texts.
        labels: the label of each.
    """

    path: str
    name: str
    sha256: str
    text_column: str
    label_column: str
    texts: list[str]
    labels: list[str]


class LabelledFile(TextClassification):
    """Texts whose labels are found in the data.

    Of a file alone a fifth of the texts of each label is held out as "test". Which ones depends on
    the seed and the texts, not on their order; a text that stands there twice is on one side.

    Args:
        train: what is learned from; None to measure only.
        test: what is measured on; None for the fifth.
        labels: of the model that is measured; those of `train` unless given.
        seed: of the drawing.

    Raises:
        InputError: one label only, or almost as many as texts, or others in `test`.

    Warns:
        UserWarning: texts of `test` stand in `train` too.
    """

    def __init__(
        self,
        train: Table | None,
        test: Table | None = None,
        *,
        labels: Sequence[str] = (),
        seed: int = 1,
    ) -> None:
        self.train, self.test, self.seed = train, test, seed
        self.parts: dict[str, tuple[list[str], list[str]]] = {}
        if train is not None:
            _check_classes(train)
            self.parts["train"] = train.texts, train.labels
        self.labels = tuple(labels) or tuple(in_order(train.labels if train else []))
        if test is not None:
            self._check_labels(test)
            self.parts["test"] = test.texts, test.labels
        if train is not None and test is not None:
            warn_of_shared(train.texts, test.texts, name=test.name, source=train.name)
        elif train is not None:
            self.parts = in_two(train.texts, train.labels, _held_out(train, seed))
        self.splits = tuple(self.parts)

    def _check_labels(self, test: Table) -> None:
        if unknown := set(test.labels) - set(self.labels):
            whose = "the model" if self.train is None else self.train.name
            raise InputError(
                f"{test.name} has the labels {some(in_order(test.labels))}; {whose} has "
                f"{some(self.labels)}, and so not {some(in_order(unknown))}"
            )

    def examples(self, split: str) -> tuple[list[str], list[int]]:
        """The texts of a split and the place in `labels` of each one's label."""
        texts, labels = self.parts[split]
        places = {label: place for place, label in enumerate(self.labels)}
        return texts, [places[label] for label in labels]

    def batches(
        self, tokenizer: "Tokenizer", *, length: int, batch_tokens: int, seed: int
    ) -> ExampleBatches:
        """As of any texts; says how much of them is too long to be read."""
        found = super().batches(tokenizer, length=length, batch_tokens=batch_tokens, seed=seed)
        _warn_of_cut("training", found.texts, len(found.texts), length)
        return found

    def probabilities(
        self, model: "Model", texts: Sequence[str], context: int | None = None
    ) -> Floats:
        """As of any texts; says how much of them is too long to be read."""
        found = super().probabilities(model, texts, context)
        assert model.tokenizer is not None  # the line above has used it
        length = min(context or model.config.max_seq_len, model.config.max_seq_len)
        # a token is a byte at least, so that shorter texts fit
        long = [text for text in texts if len(text.encode()) >= length]
        rows = Reader(model.tokenizer, length, last_tokens(length))(long) if long else []
        _warn_of_cut("test", rows, len(texts), length)
        return found

    def facts(self) -> dict[str, Any]:
        """What a card says of the data, enough to read them again."""
        assert self.train is not None  # cards are of what was trained
        train, test = self.train, self.test
        found = {
            "name": train.name,
            "path": train.path,
            "sha256": train.sha256,
            "texts": len(train.texts),
            "text_column": train.text_column,
            "label_column": train.label_column,
        }
        if test is None:
            return {**found, "held_out": len(self.parts["test"][0]), "seed": self.seed}
        return found | {
            "test_name": test.name,
            "test_path": test.path,
            "test_sha256": test.sha256,
            "test_texts": len(test.texts),
        }


def open_data(data: Mapping[str, Any], seed: int, *, near: Path | None = None) -> LabelledFile:
    """The task that a recipe's [data] describes.

    Args:
        data: `path`, and perhaps `text_column`, `label_column` and `test_path`.
        seed: of the recipe.
        near: a folder where the files are looked for too.

    Raises:
        DataNotFoundError: a file is not there, or the Hub not reached.
        InputError: something is wrong in a file; says where.
        MissingExtraError: a data set of the Hub without the packages for it.
    """
    columns = [data.get(key, "") for key in ("text_column", "label_column")]
    train = read_table(data["path"], *columns, near=near)
    test = None
    if data.get("test_path"):
        columns = [train.text_column, train.label_column]
        test = read_table(data["test_path"], *columns, split="test", near=near)
    return LabelledFile(train, test, seed=seed)


def entry_of(task: LabelledFile, license: str = "unknown") -> Task:
    """What a plugin would say of the task."""
    table = task.train or task.test
    assert table is not None  # a task has one of them
    return Task(
        table.name,
        pipeline="text-classification",
        target=f"{__name__}:LabelledFile",
        metrics=("accuracy", "macro_f1", "expected_calibration_error"),
        license=license,
    )


def read_table(
    path: str,
    text_column: str = "",
    label_column: str = "",
    *,
    split: str = "train",
    near: Path | None = None,
    usual: Sequence[str] = (),
) -> Table:
    """Read labelled texts.

    Args:
        path: a file, .csv, .tsv or .jsonl, perhaps with .gz; or `hf://datasets/owner/name`.
        text_column: may be left out where only one column can be meant.
        label_column: likewise.
        split: of a data set of the Hub.
        near: a folder where the file is looked for too.
        usual: names that a column left out has, where the file has them.

    Raises:
        DataNotFoundError: it is not there.
        InputError: something in it is wrong; says what and in which rows.
    """
    if path.startswith(HUB):
        name, (columns, rows) = _read_hub(path, split)
        digest = ""
    else:
        file = find_file(path, near)
        name, raw = file.name, file.read_bytes()
        digest = hashlib.sha256(raw).hexdigest()
        columns, rows = read_rows(file, raw, what="labelled texts", example=EXAMPLE)
    if not rows:
        raise InputError(f"{name} has no texts: it is empty, or has a line of column names only")
    unsaid = [usual_name if usual_name in columns else "" for usual_name in usual or ("", "")]
    text_column, label_column = _columns(
        name, columns, text_column or unsaid[0], label_column or unsaid[1]
    )
    texts = texts_of(name, text_column, rows)
    labels = _labels(name, label_column, rows)
    if not digest:
        lines = (json.dumps(pair) for pair in zip(texts, labels, strict=True))
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return Table(path, name, digest, text_column, label_column, texts, labels)


def in_order(labels: Sequence[str] | set[str]) -> list[str]:
    """Each label once: numbers as numbers, others as texts."""
    names = sorted(set(labels))
    if all(map(NUMBER.fullmatch, names)):
        names.sort(key=float)
    return names


def _read_hub(path: str, split: str) -> tuple[str, Found]:
    """A split of `hf://datasets/owner/name[/configuration][@revision]`, numbers as label names."""
    place, _, revision = path.removeprefix(HUB).partition("@")
    owner, _, rest = place.partition("/")
    name, _, configuration = rest.partition("/")
    if not owner or not name:
        raise InputError(f"A data set of the Hub reads {HUB}owner/name, got {path!r}")
    repository = f"{owner}/{name}"
    rows = from_hub(
        repository, split=split, name=configuration or None, revision=revision or "main"
    )
    names = {
        column: feature.names
        for column, feature in rows.features.items()
        if hasattr(feature, "names")
    }

    def spelled(row: Mapping[str, Any]) -> Mapping[str, Any]:
        # -1 is the library's way to say that there is no label
        found = {c: None if row[c] in (None, -1) else names[c][row[c]] for c in names}
        return {**row, **found}

    numbered = [(number, spelled(row)) for number, row in enumerate(rows, start=1)]
    return repository, (list(rows.column_names), numbered)


def _columns(name: str, columns: list[str], text: str, label: str) -> tuple[str, str]:
    """Which columns hold the texts and the labels.

    Raises:
        InputError: there is no such column, or it is not plain which one is meant.
    """
    known = [[c for c in columns if c.lower() in names] for names in (TEXTS, LABELS)]
    plain = [some[0] if len(some) == 1 else "" for some in known]
    found = [text or plain[0], label or plain[1]]
    if len(columns) == 2:
        for one, other in ((0, 1), (1, 0)):
            if found[other] in columns and not found[one] and not known[one]:
                found[one] = next(c for c in columns if c != found[other])
    for column, kind in zip(found, ("text", "label"), strict=True):
        there = f"{name} has the columns {some([repr(c) for c in columns])}"
        if not column:
            raise InputError(
                f"{there}: say which one holds the {kind}s, with --{kind}-column or {kind}_column="
            )
        if columns.count(column) != 1:
            how = "none" if column not in columns else "more than one"
            raise InputError(f"{there}, {how} called {column!r} for the {kind}s")
    if found[0] == found[1]:
        raise InputError(f"{name}: texts and labels cannot both be in the column {found[0]!r}")
    return found[0], found[1]


def _labels(name: str, column: str, rows: Sequence[tuple[int, Mapping[str, Any]]]) -> list[str]:
    labels, empty, wrong = [], [], []
    for number, row in rows:
        value = row.get(column)
        label = _label(value)
        if label is None:
            empty.append(number)
        elif not label or not is_unicode(label):
            wrong.append((number, value))
        else:
            labels.append(label)
    if empty:
        raise InputError(f"{name}: {rows_have(empty)} no label in the column {column!r}")
    if wrong:
        raise InputError(
            f"{name}: labels are texts or whole numbers, and {rows_have([n for n, _ in wrong])} "
            f"another in the column {column!r}, such as {wrong[0][1]!r:.60}"
        )
    return labels


def _label(value: Any) -> str | None:
    """A label as the model will call it; None where there is none, empty for what cannot be one."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(value).lower()  # as JSON spells it
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else ""
    if isinstance(value, int):
        return str(value)
    words = " ".join(value.split()) if isinstance(value, str) else ""
    return None if isinstance(value, str) and words.lower() in ("", "nan") else words


def _check_classes(train: Table) -> None:
    names = in_order(train.labels)
    where = f"{train.name}, column {train.label_column!r}"
    if len(names) == 1:
        raise InputError(
            f"{where}: all {len(train.labels)} texts have the label {names[0]!r}: there is nothing "
            "to tell apart"
        )
    if 2 * len(names) > len(train.labels):
        numbers = all(map(NUMBER.fullmatch, names))
        guess = "a number to be predicted" if numbers else "a column of other content"
        raise InputError(
            f"{where} has {len(names)} labels for {len(train.labels)} texts ({some(names)}): "
            f"probably {guess}, not classes. Choose the column with --label-column"
        )


def _held_out(train: Table, seed: int) -> set[str]:
    """A fifth of the different texts of each label."""
    out = fifth_of_each(train.texts, train.labels, seed)
    if not out:
        raise InputError(
            f"{train.name} has too few different texts ({len(set(train.texts))}) to hold some out: "
            "give a file to test on, --test-data or test_data="
        )
    return out


def _warn_of_cut(split: str, rows: Sequence[Row], texts: int, length: int) -> None:
    cut = [row for row in rows if row.left_out]
    if cut:
        lost = sum(row.left_out for row in cut)
        share = lost / sum(row.left_out + len(row.ids) for row in cut)
        warnings.warn(
            f"{len(cut):,} of {texts:,} {split} texts are longer than the {length} tokens that are "
            f"read: {share:.1%} of them is left out, {lost:,} tokens",
            stacklevel=3,
        )
