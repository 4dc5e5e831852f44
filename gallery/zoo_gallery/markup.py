"""Small pieces of HTML, their texts escaped: nothing of others is HTML here.

style.css draws the classes `zoo-facts` (names and values), `zoo-note` and `zoo-error` (boxes),
`zoo-figure`, `zoo-table`, `zoo-status` and `zoo-prose` (the text of a card).
"""

from collections.abc import Mapping, Sequence
from html import escape

from markdown_it import MarkdownIt
from markdown_it.token import Token

from zoo.attribution import Word

# raw HTML stays text; a picture would be fetched from anywhere, so it stays text as well
_markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")


FAINT = 5  # percent of the strongest word: below it nothing can be seen


def heading(title: str, summary: str) -> str:
    """The first heading of a page, and one line below it."""
    return f"<h1>{escape(title)}</h1><p>{escape(summary)}</p>"


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


def table(
    caption: str, titles: Sequence[str], rows: Sequence[Sequence[str]], *, texts: bool = False
) -> str:
    """A table that is scrolled by itself where the page is narrow; its first column names the rows.

    Args:
        caption: what it holds.
        titles: of the columns.
        rows: a text for each column.
        texts: whether the first column holds whole sentences, which take several lines.
    """
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    return _table(caption, titles, body, "zoo-texts" if texts else "")


def heat(
    caption: str,
    titles: Sequence[str],
    rows: Sequence[tuple[str, Sequence[tuple[str, float]]]],
) -> str:
    """A table whose cells stand on a ground as strong as they are.

    Args:
        caption: what it holds.
        titles: of the columns.
        rows: what each is called, and for each further column a text and how strong, from 0 to 1.
    """
    body = ""
    for name, cells in rows:
        body += f'<tr><th scope="row">{escape(name)}</th>'
        for text, share in cells:
            ground = f'class="zoo-for" style="--share: {round(100 * share)}%"'
            body += f"<td><span {ground}>{escape(text)}</span></td>"
        body += "</tr>"
    return _table(caption, titles, body, "zoo-heat")


def _table(caption: str, titles: Sequence[str], body: str, kind: str) -> str:
    """Rows, which are HTML, below their titles."""
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in titles)
    return (
        f'<div class="zoo-table {kind}" role="region" tabindex="0" aria-label="{escape(caption)}" '
        f'style="overflow-x: auto"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def words(text: str, found: Sequence[Word], caption: str) -> str:
    """A text with its words on a ground as strong as what each did: blue for, orange against."""
    most = max((abs(word.score) for word in found), default=0.0) or 1.0
    parts, place = [], 0
    for word in found:
        share = round(100 * abs(word.score) / most)
        side = "zoo-for" if word.score >= 0 else "zoo-against"
        kind = side if share >= FAINT else "zoo-faint"
        parts += [
            escape(text[place : word.start]),
            f'<span class="{kind}" style="--share: {share}%" title="{word.score:+.3f}">'
            f"{escape(text[word.start : word.end])}</span>",
        ]
        place = word.end
    body = "".join(parts) + escape(text[place:])
    return f'<div class="zoo-words" role="group" aria-label="{escape(caption)}">{body}</div>'


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


def facts(values: Mapping[str, str]) -> str:
    """Names and values side by side; empty values are left out."""
    lines = [
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>"
        for name, value in values.items()
        if value
    ]
    return f'<dl class="zoo-facts">{"".join(lines)}</dl>'


def note(text: str, *, title: str = "") -> str:
    """A quiet box: something a reader should know."""
    return _box("zoo-note", "status", text, title)


def error(text: str, *, title: str = "") -> str:
    """A red box: something that does not work, and why."""
    return _box("zoo-error", "alert", text, title)


def _box(kind: str, role: str, text: str, title: str) -> str:
    heading = f"<strong>{escape(title)}</strong> " if title else ""
    return f'<div class="{kind}" role="{role}">{heading}{escape(text)}</div>'


def code(text: str, label: str) -> str:
    """A text as it stands in a file."""
    return f'<pre class="zoo-code" tabindex="0" aria-label="{escape(label)}">{escape(text)}</pre>'


def prose(markdown: str) -> str:
    """The text of a card, under the page's own first heading.

    HTML in it is shown as text, pictures as links, links lead away in a tab of their own. Its
    title, which the page has already, is left out.
    """
    tokens = _markdown.parse(markdown)
    if tokens and tokens[0].type == "heading_open" and tokens[0].tag == "h1":
        del tokens[:3]
    for token in tokens:
        _prepare(token)
    html = _markdown.renderer.render(tokens, _markdown.options, {})
    return f'<div class="zoo-prose">{html}</div>'


def _prepare(token: Token) -> None:
    """Set what a page needs: no second first heading, links apart, keys reach what scrolls."""
    if token.type in ("heading_open", "heading_close") and token.tag == "h1":
        token.tag = "h2"
    elif token.type in ("fence", "code_block", "table_open"):
        token.attrSet("tabindex", "0")
    elif token.type == "link_open":
        token.attrSet("rel", "noopener noreferrer nofollow")
        token.attrSet("target", "_blank")
    for child in token.children or ():
        _prepare(child)
