"""HTML of a model's page: facts, notes and the text of a card. Nothing of others is HTML here.

style.css draws the classes `zoo-facts` (names and values), `zoo-note` and `zoo-error` (boxes),
`zoo-figure` and `zoo-prose` (the text of a card).
"""

from collections.abc import Mapping
from html import escape

from markdown_it import MarkdownIt
from markdown_it.token import Token

# raw HTML stays text; a picture would be fetched from anywhere, so it stays text as well
_markdown = MarkdownIt("commonmark", {"html": False}).enable("table").disable("image")


def heading(title: str, summary: str) -> str:
    """The first heading of a page, and one line below it."""
    return f"<h1>{escape(title)}</h1><p>{escape(summary)}</p>"


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


def figure(svg: str) -> str:
    """A drawing of `zoo.charts.svg`, no wider than its place."""
    return f'<div class="zoo-figure">{svg}</div>'


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
