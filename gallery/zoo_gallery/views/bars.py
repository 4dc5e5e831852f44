"""What views of texts share whose answers are bars: the text, its button, the bars."""

from collections.abc import Callable

import gradio as gr

from zoo import Card, Model
from zoo_gallery.snippets import endpoint, example, reference
from zoo_gallery.state import COMPUTE, Gallery
from zoo_gallery.views import check_length, telling, warned


def text_and_bars(
    gallery: Gallery,
    card: Card,
    read: Callable[[Model, str], dict[str, float]],
    *,
    verb: str,
    label: str,
    description: str,
) -> gr.Textbox:
    """Build a text box with the card's example, a button, and the bars of what it gives.

    Args:
        gallery: of the page.
        card: of the model.
        read: a model and a text to what the bars are named and how long they are, from 0 to 1.
        verb: on the button.
        label: above the bars.
        description: of the endpoint.
    """
    start = example(card) or ""
    with gr.Row(elem_classes="zoo-try"):
        with gr.Column(scale=3, min_width=280):
            text = gr.Textbox(start, label="Text", lines=4, max_lines=12)
            with gr.Row():
                ask = gr.Button(verb, variant="primary", min_width=80)
                restore = gr.Button("Example", min_width=80)
        with gr.Column(scale=2, min_width=280):
            # hidden while empty: Gradio names its placeholder in a way that readers cannot take
            bars = gr.Label(label=label, visible=False)
    asked = [ask.click, text.submit]
    gr.on(asked, lambda: gr.Label(visible=True), None, bars, queue=False, api_visibility="private")
    gr.on(
        asked,
        reader(gallery, card, read),
        text,
        bars,
        api_name=endpoint(card, "run"),
        api_description=description,
        concurrency_id=COMPUTE,
        trigger_mode="once",
    )
    restore.click(lambda: start, None, text, queue=False, api_visibility="private")
    return text


def reader(
    gallery: Gallery, card: Card, read: Callable[[Model, str], dict[str, float]]
) -> Callable[..., dict[str, float]]:
    """The function behind the button of one model."""
    name = reference(card)

    def ask(
        text: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio asks for it
    ) -> dict[str, float]:
        with telling():
            check_length(text, gallery.limits.prompt_characters)
            model = gallery.models.get(name, lambda line: progress(None, desc=line))
            with warned():
                return read(model, text)

    return ask
