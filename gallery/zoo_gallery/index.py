"""The first page: a card for each model, to search and filter, and what does not work in red."""

from collections.abc import Mapping
from html import escape
from typing import Any

import gradio as gr
from gradio.routes import INTERNAL_ROUTES

import zoo
from zoo import Card
from zoo.numbers import plural, short_count, titled, with_error
from zoo_gallery import markup
from zoo_gallery.snippets import reference, slug
from zoo_gallery.state import Gallery

ALL = "All"
TAKEN = ("chat", "ask", "compare", "train", *INTERNAL_ROUTES)


def path(card: Card) -> str:
    """Where the page of a model lies; beside the names of other pages it makes room for them."""
    name = slug(card)
    return f"{name}-model" if name in TAKEN else name


def page(gallery: Gallery, broken: Mapping[str, str]) -> None:
    """Build the page in the current Blocks.

    Args:
        gallery: what is shown.
        broken: the models whose page could not be built, by reference, and why.
    """
    gr.HTML(
        markup.heading(
            "Models", "Transformers that were trained with txzoo: try them and look into them."
        )
    )
    cards = {reference(card): card for card in gallery.cards}

    def listed(query: str, architecture: str, task: str, weights: str) -> str:
        """The cards that pass all filters."""
        names = zoo.list_models(
            query.strip() or None,
            architecture=None if architecture == ALL else architecture,
            task=None if task == ALL else task,
        )
        found = [name for name in names if weights in (ALL, where(cards[name]))]
        return models_html({name: cards[name] for name in found}, len(cards), broken)

    with gr.Row(elem_classes="zoo-filters"):
        hint = "Part of a name or summary, or *-lm"
        filters: list[Any] = [gr.Textbox(label="Search", placeholder=hint, min_width=200)]
        for label, values in (
            ("Architecture", {card.architecture for card in cards.values()}),
            ("Task", {card.task for card in cards.values() if card.task}),
            ("Weights", {where(card) for card in cards.values()}),
        ):
            choices = [ALL, *sorted(values)]
            filters.append(gr.Dropdown(choices, value=ALL, label=label, min_width=150))
    shown = gr.HTML(models_html(cards, len(cards), broken))
    gr.on(
        [choice.change for choice in filters],
        listed,
        filters,
        shown,
        queue=False,
        show_progress="hidden",
        trigger_mode="always_last",
        api_visibility="private",
    )
    if problems := problems_html(gallery):
        gr.HTML(problems)


def models_html(cards: Mapping[str, Card], total: int, broken: Mapping[str, str]) -> str:
    """A list of cards, and how many there are.

    Args:
        cards: those that are shown, by reference.
        total: how many there are.
        broken: as in `page`.
    """
    count = plural(total, "model")
    if len(cards) < total:
        count = f"{len(cards)} of {count}"
    items = "".join(card_html(name, card, broken.get(name, "")) for name, card in cards.items())
    return f'<p role="status">{count}</p><ul class="zoo-cards">{items}</ul>'


def card_html(name: str, card: Card, error: str = "") -> str:
    """One model: name, one line, and what a visitor chooses by; red if it has an error."""
    facts = {
        "Architecture": card.architecture,
        "Task": card.task or "",
        "Parameters": short_count(card.parameters),
    }
    if card.scores:
        score = card.scores[0]
        facts[titled(score.name)] = with_error(score.value, score.standard_error)
    facts |= {"Licence": card.license, "Weights": where(card)}
    body = f"<p>{escape(card.summary)}</p>{markup.facts(facts)}"
    if error:
        body = markup.error(error, title="This page is broken:")
    return (
        f'<li class="zoo-card{" zoo-broken" if error else ""}">'
        f'<h2><a href="{escape(path(card))}">{escape(name)}</a></h2>{body}</li>'
    )


def where(card: Card) -> str:
    """Where the weights of a model are."""
    if card.hub:
        return "on the Hub"
    if card.trained and not card.installed:
        return "an adapter; its base is on the Hub"
    return "installed" if card.trained else "not trained yet"


def problems_html(gallery: Gallery) -> str:
    """Plugins and model folders that were set aside, as red cards; nothing when all is well."""
    problems = {plugin.name: plugin.error for plugin in gallery.registry.plugins if plugin.error}
    for plugin in gallery.registry.plugins:
        problems |= {
            f"{folder.name}, a model of {plugin.name}": error
            for folder, error in plugin.broken_models.items()
        }
    items = "".join(
        f'<li class="zoo-card zoo-broken"><h3>{escape(name)}</h3>{markup.error(error)}</li>'
        for name, error in problems.items()
    )
    return f'<h2>Set aside</h2><ul class="zoo-cards">{items}</ul>' if problems else ""
