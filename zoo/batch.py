"""Batch inference: a model over a file of any length, a line of JSON for each answer.

A window of lines is held at a time, so memory does not grow with the file. Within a window texts
are sorted by length, so that little is padded; windows, and what a model is given at once, are the
same whenever a run is interrupted, so that one which went on gives the same answers.
"""

import json
import os
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.conversation import messages_of
from zoo.data import PICTURED
from zoo.errors import InputError, ZooError
from zoo.folder import sha256

if TYPE_CHECKING:
    from zoo.model import Model

WINDOW = 1024  # lines that are held at once
ROWS = 32  # texts that a model is given at once
ANSWER, ERROR = "result", "error"  # keys of what is written
LINES, ABOUT, LOCK = "lines.jsonl", "about.json", "lock"  # files of OUT.partial
BEGUN = "begun-{}.jsonl"  # likewise: answers in the window after so many lines, as they come
SHOWN = 80  # characters of a line that could not be read


@dataclass(frozen=True)
class Done:
    """What a run did.

    Attributes:
        lines: how many answers there are, those of an interrupted run too.
        failed: how many of them are errors.
        first: the first of them.
    """

    lines: int
    failed: int
    first: str = ""


def run_file(
    model: "Model",
    source: str | Path,
    out: str | Path,
    *,
    column: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    **options: Any,
) -> Done:
    """Call a model with each line of a file.

    While it runs, all of it is in `OUT.partial`; the finished file appears at `out` in one move.

    Args:
        model: of any pipeline.
        source: lines of JSON, in UTF-8: a table with a text, or a text alone. Empty lines are none.
        out: where the answers go, in the order of the lines: each table with what the model says
            as `result`, or with an `error`.
        column: the key of the text; "text" unless given, or "picture", a file, whose path is taken
            from the folder of `source` on.
        resume: go on where an earlier run stopped.
        overwrite: replace what is there.
        **options: of the model's pipeline.

    Raises:
        InputError: there is no such file, or nothing in it, or none of its first lines is
            answered; something is at `out`, or another process is writing it; there is nothing
            to go on with, or it was of another model, engine, file or options.
    """
    source, out = Path(source), Path(out)
    column = column or ("picture" if model.pipeline in PICTURED else "text")
    if not source.is_file():
        raise InputError(f"There is no file {source}: give one with a line of JSON for each text")
    total = sum(1 for _ in _lines(source))
    if not total:
        raise InputError(
            f"{source} is empty: each line must be JSON, such as {{{column!r}: '...'}}"
        )
    about = _about(model, source, column, options)
    partial = _begin(out, about, resume=resume, overwrite=overwrite)
    with _alone(partial):
        if not resume:
            _clear(partial, about)
        found, caught = _run(model, source, total, partial, column, options)
        answered = found.failed < found.lines
        if answered:
            os.replace(partial / LINES, out)
    shutil.rmtree(partial)
    if not answered:
        raise InputError(f"None of the first {found.lines} lines was answered; {found.first}")
    if caught:
        more = f" (and {len(caught) - 1} more such)" if len(caught) > 1 else ""
        warnings.warn(f"{caught[0].message}{more}", stacklevel=2)
    return found


