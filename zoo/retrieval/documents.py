"""Documents of a folder, and the passages they are cut into.

A document's text keeps the line breaks of its file, those of HTML too, so that a place in the text
gives the line in the file.
"""

import hashlib
import html
import os
import re
import stat
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.errors import InputError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PLAIN = ("", ".txt", ".text", ".md", ".markdown", ".rst")  # a README may end in nothing
MARKED_UP = (".html", ".htm", ".xhtml")
LARGEST = 10_000_000  # bytes; above it stands a log or a data set, not something that one reads
MARKUP = re.compile(  # comments; what is not shown as text; tags, whose name is the second group
    r"<!--.*?(?:-->|\Z)"
    r"|<(script|style|template|svg)\b[^<>]*+>.*?(?:</\1\s*>|\Z)"
    r"|</?([a-z][\w:-]*)(?:[^<>\"']++|\"[^\"<]*+\"|'[^'<]*+')*+>"
    r"|<[!?][^<>]*+>",
    re.IGNORECASE | re.DOTALL,
)
INLINE = {"a", "abbr", "b", "code", "em", "i", "kbd", "mark", "q", "s", "small", "span", "strong"}
INLINE |= {"sub", "sup", "u", "wbr", "font", "tt", "var", "samp", "cite", "dfn", "time", "label"}
BREAK = "\u2029"  # a paragraph ends, on the same line of the file
HEADING = re.compile(r"#{1,6}\s|=[^\n]{1,200}=[^\S\n]*$", re.MULTILINE)  # Markdown's, a wiki's
FENCED = re.compile(r"^(```|~~~).*?^\1", re.MULTILINE | re.DOTALL)  # code: its # is no heading
# what a unit ends with: an empty line, the line before a heading or an entry of a list, a sentence
END = re.compile(
    rf"{BREAK}+\s*|\n[^\S\n]*\n\s*|\n(?=#{{1,6}}\s|[-*+]\s|\d+[.)]\s)"
    r"|(?<=\w[.!?])[\"')\]]*\s+(?=[\"'(\[]?[A-Z0-9])|(?<=\s[.!?])\s+"
)


@dataclass(frozen=True)
class Document:
    """A text that was read.

    Attributes:
        path: its file, from the folder on, with `/` between the parts.
        text: what stands in it, without the tags of HTML.
        sha256: of the file.
    """

    path: str
    text: str
    sha256: str


