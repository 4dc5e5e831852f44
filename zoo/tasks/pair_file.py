"""A user's own sentence pairs as a task: a table of two columns, or two text files side by side."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from zoo.errors import InputError
from zoo.hookspecs import Task
from zoo.numbers import plural
from zoo.tasks.files import (
    FORMATS,
    drawn,
    find_file,
    in_two,
    read_lines,
    read_rows,
    rows_have,
    some,
    texts_of,
    warn_of_shared,
)
from zoo.tasks.translation import Translation

EXAMPLE = {"source": "A dog.", "target": "Ein Hund."}
COLUMNS = (("source", "target"), ("src", "tgt"), ("input", "output"), ("sentence", "translation"))
LANGUAGE = re.compile(r"[a-z]{2}([-_][A-Za-z]+)?")  # en, de, pt-BR
PART, MOST = 10, 1000  # one source of so many is held out, and at most so many


@dataclass(frozen=True)
class Pairs:
    """Sentence pairs, as read from one place.

    Attributes:
        path: of the table, or of the file of the sources, as it was given.
        target_path: of the file of the targets; empty for a table.
        name: of the file, or of both.
        sha256: of the file, or of both, one after the other.
        source_column: of a table; empty for two files.
        target_column: likewise.
        sources: the texts to be translated.
        targets: the translation of each.
    """

    path: str
    target_path: str
    name: str
    sha256: str
    source_column: str
    target_column: str
    sources: list[str]
    targets: list[str]


class PairFile(Translation):
    """Sentence pairs of a user.

    Of `train` alone a tenth of the different sources, at most 1,000, is held out as "test". Which
    ones depends on the seed and the sources, not on their order; a source that stands there twice
    is on one side.

    Args:
        train: what is learned from; None to measure only.
        test: what is measured on; None for the tenth.
        seed: of the drawing.

    Raises:
        InputError: too few different sources to hold one out.

    Warns:
        UserWarning: sources of `test` stand in `train` too.
    """

    def __init__(self, train: Pairs | None, test: Pairs | None = None, *, seed: int = 1) -> None:
        self.train, self.test, self.seed = train, test, seed
        self.parts: dict[str, tuple[list[str], list[str]]] = {}
        if train is not None:
            self.parts["train"] = train.sources, train.targets
        if test is not None:
            self.parts["test"] = test.sources, test.targets
        if train is not None and test is not None:
            warn_of_shared(train.sources, test.sources, name=test.name, source=train.name)
        elif train is not None:
            self.parts = in_two(train.sources, train.targets, _held_out(train, seed))
        self.splits = tuple(self.parts)

    def pairs(self, split: str) -> tuple[list[str], list[str]]:
        """The sources of a split and their translations."""
        return self.parts[split]

    def facts(self) -> dict[str, Any]:
        """What a card says of the data, enough to read them again."""
        assert self.train is not None  # cards are of what was trained
        train, test = self.train, self.test
        found: dict[str, Any] = {
            "name": train.name,
            "path": train.path,
            "sha256": train.sha256,
            "pairs": len(train.sources),
        }
        keys = ("target_path", "source_column", "target_column")
        found |= {key: getattr(train, key) for key in keys if getattr(train, key)}
        if test is None:
            return {**found, "held_out": len(self.parts["test"][0]), "seed": self.seed}
        found |= {
            "test_name": test.name,
            "test_path": test.path,
            "test_sha256": test.sha256,
            "test_pairs": len(test.sources),
        }
        return found | ({"test_target_path": test.target_path} if test.target_path else {})


def open_pairs(data: Mapping[str, Any], seed: int, *, near: Path | None = None) -> PairFile:
    """The task that a recipe's [data] describes.

    Args:
        data: `path`, perhaps `target_path` or `source_column` and `target_column`, and perhaps
            `test_path` and `test_target_path`.
        seed: of the recipe.
        near: a folder where the files are looked for too.

    Raises:
        DataNotFoundError: a file is not there.
        InputError: something is wrong in a file; says where.
    """
    keys = ("target_path", "source_column", "target_column")
    train = read_pairs(data["path"], **{key: data.get(key, "") for key in keys}, near=near)
    test = None
    if data.get("test_path"):
        target_path = data.get("test_target_path", "")
        columns = {} if target_path else {key: getattr(train, key) for key in keys[1:]}
        test = read_pairs(data["test_path"], target_path, **columns, near=near)
    return PairFile(train, test, seed=seed)


def entry_of(task: PairFile, license: str = "unknown", *, pipeline: str = "translation") -> Task:
    """What a plugin would say of the task."""
    pairs = task.train or task.test
    assert pairs is not None  # a task has one of them
    return Task(
        pairs.name,
        pipeline=pipeline,
        target=f"{__name__}:PairFile",
        metrics=("bleu", "bleu_lowercased", "chrf", "perplexity_per_token"),
        license=license,
    )


def read_pairs(
    path: str,
    target_path: str = "",
    *,
    source_column: str = "",
    target_column: str = "",
    near: Path | None = None,
    usual: Sequence[str] = (),
) -> Pairs:
    """Read sentence pairs.

    Args:
        path: a table whose first row names its columns, .csv, .tsv or .jsonl; or a text file with a
            source in each line. Each perhaps with .gz.
        target_path: a text file with the translation of each of those lines.
        source_column: of a table; may be left out where only one column can be meant: with names
            such as source and target, or with two columns named by languages, from the first one
            into the second.
        target_column: likewise.
        near: a folder where the files are looked for too.
        usual: names that a column left out has, where the table has them.

    Raises:
        DataNotFoundError: a file is not there.
        InputError: something is wrong in a file; says what and in which rows or lines.
    """
    if path.startswith("hf://"):
        raise InputError(f"{path}: sentence pairs are read from files, not from the Hub")
    if target_path:
        if source_column or target_column:
            raise InputError(f"{path} and {target_path} are two files, which have no columns")
        return _two_files(path, target_path, near)
    file = find_file(path, near)
    if not any(suffix.lower() in FORMATS for suffix in file.suffixes[-2:]):
        raise InputError(
            f"{file}: sentence pairs come as a table, {', '.join(FORMATS)}, each perhaps with .gz, "
            "or as two text files: then give the one of the translations too, a second --data or "
            "target_path="
        )
    raw = file.read_bytes()
    columns, rows = read_rows(file, raw, what="sentence pairs", example=EXAMPLE)
    name = file.name
    if not rows:
        raise InputError(f"{name} has no pairs: it has a line of column names only")
    numbers = [number for number, _ in rows]
    first = min(2, numbers[0])  # below the column names, where there are some
    if empty := sorted(set(range(first, numbers[-1])) - set(numbers)):
        raise InputError(f"{name}: {rows_have(empty)} no text at all")
    unsaid = [column if column in columns else "" for column in usual or ("", "")]
    source_column, target_column = _columns(
        name, columns, source_column or unsaid[0], target_column or unsaid[1]
    )
    return Pairs(
        path,
        "",
        name,
        hashlib.sha256(raw).hexdigest(),
        source_column,
        target_column,
        texts_of(name, source_column, rows),
        texts_of(name, target_column, rows),
    )


def _two_files(path: str, target_path: str, near: Path | None) -> Pairs:
    files = [find_file(one, near) for one in (path, target_path)]
    raws = [file.read_bytes() for file in files]
    sides = [read_lines(file, raw) for file, raw in zip(files, raws, strict=True)]
    names = [file.name for file in files]
    both = " and ".join(names)
    if names[0] == names[1]:
        names = [path, target_path]
    counts = [len(side) for side in sides]
    if counts[0] != counts[1]:
        number, line = next(
            (number, line)
            for number, line in enumerate(zip_longest(*sides), start=1)
            if bool(line[0]) != bool(line[1])
        )
        lacks = 0 if line[1] else 1
        how = "is missing" if line[lacks] is None else "is empty"
        raise InputError(
            f"{names[0]} has {plural(counts[0], 'line')} and {names[1]} {counts[1]}: line {number} "
            f"of {names[lacks]} {how}, in {names[1 - lacks]} it reads {line[1 - lacks]!r:.60}"
        )
    for name, side in zip(names, sides, strict=True):
        if empty := [str(number) for number, line in enumerate(side, start=1) if not line]:
            which = f"line {empty[0]} is" if len(empty) == 1 else f"lines {some(empty)} are"
            raise InputError(f"{name}: {which} empty: delete them in {' and '.join(names)}")
    digest = hashlib.sha256(b"".join(raws)).hexdigest()
    return Pairs(path, target_path, both, digest, "", "", *sides)


def _columns(name: str, columns: list[str], source: str, target: str) -> tuple[str, str]:
    """Which columns hold the sources and the targets.

    Raises:
        InputError: there is no such column, or it is not plain which one is meant.
    """
    lower = [column.strip().lower() for column in columns]
    found = [source, target]
    known = [pair for pair in COLUMNS if set(pair) <= set(lower)]
    usual = ["", ""]
    if len(known) == 1:
        usual = [columns[lower.index(word)] for word in known[0]]
    elif len(columns) == 2 and all(LANGUAGE.fullmatch(column) for column in columns):
        usual = list(columns)
    there = f"{name} has the columns {some([repr(column) for column in columns])}"
    for one, what in ((0, "source"), (1, "target")):
        other = found[1 - one]
        if not found[one] and len(columns) == 2 and other in columns:
            found[one] = next((column for column in columns if column != other), "")
        found[one] = found[one] or usual[one]
        if not found[one]:
            raise InputError(
                f"{there}: say which one holds the {what}s, with --{what}-column or "
                f"{what}_column=; where these are no names of columns, put a first row with such, "
                "source and target"
            )
        if columns.count(found[one]) != 1:
            how = "none" if found[one] not in columns else "more than one"
            raise InputError(f"{there}, {how} called {found[one]!r} for the {what}s")
    if found[0] == found[1]:
        raise InputError(f"{name}: sources and targets cannot both be in column {found[0]!r}")
    return found[0], found[1]


def _held_out(train: Pairs, seed: int) -> set[str]:
    """A tenth of the different sources, one at least."""
    sources = set(train.sources)
    if len(sources) < 2:
        raise InputError(
            f"{train.name} has too few different sources ({len(sources)}) to hold some out: give "
            "pairs to test on, --test-data or test_data="
        )
    count = min(MOST, max(1, round(len(sources) / PART)))
    return set(drawn(sources, seed, count))
