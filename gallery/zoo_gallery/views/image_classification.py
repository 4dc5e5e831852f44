"""Try a model that gives a picture a label: each label's probability, and what was looked at."""

from collections.abc import Callable
from typing import Any

import gradio as gr

from zoo import Card
from zoo.attention import seen
from zoo_gallery import markup
from zoo_gallery.snippets import endpoint, reference
from zoo_gallery.state import COMPUTE, Gallery
from zoo_gallery.views import telling, warned
from zoo_gallery.views.pictures import ends, laid_over, numbers, picture_input, require

LABELS = 10  # shown, the likeliest ones
ROLLOUT = (
    "How much each patch counts for the whole picture, by attention roll-out over all layers. "
    "What is looked at need not be what decided."
)


def view(gallery: Gallery, card: Card) -> None:
    """Build the tab: a picture, bars of its labels, and the roll-out over the picture."""
    with gr.Row(elem_classes="zoo-try"):
        with gr.Column(scale=3, min_width=280):
            picture = picture_input()
            classify = gr.Button("Classify", variant="primary", min_width=80)
        with gr.Column(scale=2, min_width=280):
            # hidden while empty: Gradio names its placeholder in a way that readers cannot take
            bars = gr.Label(label="Labels", visible=False, num_top_classes=LABELS)
            drawn = gr.HTML("")
    with gr.Accordion("What it looked at, as a table", open=False):
        gr.HTML(markup.paragraph(ROLLOUT))
        table = gr.HTML("")
    classify.click(
        lambda: gr.Label(visible=True), None, bars, queue=False, api_visibility="private"
    )
    classified = classify.click(
        classifier(gallery, card),
        picture,
        bars,
        api_name=endpoint(card, "run"),
        api_description=f"{card.name} gives a picture a label; returns each label's probability.",
        concurrency_id=COMPUTE,
        trigger_mode="once",
    )
    look_at(gallery, card, picture, classified, [drawn, table])


def look_at(gallery: Gallery, card: Card, picture: Any, classified: Any, shown_in: Any) -> None:
    """Show the roll-out after a picture was classified, and answer programs that ask for it.

    Args:
        gallery: what the page is of.
        card: of the model.
        picture: where one is given.
        classified: the event.
        shown_in: where the picture and the table go.
    """
    look = looker(gallery, card)

    def show(given: str | None) -> tuple[str, str]:
        try:
            weights = look(given)["weights"]
        except gr.Error as error:  # there are towers of pictures without patches
            return markup.note(str(error.message)), ""
        return shown(str(given), weights)

    classified.success(
        show,
        picture,
        shown_in,
        concurrency_id=COMPUTE,
        api_visibility="private",
    )
    program, found = gr.Button(visible=False), gr.JSON(visible=False)
    program.click(
        look,
        picture,
        found,
        api_name=endpoint(card, "attention"),
        api_description="How much each patch counts for the picture, by roll-out; rows from above.",
        concurrency_id=COMPUTE,
    )


def classifier(gallery: Gallery, card: Card) -> Callable[..., dict[str, float]]:
    """The function behind the Classify button of one model."""
    name = reference(card)

    def classify(
        picture: str | None,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio asks for it
    ) -> dict[str, float]:
        with telling():
            given = require(picture)
            model = gallery.models.get(name, lambda line: progress(None, desc=line))
            with warned():
                found = model(given, top_k=None)
            return {entry["label"]: entry["score"] for entry in found}

    return classify


def looker(gallery: Gallery, card: Card) -> Callable[[str | None], dict[str, Any]]:
    """The function that says what counts of a picture: shares of its patches, row by row."""
    name = reference(card)

    def look(picture: str | None) -> dict[str, Any]:
        with telling():
            return {"weights": seen(gallery.models.get(name), require(picture)).tolist()}

    return look


def shown(picture: str, weights: Any) -> tuple[str, str]:
    """The roll-out over its picture, and as a table."""
    caption = f"What it looked at, by roll-out. {ends(weights)}"
    with telling():
        return laid_over(picture, weights, caption), numbers(weights, "Percent of each patch")
