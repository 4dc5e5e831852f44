"""Small pieces of HTML, their texts escaped."""

from collections.abc import Mapping, Sequence
from html import escape


def paragraph(text: str) -> str:
    """A text as a paragraph."""
    return f"<p>{escape(text)}</p>"


def listed(items: Mapping[str, str]) -> str:
    """Names and what there is to say of each, as a list."""
    lines = (f"<li><strong>{escape(name)}</strong>: {escape(x)}</li>" for name, x in items.items())
    return f"<ul>{''.join(lines)}</ul>"


def figure(svg: str) -> str:
    """A drawing of `zoo.charts.svg`, which is scrolled by itself where the page is too narrow."""
    style = "overflow-x: auto; --chart-min-width: 26rem"
    attributes = f'class="zoo-figure" role="group" aria-label="Chart" tabindex="0" style="{style}"'
    return f"<div {attributes}>{svg}</div>"


def table(caption: str, titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that is scrolled by itself where the page is narrow; its first column names the rows.

    Args:
        caption: what it holds.
        titles: of the columns.
        rows: a text for each column.
    """
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="zoo-table" role="region" tabindex="0" aria-label="{escape(caption)}" '
        f'style="overflow-x: auto"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def status(text: str, done: int = 0, total: int = 0) -> str:
    """A line that screen readers read out when it changes, or one with a bar, which is quiet.

    Args:
        text: the line.
        done: steps done of `total`.
        total: 0 for no bar.
    """
    bar = f'<progress aria-label="Done" value="{done}" max="{total}"></progress>' if total else ""
    live = "off" if total else "polite"
    return f'<div class="zoo-status" role="status" aria-live="{live}">{escape(text)}</div>{bar}'
