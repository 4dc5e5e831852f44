"""Try a model that fills in hidden words: the likeliest ones, as bars."""

from collections.abc import Callable

import gradio as gr

from zoo import Card
from zoo_gallery.snippets import endpoint, example, reference
from zoo_gallery.state import COMPUTE, Gallery
from zoo_gallery.views import check_length, telling, warned

GUESSES = 8


def view(gallery: Gallery, card: Card) -> None:
    """Build the tab: a text with one hidden word, and bars of what may stand there."""
    start = example(card) or ""
    with gr.Row(elem_classes="zoo-try"):
        with gr.Column(scale=3, min_width=280):
            text = gr.Textbox(
                start,
                label="Text",
                lines=3,
                max_lines=12,
            )
            with gr.Row():
                fill = gr.Button("Fill in", variant="primary", min_width=80)
                restore = gr.Button("Example", min_width=80)
        with gr.Column(scale=2, min_width=280):
            # hidden while empty: Gradio names its placeholder in a way that readers cannot take
            bars = gr.Label(label="Guesses", visible=False)
    asked = [fill.click, text.submit]
    gr.on(asked, lambda: gr.Label(visible=True), None, bars, queue=False, api_visibility="private")
    gr.on(
        asked,
        filler(gallery, card),
        text,
        bars,
        api_name=endpoint(card, "run"),
        api_description=f"{card.name} fills in <mask>; returns the likeliest tokens.",
        concurrency_id=COMPUTE,
        trigger_mode="once",
    )
    restore.click(lambda: start, None, text, queue=False, api_visibility="private")


def filler(gallery: Gallery, card: Card) -> Callable[..., dict[str, float]]:
    """The function behind the Fill in button of one model."""
    name = reference(card)

    def fill(
        text: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio asks for it
    ) -> dict[str, float]:
        with telling():
            check_length(text, gallery.limits.prompt_characters)
            model = gallery.models.get(name, lambda line: progress(None, desc=line))
            with warned():
                found = model(text, top_k=GUESSES)
            # two tokens may be spelled alike: the likelier one is shown
            return {entry["token_str"]: entry["score"] for entry in reversed(found)}

    return fill
