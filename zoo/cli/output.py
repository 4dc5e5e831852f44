"""What the verbs print: tables for people, JSON for programs."""

import json
import math
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

GAP = "  "
STYLES = {"ok": "green", "failed": "bold red", "broken": "bold red", "disabled": "yellow"}
STYLES |= {"not checked": "yellow", "wrong": "bold red", "missing": "yellow"}

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def print_json(value: Any) -> None:
    """Print a value as JSON; paths are texts."""
    click.echo(json.dumps(value, indent=2, default=os.fspath))


def finite(value: float) -> float | None:
    """A number as JSON can hold it."""
    return value if math.isfinite(value) else None


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    right: Sequence[str] = (),
    spare: Sequence[str] = (),
) -> None:
    """Print a table: coloured and wrapped on a terminal, plain lines elsewhere.

    Args:
        columns: their titles; when all are empty there is no line of titles.
        rows: a text for each column.
        right: titles of columns of numbers.
        spare: titles of columns that a terminal too narrow for all does without, first ones first.
    """
    if not sys.stdout.isatty():
        lines = [columns, *rows] if any(columns) else rows
        return click.echo("\n".join(_plain(lines, [title in right for title in columns])))
    columns, rows = _fitting(columns, rows, spare)
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=None,
        pad_edge=False,
        padding=(0, len(GAP), 0, 0),
        header_style="bold",
        show_header=any(columns),
    )
    for index, title in enumerate(columns):
        table.add_column(
            title,
            justify="right" if title in right else "left",
            style="cyan" if index == 0 else "",
            overflow="fold",
            no_wrap=index == 0,
        )
    for row in rows:
        table.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    Console(highlight=False).print(table)


def print_facts(facts: Mapping[str, str]) -> None:
    """Print names and values, one a line."""
    print_table(("", ""), list(facts.items()))


def heading(text: str) -> None:
    """Print the title of a part."""
    click.echo(f"\n{styled(text, bold=True)}")


def styled(text: str, **style: Any) -> str:
    """A text in colour, where standard output shows colour."""
    return click.style(text, **style) if sys.stdout.isatty() and not no_color() else text


def no_color() -> bool:
    """Whether colour is not wanted (https://no-color.org)."""
    return bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"


def _widths(lines: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, cells)) for cells in zip(*lines, strict=True)]


def _plain(lines: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    widths = _widths(lines)
    return [
        GAP.join(
            cell.rjust(width) if aligned else cell.ljust(width)
            for cell, width, aligned in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    ]


def _fitting(
    columns: Sequence[str], rows: Sequence[Sequence[str]], spare: Sequence[str]
) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """The columns that a terminal has room for."""
    room = shutil.get_terminal_size().columns
    for title in spare:
        if sum(_widths([columns, *rows])) + len(GAP) * (len(columns) - 1) <= room:
            break
        kept = [index for index, other in enumerate(columns) if other != title]
        columns = [columns[index] for index in kept]
        rows = [[row[index] for index in kept] for row in rows]
    return columns, rows
