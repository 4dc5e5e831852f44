"""Try a model that gives a text a label: every label with its probability, as bars."""

from collections.abc import Callable

import gradio as gr

from zoo import Card, Model
from zoo.attribution import METHODS, attributions
from zoo_gallery import markup
from zoo_gallery.snippets import reference
from zoo_gallery.state import COMPUTE, Gallery
from zoo_gallery.views import check_length, telling
from zoo_gallery.views.bars import text_and_bars

WARNING = (
    "Blue words spoke for the label, orange and underlined ones against it. What decided for the "
    "model need not be a reason that a person would give, and where a head looks (see Attention) "
    "is not what decided."
)
WORDS = 20  # in the table


def view(gallery: Gallery, card: Card) -> None:
    """Build the tab: a text, and bars of its labels."""
    text = text_and_bars(
        gallery,
        card,
        labels,
        verb="Classify",
        label="Labels",
        description=f"{card.name} gives a text a label; returns each label's probability.",
    )
    with gr.Accordion("Which words decided", open=False):
        gr.HTML(markup.paragraph(WARNING))
        with gr.Row():
            how = gr.Radio(list(METHODS), value=METHODS[0], label="Found by")
            explain = gr.Button("Explain", min_width=80)
        shown, numbers = gr.HTML(""), gr.HTML("")
    explain.click(
        explainer(gallery, card),
        [text, how],
        [shown, numbers],
        concurrency_id=COMPUTE,
        trigger_mode="once",
        api_visibility="private",
    )


def labels(model: Model, text: str) -> dict[str, float]:
    """The probability of every label."""
    return {entry["label"]: entry["score"] for entry in model(text, top_k=None)}


def explainer(gallery: Gallery, card: Card) -> Callable[[str, str], tuple[str, str]]:
    """The function behind the Explain button of one model: the words, and their numbers."""
    name = reference(card)

    def explain(text: str, method: str) -> tuple[str, str]:
        with telling():
            check_length(text, gallery.limits.prompt_characters)
            model = gallery.models.get(name)
            label = model(text)["label"]
            found = attributions(model, text, method=method, label=label)
            caption = f"What each word did for {label}, by {method}"
            strong = sorted(found, key=lambda word: -abs(word.score))[:WORDS]
            rows = [[word.text, f"{word.score:+.3f}"] for word in strong]
            titles = ["Word", "Score (nats)"]
            return markup.words(text, found, caption), markup.table(caption, titles, rows)

    return explain
