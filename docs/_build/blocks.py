"""Code blocks of Markdown pages: found, run, and shown with what they print and draw."""

import contextlib
import io
import re
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

FENCE = re.compile(
    r"^(?:<!-- file: (?P<file>\S+) -->\n)?```(?P<language>\w+)(?P<figure> figure)?\n"
    r"(?P<code>.*?)^```$\n?",
    re.M | re.S,
)
FIGURE = Path("figure.svg")  # where a block marked `figure` draws


class Result(NamedTuple):
    """What a block left behind.

    Attributes:
        output: what it printed.
        figure: the `<svg>` element it drew, or nothing.
    """

    output: str
    figure: str


def blocks(text: str, language: str) -> Iterator[re.Match[str]]:
    """The fenced blocks of a language, with the groups `file`, `figure` and `code`."""
    return (block for block in FENCE.finditer(text) if block["language"] == language)


def script(text: str) -> list[re.Match[str]]:
    """The Python blocks of a page that are run; those that are files of a project are not."""
    return [block for block in blocks(text, "python") if not block["file"]]


@cache
def run_page(text: str) -> list[Result]:
    """Run the Python blocks of a page one after another, as one program in an empty folder.

    Raises:
        Exception: whatever a block raises, with the block as its note.
    """
    names: dict[str, Any] = {"__name__": "__page__"}
    results = []
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for number, block in enumerate(script(text), start=1):
            printed = io.StringIO()
            try:
                with contextlib.redirect_stdout(printed):
                    exec(compile(block["code"], f"block {number}", "exec"), names)
                figure = FIGURE.read_text(encoding="utf-8") if block["figure"] else ""
            except Exception as error:
                error.add_note(f"in Python block {number} of the page:\n{block['code']}")
                raise
            results.append(Result(printed.getvalue(), figure))
    return results