def _run(
    model: "Model", source: Path, total: int, partial: Path, column: str, options: dict[str, Any]
) -> tuple[Done, list[warnings.WarningMessage]]:
    """Answer the lines that are left, unless none is answered at first; what came, and warnings."""
    from zoo.training.progress import Progress

    done, failed, first = _done(partial / LINES)
    answers = _kept(partial / BEGUN.format(done))
    began, before = time.monotonic(), done + len(answers)
    with (
        Progress(f"{model.name}: {source.name}", total) as bar,
        (partial / LINES).open("ab") as file,
        warnings.catch_warnings(record=True) as caught,
    ):

        def tell(lines: int) -> None:
            rate = (lines - before) / (time.monotonic() - began)
            bar.update(lines, per_second=rate, minutes_left=(total - lines) / rate / 60)

        warnings.simplefilter("always")
        rest = islice(_lines(source), done, None)
        while window := list(islice(rest, WINDOW)):
            begun = partial / BEGUN.format(done)
            rows = [_read(line, column) for _, line in window]
            texts = [row for row in rows if ERROR not in row]
            for _ in _answer(model, texts, source.parent, column, options, answers, begun):
                tell(done + len(answers))
            answers = []
            for (number, _), row in zip(window, rows, strict=True):
                if ERROR in row:
                    row[ERROR] = f"line {number}: {row[ERROR]}"
            errors = [row[ERROR] for row in rows if ERROR in row]
            file.write(b"".join(_dumped(row) for row in rows))
            file.flush()
            os.fsync(file.fileno())
            begun.unlink()
            done, failed = done + len(rows), failed + len(errors)
            first = first or next(iter(errors), "")
            tell(done)
            if failed == done:
                break
    return Done(done, failed, first), caught


def _lines(source: Path) -> Iterator[tuple[int, bytes]]:
    """Each line that is not empty, with its number from 1 on."""
    with source.open("rb") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield number, line


def _dumped(row: dict[str, Any]) -> bytes:
    return json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _about(model: "Model", source: Path, column: str, options: dict[str, Any]) -> dict[str, Any]:
    """All that answers depend on, as JSON has it."""
    from zoo.nn.quantized import kind_of

    files = {} if model.card is None else model.card.files
    engine = getattr(model.module, "format", None)  # that it reads, where an engine computes
    dtype = str(next(model.module.parameters()).dtype).removeprefix("torch.")
    facts = {
        "model": model.name,
        "weights": {name: record.sha256 for name, record in sorted(files.items())},
        "engine": engine or f"PyTorch, {kind_of(model.module) or dtype}",
        "file": {"name": source.name, "sha256": sha256(source)},
        "column": column,
        "options": options,
    }
    result: dict[str, Any] = json.loads(json.dumps(facts, default=str))
    return result


