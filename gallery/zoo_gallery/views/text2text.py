"""Try a model that makes a text of another: the answer, others that came close, as a list."""

from collections.abc import Callable, Iterator

import gradio as gr

from zoo import Card
from zoo_gallery.snippets import endpoint, example, reference
from zoo_gallery.state import COMPUTE, Gallery
from zoo_gallery.views import check_length, telling
from zoo_gallery.views.writing import BEAMS, search_controls, write_answer


def view(gallery: Gallery, card: Card) -> None:
    """Build the tab: a source, how to search, what is written and what came close."""
    start = example(card) or ""
    verb = "Translate" if card.pipeline == "translation" else "Write"
    with gr.Row(elem_classes="zoo-try"):
        with gr.Column(scale=3, min_width=280):
            source = gr.Textbox(start, label="Source", lines=3, max_lines=12)
            with gr.Row():
                write = gr.Button(verb, variant="primary", min_width=80)
                stop = gr.Button("Stop", variant="stop", min_width=80)
                restore = gr.Button("Example", min_width=80)
            written = gr.Textbox(label="What it writes", lines=3, max_lines=24, interactive=False)
        with gr.Column(scale=2, min_width=280):
            beams, penalty = search_controls()
    others = gr.HTML("")
    writing = gr.on(
        [write.click, source.submit],
        writer(gallery, card),
        [source, beams, penalty],
        [written, others],
        api_name=endpoint(card, "run"),
        api_description=(
            f"What {card.name} makes of a text; yields the text so far, and all answers as HTML."
        ),
        concurrency_id=COMPUTE,
        trigger_mode="once",
    )
    stop.click(None, cancels=writing, api_visibility="private")
    restore.click(lambda: start, None, source, queue=False, api_visibility="private")


def writer(gallery: Gallery, card: Card) -> Callable[..., Iterator[tuple[str, str]]]:
    """The function behind the button of one model."""
    name = reference(card)

    def answer(
        source: str,
        num_beams: int = BEAMS,
        length_penalty: float = 1.0,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio asks for it
    ) -> Iterator[tuple[str, str]]:
        with telling():
            check_length(source, gallery.limits.prompt_characters)
            model = gallery.models.get(name, lambda line: progress(None, desc=line))
            most = gallery.limits.new_tokens
            yield from write_answer(model, source, int(num_beams), float(length_penalty), most)

    return answer
