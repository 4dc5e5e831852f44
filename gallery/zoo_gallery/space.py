"""The card of the Space that shows the gallery, made from the registry.

python -m zoo_gallery.space > gallery/README.md
"""

from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

import yaml

import zoo
from zoo import Card
from zoo.numbers import plural

TITLE = "txzoo gallery"
SUMMARY = "Transformers to try, to compare, to train and to look into"
TEXT = """\
# {title}

{summary}: {count} that are trained and measured, from `pip install txzoo`.

{models}

Everything here is made from the registry of installed plugins: a line with another plugin in
`requirements.txt` adds its models. `python app.py` starts the same on your machine, and so does
`txzoo gallery`.
"""


def readme(cards: Iterable[Card]) -> str:
    """The `README.md` of the Space: front matter for the Hub, and what there is.

    Args:
        cards: of the models that come with it.
    """
    shown = list(cards)
    front = {
        "title": TITLE,
        "emoji": "🦓",
        "colorFrom": "blue",
        "colorTo": "gray",
        "sdk": "gradio",
        "sdk_version": version("gradio"),
        "python_version": "3.11",
        "app_file": "app.py",
        "models": sorted({repo for card in shown for repo in repositories(card)}),
        "datasets": sorted({name for card in shown for name in datasets(card)}),
        "license": "apache-2.0",
        "short_description": SUMMARY,
        "tags": ["txzoo", *sorted({card.pipeline for card in shown})],
    }
    head = yaml.safe_dump(
        {name: value for name, value in front.items() if value}, sort_keys=False, allow_unicode=True
    )
    lines = "\n".join(f"- **{card.name}**: {card.summary} ({card.license})" for card in shown)
    text = TEXT.format(
        title=TITLE, summary=SUMMARY, count=plural(len(shown), "model"), models=lines
    )
    return f"---\n{head}---\n\n{text}"


def repositories(card: Card) -> list[str]:
    """Where on the Hub a model lies, and what it was made from."""
    return [*([card.hub.repo] if card.hub else []), *card.base_models]


def datasets(card: Card) -> list[str]:
    """The data sets on the Hub that a model was trained on."""
    found: Any = card.data.get("datasets") or []
    return [name for name in ([found] if isinstance(found, str) else found) if "/" in str(name)]


if __name__ == "__main__":
    print(readme(zoo.info(name) for name in zoo.list_models(plugin="txzoo", bundled=True)), end="")
