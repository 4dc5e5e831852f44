"""The Try tab of each pipeline, one file each.

A view is a function that a plugin names in `txzoo_gallery_views`. It is called with the gallery and
the model's card, inside the tab, and makes Gradio components there:

- its main endpoint is called `endpoint(card, "run")` and takes the example of the card first;
- whatever computes waits in the one queue: `concurrency_id=COMPUTE`;
- what grows while it is written leaves through `paced`;
- models come from `gallery.models.get(reference(card))`, inside the functions that need them;
- errors that a visitor can do something about leave through `telling`.
"""

import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from html import escape
from typing import TypeVar

import gradio as gr

from zoo import Card
from zoo.errors import InputError, ZooError
from zoo_gallery.state import Gallery

View = Callable[[Gallery, Card], None]
T = TypeVar("T")
BETWEEN = 0.04  # seconds between two sights of what grows: an eye needs no more


@contextmanager
def telling() -> Iterator[None]:
    """Show errors of txzoo on the page as they are; others stay in the log of the server."""
    try:
        yield
    except ZooError as error:
        # the page renders messages as HTML
        text = escape(str(error), quote=False)
        raise gr.Error(text, print_exception=False) from error


@contextmanager
def warned() -> Iterator[None]:
    """Show on the page what a model warns of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        if warning.category is UserWarning:  # others are of other threads and libraries
            gr.Warning(escape(str(warning.message), quote=False))


def paced(sights: Iterable[T]) -> Iterator[T]:
    """Of what grows the first sight, then one each `BETWEEN` seconds, and the last.

    A small model writes thousands of tokens a second, and each sight costs the page milliseconds.
    """
    due, waits = 0.0, False
    for sight in sights:
        waits = time.monotonic() < due
        if not waits:
            yield sight
            due = time.monotonic() + BETWEEN
    if waits:
        yield sight


def parts(text: str, sign: str = "\n") -> list[str]:
    """What stands between signs, without blanks around it; nothing for nothing."""
    return [part.strip() for part in text.split(sign) if part.strip()]


def check_length(text: str, most: int) -> None:
    """Raise `InputError` for a text of more characters than the page takes."""
    if len(text) > most:
        raise InputError(
            f"The text has {len(text):,} characters; this page takes {most:,} at most: shorten it"
        )


def check_count(count: int, most: int, what: str) -> None:
    """Raise `InputError` for more of something than the page takes."""
    if count > most:
        raise InputError(
            f"There are {count} {what}; this page takes {most} at most: leave some out"
        )
