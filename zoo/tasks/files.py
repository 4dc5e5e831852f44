"""Files of a user's own data: rows of CSV, TSV or JSONL, lines of text, what is wrong in them."""

import csv
import gzip
import hashlib
import io
import json
import os
import warnings
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zoo.data import local_file
from zoo.errors import DataNotFoundError, InputError

FORMATS = (".csv", ".tsv", ".jsonl", ".ndjson")
NAMED = 8  # how many rows, labels or columns an error names
PART = 5  # one text of so many is held out
LONGEST_FIELD = 2**31 - 1  # what csv takes everywhere

Found = tuple[list[str], list[tuple[int, Mapping[str, Any]]]]  # columns; rows with their numbers


def find_file(path: str, near: Path | None = None) -> Path:
    """A file: as given, then by its name in the folder `near`, then in `TXZOO_DATA`.

    Raises:
        DataNotFoundError: it is in none of these places.
    """
    name = Path(path).name
    places = [Path(path), *([near / path, near / name] if near else [])]
    for place in (*places, local_file(path), local_file(name)):
        if place is not None and place.is_file():
            return place
    folder = os.environ.get("TXZOO_DATA") or "not set"
    raise DataNotFoundError(
        f"{path} was not found, from {Path.cwd()} on"
        f"{f', nor in {near}' if near else ''}, nor in TXZOO_DATA ({folder})"
    )


def find_folder(path: str, near: Path | None = None) -> Path:
    """A folder, looked for where `find_file` looks for files.

    Raises:
        DataNotFoundError: it is in none of these places, or a file.
    """
    root, name = os.environ.get("TXZOO_DATA"), Path(path).name
    roots = [place for place in (near, Path(root) if root else None) if place is not None]
    for place in (Path(path), *(root / one for root in roots for one in (path, name) if name)):
        if place.is_dir():
            return place
    if Path(path).is_file():
        raise DataNotFoundError(f"{path} is a file: pictures lie in a folder, FOLDER/label/1.png")
    raise DataNotFoundError(
        f"There is no folder {path}, from {Path.cwd()} on"
        f"{f', nor in {near}' if near else ''}, nor in TXZOO_DATA ({root or 'not set'})"
    )


def read_rows(file: Path, raw: bytes, *, what: str, example: Mapping[str, str]) -> Found:
    """The rows of a table.

    Args:
        file: its name says what it is.
        raw: its bytes.
        what: is in it, for the error where it is no table.
        example: a row as JSON has it, for the error where one is not.

    Raises:
        InputError: it is no table, or not as it should be; says where.
    """
    suffixes = [suffix.lower() for suffix in file.suffixes]
    raw = unpacked(file, raw)
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    kind = suffixes[-1] if suffixes else ""
    if kind not in FORMATS:
        raise InputError(
            f"{file}: {what} come as {', '.join(FORMATS)}, each perhaps with .gz; "
            f"this ends in {''.join(file.suffixes) or 'nothing'}"
        )
    text = decoded(file, raw)
    if kind in (".jsonl", ".ndjson"):
        return _read_jsonl(file.name, text, example)
    return _read_csv(file.name, text, tabs=kind == ".tsv")


def read_lines(file: Path, raw: bytes) -> list[str]:
    """The lines of a text file, without blanks at their ends and empty ones at its end.

    Raises:
        InputError: it is empty, not UTF-8, or ends in .gz and is not a whole gzip file.
    """
    text = decoded(file, unpacked(file, raw))
    return [line.strip() for line in text.rstrip().split("\n")]


def unpacked(file: Path, raw: bytes) -> bytes:
    """The bytes of a file, which is a gzip file where its name ends in .gz.

    Raises:
        InputError: it is not a whole gzip file.
    """
    if file.suffix.lower() != ".gz":
        return raw
    try:
        return gzip.decompress(raw)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{file} ends in .gz and is not a whole gzip file: {error}") from error


def decoded(file: Path, raw: bytes) -> str:
    """The text of a file.

    Raises:
        InputError: it is not UTF-8, or empty.
    """
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise InputError(
            f"{file} is not UTF-8: byte {raw[error.start]:#04x} in line {line}. Save it as UTF-8"
        ) from error
    if not text.strip():
        raise InputError(f"{file} is empty")
    return text


