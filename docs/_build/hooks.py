"""What `mkdocs build` does beyond MkDocs: pages from the registry, snippets run, formulas set.

A written page asks for a generated part with a line `<!-- generated: NAME -->`, see `pages.PARTS`.
Nothing generated is kept in the repository.
"""

import re
from itertools import count
from pathlib import Path
from typing import Any

from blocks import FENCE, run_page
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pages import (
    PARTS,
    architecture_page,
    cards,
    figure,
    model_page,
    slug,
    task_page,
)

from zoo.registry import registry

ROOT = Path(__file__).parents[2]
MARK = re.compile(r"^<!-- generated: (\S+) -->$", re.M)
MATHS = re.compile(r"^```math\n(.*?)^```$", re.M | re.S)
SHOWN = re.compile(r'<div data-shown="(\d+)"></div>')

_shown: dict[str, str] = {}  # HTML that Markdown need not look at, by the number that stands for it
_numbers = count(1)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the pages of all models, architectures and tasks into the navigation."""
    names = {
        "models": [slug(card) for card in cards()],
        "architectures": [name.replace(":", "_") for name in registry().architectures.names()],
        "tasks": [name.replace(":", "_") for name in registry().tasks.names()],
    }

    def filled(item: Any) -> Any:
        if isinstance(item, dict):
            return {title: filled(below) for title, below in item.items()}
        if isinstance(item, list):
            return [filled(below) for below in item]
        if not item.endswith("/"):
            return item
        kind = item.removesuffix("/")
        return [f"{kind}/index.md", *(f"{kind}/{name}.md" for name in names[kind])]

    config.nav = filled(config.nav)
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that nobody wrote."""

    def add(path: str, content: str) -> None:
        if path not in files.src_uris:
            files.append(File.generated(config, path, content=content))

    for card in cards():
        add(f"models/{slug(card)}.md", model_page(card, draw))
    for name in registry().architectures.names():
        add(f"architectures/{name.replace(':', '_')}.md", architecture_page(name))
    for name in registry().tasks.names():
        add(f"tasks/{name.replace(':', '_')}.md", task_page(name))
    for name in ("SECURITY", "CHANGELOG"):
        text = (ROOT / f"{name}.md").read_text(encoding="utf-8")
        add(f"{name.lower()}.md", text.replace("](docs/", "]("))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Fill in generated parts, run the primer's snippets, set formulas."""
    path = page.file.src_uri
    if path.startswith("primer/"):
        markdown = with_results(markdown)
    markdown = MATHS.sub(lambda maths: show(convert(maths[1].strip(), display="block")), markdown)
    return MARK.sub(lambda mark: PARTS[mark[1]](path, draw), markdown)


def on_page_content(html: str, **_: Any) -> str:
    """Put drawings and formulas where their stand-ins are."""
    return SHOWN.sub(lambda stand_in: _shown[stand_in[1]], html)


def with_results(markdown: str) -> str:
    """A page whose Python blocks are followed by what they print and draw."""
    results = iter(run_page(markdown))

    def shown(block: re.Match[str]) -> str:
        if block["language"] != "python" or block["file"]:
            return block[0]
        result = next(results)
        text = f"```python\n{block['code']}```\n"
        if result.output:
            text += f"\nprints\n\n```text\n{result.output.rstrip()}\n```\n"
        return text + (f"\n{draw(result.figure, '')}\n" if result.figure else "")

    return FENCE.sub(shown, markdown)


def draw(picture: str, caption: str) -> str:
    """What stands for a drawing in Markdown."""
    return show(figure(picture, caption))


def show(html: str) -> str:
    """What stands for HTML in Markdown, until the page is set."""
    number = str(next(_numbers))
    _shown[number] = html
    return f'<div data-shown="{number}"></div>\n'