def _begin(out: Path, about: dict[str, Any], *, resume: bool, overwrite: bool) -> Path:
    """The folder of a run: a new one, or that of an earlier run, to go on with or to clear."""
    if out.exists() and not overwrite:
        raise InputError(f"{out} is there: take another name, or overwrite it")
    if out.is_dir() or not out.parent.is_dir():
        raise InputError(f"{out} cannot be written: it must be a file in a folder that exists")
    partial = out.with_name(f"{out.name}.partial")
    if resume:
        try:
            earlier = json.loads((partial / ABOUT).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InputError(f"{partial} holds nothing to go on with: begin anew") from error
        other = [key for key in about if earlier.get(key) != about[key]]
        if other:
            raise InputError(
                f"{partial} was made with another {other[0]}: {earlier.get(other[0])!r}, now "
                f"{about[other[0]]!r}; go on as it was, or begin anew"
            )
        return partial
    if partial.exists() and not overwrite:
        raise InputError(f"{partial} is there, of a run that did not end: resume it, or overwrite")
    partial.mkdir(exist_ok=True)
    return partial


@contextmanager
def _alone(partial: Path) -> Iterator[None]:
    """While this process works in the folder, no other does."""
    from filelock import FileLock, Timeout

    try:
        with FileLock(partial / LOCK, blocking=False):
            yield
    except Timeout as error:
        raise InputError(f"Another process writes {partial}: wait for its end") from error


def _clear(partial: Path, about: dict[str, Any]) -> None:
    """Make the folder that of a new run."""
    for path in partial.glob("*.jsonl"):
        path.unlink()
    (partial / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")


def _done(path: Path) -> tuple[int, int, str]:
    """How many answers there are in whole windows, how many errors, the first; the rest is cut."""
    if not path.exists():
        return 0, 0, ""
    count, failed, first, end = 0, 0, "", 0
    with path.open("rb+") as file:
        waiting = 0, 0, ""  # bytes, errors and the first of the window that is read
        for line in file:
            if not line.endswith(b"\n"):
                break
            error = json.loads(line).get(ERROR)
            size, errors, earliest = waiting
            count += 1
            waiting = size + len(line), errors + (error is not None), earliest or error or ""
            if count % WINDOW == 0:
                end, failed = end + waiting[0], failed + waiting[1]
                first, waiting = first or waiting[2], (0, 0, "")
        file.truncate(end)
    return count - count % WINDOW, failed, first


def _kept(begun: Path) -> list[dict[str, Any]]:
    """What was answered at once in a window that did not end; the rest of the file is cut."""
    lines = begun.read_bytes().splitlines(keepends=True) if begun.exists() else []
    whole = sum(line.endswith(b"\n") for line in lines) // ROWS * ROWS
    if lines:
        begun.write_bytes(b"".join(lines[:whole]))
    return [json.loads(line) for line in lines[:whole]]


def _answer(
    model: "Model",
    texts: list[dict[str, Any]],
    folder: Path,
    column: str,
    options: dict[str, Any],
    answers: list[dict[str, Any]],
    begun: Path,
) -> Iterator[None]:
    """Answer the texts of a window, the longest first, a step for what a model is given at once.

    Args:
        model: answers.
        texts: tables with a text, which get what comes of it.
        folder: where pictures are looked for.
        column: the key of the text.
        options: of the model.
        answers: those that there are already; gets the others.
        begun: a file, which gets them too.
    """
    given = [row[column] for row in texts]
    if model.pipeline in PICTURED:
        given = [str(folder / one) for one in given]
    order = sorted(range(len(texts)), key=lambda n: -len(given[n]))
    with begun.open("ab") as file:
        for start in range(len(answers), len(order), ROWS):
            batch = _called(model, [given[n] for n in order[start : start + ROWS]], options)
            file.write(b"".join(_dumped(answer) for answer in batch))
            file.flush()
            answers += batch
            yield
    for n, answer in zip(order, answers, strict=True):
        texts[n] |= answer


def _read(line: bytes, column: str) -> dict[str, Any]:
    """A line as a table with a text, or with an error."""
    shown = line.decode("utf-8", "replace").strip()
    shown = shown if len(shown) <= SHOWN else f"{shown[:SHOWN]}…"
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return {"raw": shown, ERROR: f"not UTF-8 at byte {error.start + 1}: {shown}"}
    except (ValueError, RecursionError) as error:
        return {"raw": shown, ERROR: f"not valid JSON: {error}: {shown}"}
    if isinstance(row, str):
        row = {column: row}
    if not isinstance(row, dict):
        kind = type(row).__name__
        return {"raw": shown, ERROR: f"neither a table nor a text, but {kind}: {shown}"}
    if column not in row:
        return {**row, ERROR: f"no {column!r}; its keys are {', '.join(map(repr, row)) or 'none'}"}
    if not isinstance(row[column], str):
        return {**row, ERROR: f"{column!r} must be a text, got {type(row[column]).__name__}"}
    for key in (ANSWER, ERROR):
        if key in row:
            return {"raw": shown, ERROR: f"it has the key {key!r} already: rename it"}
    return row


def _called(model: "Model", given: list[str], options: dict[str, Any]) -> list[dict[str, Any]]:
    """The answer to each text; with a draft, or where one of them is refused, one by one."""
    asks = model.pipeline == "text-generation" and model.template is not None
    prompts: list[Any] = [messages_of(text) for text in given] if asks else given
    try:
        if "draft" not in options:
            return [{ANSWER: _plain(answer)} for answer in model(prompts, **options)]
        if len(given) == 1:  # a draft helps with one text
            return [{ANSWER: model(prompts[0], **options)}]
    except ZooError as error:
        if len(given) == 1:
            return [{ERROR: str(error)}]
    return [answer for one in given for answer in _called(model, [one], options)]


def _plain(answer: Any) -> Any:
    """A vector as a list."""
    return answer.tolist() if hasattr(answer, "tolist") else answer
