"""Try a model that says what a picture shows: the caption, what came close, where it looked."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import gradio as gr
from PIL import Image

from zoo import Card
from zoo.attention import gaze
from zoo_gallery import markup
from zoo_gallery.snippets import endpoint, reference
from zoo_gallery.state import COMPUTE, Gallery
from zoo_gallery.views import telling
from zoo_gallery.views.pictures import DRAWINGS, drawn_by, laid_over, picture_input, require
from zoo_gallery.views.writing import BEAMS, search_controls, write_answer

SMALL = 112  # pixels a side of the picture at each word


def view(gallery: Gallery, card: Card) -> None:
    """Build the tab: a picture, how to search, what is written and came close, where it looked."""
    with gr.Row(elem_classes="zoo-try"):
        with gr.Column(scale=3, min_width=280):
            picture = picture_input(drawings(gallery, card))
            with gr.Row():
                write = gr.Button("Describe", variant="primary", min_width=80)
                stop = gr.Button("Stop", variant="stop", min_width=80)
            written = gr.Textbox(label="What it writes", lines=2, max_lines=12, interactive=False)
        with gr.Column(scale=2, min_width=280):
            beams, penalty = search_controls()
            others = gr.HTML("")
    looked = gr.HTML("")
    writing = write.click(
        writer(gallery, card),
        [picture, beams, penalty],
        [written, others],
        api_name=endpoint(card, "run"),
        api_description=(
            f"What {card.name} says of a picture; yields the text so far, and all answers as HTML."
        ),
        concurrency_id=COMPUTE,
        trigger_mode="once",
    )
    looking = writing.success(
        shower(gallery, card),
        [picture, written],
        looked,
        concurrency_id=COMPUTE,
        api_visibility="private",
    )
    stop.click(None, cancels=[writing, looking], api_visibility="private")
    program, found = gr.Button(visible=False), gr.JSON(visible=False)
    program.click(
        looker(gallery, card),
        [picture, written],
        found,
        api_name=endpoint(card, "attention"),
        api_description=(
            "Where the last layer looks at each word of a caption: shares of the patches, rows "
            "from above; of what the model writes where the caption is empty."
        ),
        concurrency_id=COMPUTE,
    )


def drawings(gallery: Gallery, card: Card) -> Mapping[str, Callable[[], Image.Image]]:
    """Pictures to begin with: of the model's task where that draws its own, else the gallery's."""
    return drawn_by(gallery, card.task or "") or DRAWINGS


def writer(gallery: Gallery, card: Card) -> Callable[..., Iterator[tuple[str, str]]]:
    """The function behind the button of one model."""
    name = reference(card)

    def answer(
        picture: str | None,
        num_beams: int = BEAMS,
        length_penalty: float = 1.0,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio asks for it
    ) -> Iterator[tuple[str, str]]:
        with telling():
            given = require(picture)
            model = gallery.models.get(name, lambda line: progress(None, desc=line))
            most = gallery.limits.new_tokens
            yield from write_answer(model, given, int(num_beams), float(length_penalty), most)

    return answer


def looker(gallery: Gallery, card: Card) -> Callable[[str | None, str], dict[str, Any]]:
    """The function that says where one model looks in a picture at each word of a caption."""
    name = reference(card)

    def look(picture: str | None, caption: str = "") -> dict[str, Any]:
        with telling():
            found = gaze(gallery.models.get(name), require(picture), caption or None)
            return {"words": found.words, "weights": found.layers[-1].mean(0).tolist()}

    return look


def shower(gallery: Gallery, card: Card) -> Callable[[str | None, str], str]:
    """The function that shows on the page what `looker` finds, or why there is nothing."""
    look = looker(gallery, card)

    def show(picture: str | None, caption: str) -> str:
        try:
            found = look(picture, caption)
        except gr.Error as error:  # what another library computes keeps no attention weights
            return markup.note(str(error.message))
        return shown(str(picture), found)

    return show


def shown(picture: str, found: Mapping[str, Any]) -> str:
    """The picture once for each word, with where the model looked."""
    with telling():
        figures = [
            laid_over(picture, weights, word, SMALL)
            for word, weights in zip(found["words"], found["weights"], strict=True)
        ]
    most = max((max(map(max, weights)) for weights in found["weights"]), default=0)
    what = (
        "Where the last layer looked as it wrote each word, the mean of its heads. Bright is the "
        f"most of a word's own, at most {100 * most:.0f} % in one patch. What is looked at need "
        "not be what decided."
    )
    return f'{markup.paragraph(what)}<div class="zoo-seens">{"".join(figures)}</div>'
