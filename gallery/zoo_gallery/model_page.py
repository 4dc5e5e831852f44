"""The page of one model: what it is, and tabs to try it, look into it, read about it and use it."""

import gradio as gr

from zoo import Card
from zoo.data import PICTURED
from zoo.errors import ZooError
from zoo.folder import TOKENIZER
from zoo.numbers import short_count, titled, with_error
from zoo.plugins import one_line
from zoo.registry import resolve
from zoo_gallery import markup
from zoo_gallery.attention_tab import attention_tab
from zoo_gallery.record_tabs import card_tab, training_tab, use_tab
from zoo_gallery.snippets import reference
from zoo_gallery.state import Gallery


def page(gallery: Gallery, card: Card) -> None:
    """Build the page of a model in the current Blocks."""
    gr.HTML(header(card))
    missing = why_not(gallery, card)
    if missing:
        gr.HTML(markup.note(missing))
    with gr.Tabs(overflow_behavior="wrap"):
        if not missing:
            with gr.Tab("Try", id="try"):
                try_tab(gallery, card)
        # a map of tokens; what a reader of pictures looks at is shown in its view
        texts = card.pipeline not in PICTURED
        if texts and card.trained and (card.hub or (card.folder / TOKENIZER).is_file()):
            with gr.Tab("Attention", id="attention") as tab:
                attention_tab(gallery, card, tab)
        with gr.Tab("Training", id="training") as tab:
            training_tab(card, tab)
        with gr.Tab("Card", id="card"):
            card_tab(gallery, card)
        with gr.Tab("Use it", id="use") as tab:
            use_tab(gallery, card, tab)


def try_tab(gallery: Gallery, card: Card) -> None:
    """Build what the pipeline's view shows; what is wrong with a view stays in its tab."""
    try:
        view = resolve(gallery.registry.views.get(card.pipeline).target)
        with gr.Column():
            view(gallery, card)
    except Exception as error:  # a view is anybody's code
        gr.HTML(markup.error(one_line(error), title=f"The view of {card.pipeline} is broken:"))


def header(card: Card) -> str:
    """Name, one line, and what a visitor compares models by."""
    facts = {
        "Architecture": card.architecture,
        "Task": card.task or "",
        "Parameters": short_count(card.parameters),
        "Licence": card.license,
    }
    if card.scores:
        score = card.scores[0]
        facts[titled(score.name)] = with_error(score.value, score.standard_error)
    return f"{markup.heading(reference(card), card.summary)}{markup.facts(facts)}"


def why_not(gallery: Gallery, card: Card) -> str:
    """Why a model cannot be tried here; nothing when it can."""
    name = reference(card)
    if not card.trained:
        return f"{name} has no weights yet: txzoo train {name} --out runs/{card.name} makes them."
    try:
        gallery.registry.views.get(card.pipeline)
    except ZooError:
        return (
            f"No installed plugin shows the pipeline {card.pipeline} in a page yet, so {name} "
            "cannot be tried here. It runs from Python and from a shell: see Use it."
        )
    return ""
