"""Try a model that makes a text of another: the answer, others that came close, as a list."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from typing import Any

import gradio as gr

from zoo import Card
from zoo_gallery import markup
from zoo_gallery.snippets import endpoint, example, reference
from zoo_gallery.state import COMPUTE, Gallery
from zoo_gallery.views import check_length, telling, warned

BEAMS = 4  # at first, as many as the scores of cards are measured with


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
            beams = gr.Slider(
                1, 8, BEAMS, step=1, label="Beams", info="1 writes word by word as one watches"
            )
            penalty = gr.Slider(
                0, 2, 1, step=0.1, label="Length penalty", info="Above 1 prefers longer answers"
            )
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

    def write(
        source: str,
        num_beams: int = BEAMS,
        length_penalty: float = 1.0,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio asks for it
    ) -> Iterator[tuple[str, str]]:
        with telling():
            check_length(source, gallery.limits.prompt_characters)
            model = gallery.models.get(name, lambda line: progress(None, desc=line))
            beams, most = int(num_beams), gallery.limits.new_tokens
            positions = getattr(model.module, "max_len", None)
            length = {"max_new_tokens": most if positions is None else min(most, positions)}
            with warned():
                if beams == 1:
                    pieces = model(source, stream=True, **length)
                else:
                    found = model(
                        source,
                        num_beams=beams,
                        num_return_sequences=beams,
                        length_penalty=float(length_penalty),
                        return_scores=True,
                        **length,
                    )
            if beams > 1:
                yield found[0]["text"], answers(found)
                return
            text = ""
            with closing(pieces):
                for piece in pieces:
                    text += piece
                    yield text, ""

    return write


def answers(found: Iterable[Mapping[str, Any]]) -> str:
    """A table of the answers of beam search, best first; other tokens may make the same text."""
    rows: dict[str, str] = {}
    for answer in found:
        rows.setdefault(answer["text"], f"{answer['score']:.3f}")
    titles = ["Answer", "Log-probability by length"]
    return markup.table("All answers, best first", titles, list(rows.items()), texts=True)
