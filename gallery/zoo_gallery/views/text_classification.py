"""Try a model that gives a text a label: every label with its probability, as bars."""

from collections.abc import Callable

import gradio as gr

from zoo import Card
from zoo.attribution import METHODS, attributions
from zoo_gallery import markup
from zoo_gallery.snippets import endpoint, example, reference
from zoo_gallery.state import COMPUTE, Gallery
from zoo_gallery.views import check_length, telling, warned

WARNING = (
    "Blue words spoke for the label, orange and underlined ones against it. What decided for the "
    "model need not be a reason that a person would give, and where a head looks (see Attention) "
    "is not what decided."
)
WORDS = 20  # in the table


def view(gallery: Gallery, card: Card) -> None:
    """Build the tab: a text, and bars of its labels."""
    start = example(card) or ""
    with gr.Row(elem_classes="zoo-try"):
        with gr.Column(scale=3, min_width=280):
            text = gr.Textbox(start, label="Text", lines=4, max_lines=12)
            with gr.Row():
                classify = gr.Button("Classify", variant="primary", min_width=80)
                restore = gr.Button("Example", min_width=80)
        with gr.Column(scale=2, min_width=280):
            # hidden while empty: Gradio names its placeholder in a way that readers cannot take
            bars = gr.Label(label="Labels", visible=False)
    asked = [classify.click, text.submit]
    gr.on(asked, lambda: gr.Label(visible=True), None, bars, queue=False, api_visibility="private")
    gr.on(
        asked,
        classifier(gallery, card),
        text,
        bars,
        api_name=endpoint(card, "run"),
        api_description=f"{card.name} gives a text a label; returns each label's probability.",
        concurrency_id=COMPUTE,
        trigger_mode="once",
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
    restore.click(lambda: start, None, text, queue=False, api_visibility="private")


def classifier(gallery: Gallery, card: Card) -> Callable[..., dict[str, float]]:
    """The function behind the Classify button of one model."""
    name = reference(card)

    def classify(
        text: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio asks for it
    ) -> dict[str, float]:
        with telling():
            check_length(text, gallery.limits.prompt_characters)
            model = gallery.models.get(name, lambda line: progress(None, desc=line))
            with warned():
                found = model(text, top_k=None)
            return {entry["label"]: entry["score"] for entry in found}

    return classify


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