@dataclass(frozen=True)
class Skipped:
    """A file or folder that was left out, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Passage:
    """A piece of a document.

    Attributes:
        path: its document's.
        first: its first line, counted from 1.
        last: its last line.
        text: the piece, with one space in place of each gap.
    """

    path: str
    first: int
    last: int
    text: str

    @property
    def place(self) -> str:
        """File and lines: `"guide.md:12-20"`."""
        lines = f"{self.first}" if self.first == self.last else f"{self.first}-{self.last}"
        return f"{self.path}:{lines}"


def read_folder(folder: str | Path) -> tuple[list[Document], list[Skipped]]:
    """Read the texts, Markdown and HTML of a folder and the folders in it, in order of their names.

    Left out and listed are files of other kinds, binary, empty, unreadable or larger than
    `LARGEST`, those that are not UTF-8, all links (what lies in the folder is found without them,
    what lies outside is none of its documents), and what is hidden.

    Raises:
        InputError: it is no folder, or nothing in it can be read.
    """
    root = Path(folder)
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "does not exist"
        raise InputError(f"{root} {what}: give the folder that the documents are in")
    documents, skipped = _read_all(_walk(root))
    if not documents:
        raise InputError(f"{root} holds no text, Markdown or HTML; {summary(skipped)}")
    return documents, skipped


def read_files(files: Mapping[str, str | Path]) -> tuple[list[Document], list[Skipped]]:
    """Read some files, as `read_folder` reads those of a folder, hidden ones and links too.

    Args:
        files: the name that each document is to have, and where its file is.

    Raises:
        InputError: none of them can be read.
    """
    documents, skipped = _read_all((Path(path), name, "") for name, path in files.items())
    if not documents:
        raise InputError(f"There is no text, Markdown or HTML; {summary(skipped)}")
    return documents, skipped


def _read_all(files: Iterable[tuple[Path, str, str]]) -> tuple[list[Document], list[Skipped]]:
    """The documents among files with their names and, where one is not to be read, why."""
    documents, skipped = [], []
    for path, name, problem in files:
        try:
            if problem:
                raise InputError(problem)
            documents.append(_read(path, name))
        except InputError as error:
            skipped.append(Skipped(name, str(error)))
        except OSError as error:
            skipped.append(Skipped(name, f"cannot be read: {error.strerror}"))
    return documents, skipped


def summary(skipped: Sequence[Skipped], named: int = 5) -> str:
    """How much was left out, and the first of it by name."""
    if not skipped:
        return "nothing was left out"
    shown = ", ".join(f"{item.path} ({item.reason})" for item in skipped[:named])
    more = f" and {len(skipped) - named} more" if len(skipped) > named else ""
    return f"left out: {len(skipped)}: {shown}{more}"


def _walk(root: Path) -> Iterator[tuple[Path, str, str]]:
    """Each file with its name from the root on and, where it is not to be read, why."""
    denied: list[OSError] = []
    for place, folders, files in os.walk(root, onerror=denied.append):
        here = Path(place)
        for name in sorted([*folders, *files]):
            path = here / name
            shown = path.relative_to(root).as_posix()
            if path.is_symlink():
                inside = path.resolve().is_relative_to(root.resolve())
                yield path, shown, "a link" if inside else "a link out of the folder"
            elif name.startswith("."):
                yield path, shown, "hidden"
            elif name in files:
                yield path, shown, ""
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and not (here / name).is_symlink()
        )
    for error in denied:
        path = Path(error.filename)
        yield path, path.relative_to(root).as_posix(), f"cannot be read: {error.strerror}"


def _read(path: Path, name: str) -> Document:
    """A document.

    Raises:
        InputError: it is none that is read; says why.
        OSError: it cannot be read.
    """
    facts = path.stat()
    kind = path.suffix.lower()
    if not stat.S_ISREG(facts.st_mode):
        raise InputError("not a file")  # a pipe would wait for ever
    if kind not in (*PLAIN, *MARKED_UP):
        raise InputError(f"{kind} is not text, Markdown or HTML")
    if facts.st_size > LARGEST:
        raise InputError(f"{facts.st_size / 1e6:,.1f} MB, more than {LARGEST / 1e6:.0f}")
    raw = path.read_bytes()
    if b"\0" in raw:
        raise InputError("binary")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 at byte {error.start + 1}") from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if kind in MARKED_UP:
        text = without_tags(text)
    if not any(sign.isalnum() for sign in text):
        raise InputError("empty")
    return Document(name, text, hashlib.sha256(raw).hexdigest())


def without_tags(text: str) -> str:
    """What a browser shows of HTML, each word on the line where it stands in the file.

    Not by `html.parser`: of what is no HTML, such as thousands of `<a`, its time grows with the
    square of the length.
    """

    def blank(found: re.Match[str]) -> str:
        end = "" if (found[2] or "").lower() in INLINE else BREAK
        return end + "\n" * found[0].count("\n")

    lines = MARKUP.sub(blank, text).split("\n")
    return "\n".join(html.unescape(line).replace("\n", " ") for line in lines)


def cut(document: Document, tokenizer: "Tokenizer", length: int) -> list[Passage]:
    """Cut a document into passages of whole sentences, at most `length` tokens each.

    A heading begins a passage. Where one ends because it is full, the next repeats its last
    sentences, up to a quarter of `length`. A sentence of more tokens is cut between words.

    Args:
        document: what is cut.
        tokenizer: counts; it must neither pad nor cut itself.
        length: tokens at most, without those that mark a text's ends.
    """
    text = document.text
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets
    starts = [start for start, end in offsets if end > start]  # of tokens, rising
    lines = [place for place, sign in enumerate(text) if sign == "\n"]  # their ends

    def tokens(start: int, end: int) -> int:
        return bisect_left(starts, end) - bisect_left(starts, start)

    outside = FENCED.sub(lambda code: code[0].replace("#", " "), text)

    def heading(place: int) -> bool:
        return HEADING.match(outside, place) is not None

    units = [part for unit in _units(text) for part in _parts(text, *unit, starts, length)]
    found, begin = [], 0  # the passage's first unit
    for after in range(1, len(units) + 1):
        start, end = units[begin][0], units[after - 1][1]
        full = after == len(units) or tokens(start, units[after][1]) > length
        if not full:
            if not heading(units[after][0]):
                continue
            if all(heading(a) and "\n" not in text[a:b] for a, b in units[begin:after]):
                continue  # titles alone so far
        if any(sign.isalnum() for sign in text[start:end]):
            first, last = bisect_left(lines, start) + 1, bisect_left(lines, end) + 1
            words = " ".join(text[start:end].split())
            found.append(Passage(document.path, first, last, words))
        earlier, begin = begin, after
        if after < len(units) and full:
            while (
                begin - 1 > earlier
                and tokens(units[begin - 1][0], end) <= length // 4
                and tokens(units[begin - 1][0], units[after][1]) <= length
            ):
                begin -= 1
    return found


def _units(text: str) -> Iterator[tuple[int, int]]:
    """Where sentences, headings and entries of lists start and end, without blanks around them."""
    start = 0
    for end, resume in [*(match.span() for match in END.finditer(text)), (len(text), len(text))]:
        end += len(text[end:resume]) - len(text[end:resume].lstrip("\"')]"))  # closing quotes
        unit = text[start:end]
        if unit.strip():
            before = len(unit) - len(unit.lstrip())
            yield start + before, start + len(unit.rstrip())
        start = resume


def _parts(
    text: str, start: int, end: int, starts: Sequence[int], length: int
) -> Iterator[tuple[int, int]]:
    """A unit, or what it is cut into when it has more than `length` tokens."""
    while (first := bisect_left(starts, start)) + length < bisect_left(starts, end):
        limit = place = max(starts[first + length], start + 1)
        while place > start and not text[place - 1].isspace():
            place -= 1
        place = place if place > start else limit  # one endless word
        yield start, place
        start = place
    yield start, end