def _read_jsonl(name: str, text: str, example: Mapping[str, str]) -> Found:
    rows: list[tuple[int, Mapping[str, Any]]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{name}, line {number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise InputError(
                f"{name}, line {number}: each line must be an object, such as "
                f"{json.dumps(example)}, got {line.strip():.60}"
            )
        rows.append((number, row))
    return list(dict.fromkeys(key for _, row in rows for key in row)), rows


def _read_csv(name: str, text: str, *, tabs: bool) -> Found:
    first = text.lstrip("\r\n").splitlines()[0]
    delimiter = "\t" if tabs else max(",;\t", key=first.count)
    try:
        lines = _cells(text, delimiter)
    except csv.Error as error:
        if not tabs:
            raise InputError(
                f"{name}: {error}. A text with commas, quotes or line breaks stands between quotes,"
                " each quote inside it doubled"
            ) from error
        lines = _cells(text, delimiter, quoting=csv.QUOTE_NONE)  # quotes are part of the texts
    if not lines:
        raise InputError(f"{name} has empty cells only")
    columns, rows = [column.strip() for column in lines[0][1]], lines[1:]
    ragged = [number for number, cells in rows if len(cells) != len(columns)]
    if ragged:
        counts = {number: len(cells) for number, cells in rows}
        raise InputError(
            f"{name} has {len(columns)} columns, and {rows_have(ragged)} another number of cells "
            f"({counts[ragged[0]]} in row {ragged[0]})"
        )
    return columns, [(number, dict(zip(columns, cells, strict=True))) for number, cells in rows]


def _cells(text: str, delimiter: str, **options: Any) -> list[tuple[int, list[str]]]:
    """The rows that are not blank, each with its number in a spreadsheet."""
    with _long_fields():
        reader = csv.reader(
            io.StringIO(text, newline=""), delimiter=delimiter, strict=True, **options
        )
        numbered = enumerate(reader, start=1)
        try:
            return [(number, cells) for number, cells in numbered if any(map(str.strip, cells))]
        except csv.Error as error:
            raise csv.Error(f"line {reader.line_num} does not parse, {error}") from error


@contextmanager
def _long_fields() -> Iterator[None]:
    """Let csv read texts of any length."""
    before = csv.field_size_limit(LONGEST_FIELD)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def texts_of(name: str, column: str, rows: Sequence[tuple[int, Mapping[str, Any]]]) -> list[str]:
    """The texts of a column.

    Args:
        name: of the file, for the errors.
        column: which one.
        rows: with their numbers.

    Raises:
        InputError: some rows have none, or one that is not valid Unicode; says which.
    """
    values = [(number, row.get(column)) for number, row in rows]
    empty = [n for n, value in values if not isinstance(value, str) or not value.strip()]
    if empty:
        raise InputError(f"{name}: {rows_have(empty)} no text in the column {column!r}")
    texts = [str(value) for _, value in values]
    broken = [n for (n, _), text in zip(values, texts, strict=True) if not is_unicode(text)]
    if broken:
        raise InputError(f"{name}: {rows_have(broken)} a text that is not valid Unicode")
    return texts


def is_unicode(text: str) -> bool:
    """Whether a text has whole characters only."""
    try:
        text.encode()
    except UnicodeEncodeError:  # half a character, which JSON can spell
        return False
    return True


def drawn(texts: Iterable[str], seed: int, count: int) -> list[str]:
    """So many of different texts; which ones depends on seed and texts, not on their order."""

    def place(text: str) -> bytes:
        return hashlib.sha256(f"{seed}\n{text}".encode()).digest()

    return sorted(texts, key=place)[:count]


def fifth_of_each(texts: Sequence[str], labels: Sequence[str], seed: int) -> set[str]:
    """A fifth of the different texts of each label, at least one where there are two.

    A text with two labels counts for the first of them.
    """
    label_of = dict(zip(reversed(texts), reversed(labels), strict=True))
    groups: dict[str, list[str]] = {}
    for text, label in label_of.items():
        groups.setdefault(label, []).append(text)

    out: set[str] = set()
    for group in groups.values():
        count = max(1, round(len(group) / PART)) if len(group) > 1 else 0
        out.update(drawn(group, seed, count))
    return out


def in_two(
    texts: Sequence[str], others: Sequence[str], out: Collection[str]
) -> dict[str, tuple[list[str], list[str]]]:
    """Rows of two texts in two splits.

    Args:
        texts: of each row the one that decides.
        others: of each row the other one.
        out: what is held out: rows with these are "test", the others "train".
    """
    rows = list(zip(texts, others, strict=True))
    kept = {
        "train": [row for row in rows if row[0] not in out],
        "test": [row for row in rows if row[0] in out],
    }
    return {split: ([a for a, _ in part], [b for _, b in part]) for split, part in kept.items()}


def warn_of_shared(
    learned: Iterable[str], texts: Sequence[str], *, name: str, source: str, what: str = "texts"
) -> None:
    """Warn of texts that are to be measured on and were learned from.

    Args:
        learned: the texts that were learned from.
        texts: what is measured on.
        name: where those come from, for the warning.
        source: where `learned` comes from.
        what: they are called.
    """
    known = set(learned)
    shared = sum(text in known for text in texts)
    if shared:
        warnings.warn(
            f"{shared:,} of the {len(texts):,} {what} of {name} stand in {source} "
            f"too, among those learned from: scores on them say nothing of new {what}",
            stacklevel=3,
        )


def rows_have(numbers: Sequence[int]) -> str:
    """`rows 3 and 7 have`, the first ones named."""
    if len(numbers) == 1:
        return f"row {numbers[0]} has"
    return f"rows {some([str(number) for number in numbers])} have"


def some(names: Sequence[str]) -> str:
    """The first of some names, and how many more there are."""
    more = len(names) - NAMED
    shown = [name if len(name) <= 40 else f"{name[:37]}..." for name in names[:NAMED]]
    return ", ".join(shown) + (f" and {more:,} more" if more > 0 else "")
