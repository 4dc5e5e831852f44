"""Try a model of pictures and texts: labels and templates in words, pictures against prompts."""

from collections.abc import Callable, Mapping, Sequence
from html import escape
from typing import Any

import gradio as gr
from PIL import Image

from zoo import Card
from zoo.drawings import DRAWN
from zoo_gallery import markup
from zoo_gallery.snippets import endpoint, example_labels, reference
from zoo_gallery.state import COMPUTE, Gallery
from zoo_gallery.views import check_length, telling, warned
from zoo_gallery.views.image_classification import ROLLOUT, look_at
from zoo_gallery.views.pictures import DRAWINGS, drawn_by, picture_input, require

TEMPLATES = "a photo of a {}\na drawing of a {}"
WHAT = (
    "The cosine of each drawing with each prompt; the highest of a row is marked. A prompt is a "
    "whole sentence, one a line: try the same thing in other words."
)


def view(gallery: Gallery, card: Card) -> None:
    """Build the tab: a picture, labels and templates, their bars; drawings against prompts."""
    examples = drawings(gallery)
    names = ", ".join(example_labels(card))
    with gr.Row(elem_classes="zoo-try"):
        with gr.Column(scale=3, min_width=280):
            picture = picture_input(examples)
            classify = gr.Button("Classify", variant="primary", min_width=80)
        with gr.Column(scale=2, min_width=280):
            labels = gr.Textbox(names, label="Labels", info="With commas between", lines=2)
            templates = gr.Textbox(
                TEMPLATES,
                label="Templates",
                info="Sentences with {} for the label, one a line; several are an ensemble",
                lines=3,
            )
            others = gr.Textbox(
                "", label="Negative labels", info="They compete, and are not answered"
            )
            # hidden while empty: Gradio names its placeholder in a way that readers cannot take
            bars = gr.Label(label="Labels by probability", visible=False)
            drawn = gr.HTML("")
            cosines = gr.HTML("")
    with gr.Accordion("What it looked at, as a table", open=False):
        gr.HTML(markup.paragraph(ROLLOUT))
        looked = gr.HTML("")
    classify.click(
        lambda: gr.Label(visible=True), None, bars, queue=False, api_visibility="private"
    )
    classified = classify.click(
        classifier(gallery, card),
        [picture, labels, templates, others],
        [bars, cosines],
        api_name=endpoint(card, "run"),
        api_description=(
            f"{card.name} says which of some labels fits a picture; returns each one's "
            "probability, and the cosines as HTML."
        ),
        concurrency_id=COMPUTE,
        trigger_mode="once",
    )
    look_at(gallery, card, picture, classified, [drawn, looked])
    with gr.Accordion("Drawings against prompts", open=False):
        gr.HTML(markup.paragraph(WHAT))
        prompts = gr.Textbox(
            "\n".join(f"a drawing of a {name}" for name in example_labels(card)),
            label="Prompts",
            lines=6,
        )
        compare = gr.Button("Compare", min_width=80)
        table = gr.HTML("")
    compare.click(
        comparer(gallery, card, examples),
        prompts,
        table,
        concurrency_id=COMPUTE,
        trigger_mode="once",
        api_visibility="private",
    )


def drawings(gallery: Gallery) -> Mapping[str, Callable[[], Image.Image]]:
    """The gallery's own, and those of tasks of captions that draw theirs."""
    tasks = [n for n, e in gallery.registry.tasks.items() if e.pipeline == "image-to-text"]
    found = {name: make for task in tasks for name, make in drawn_by(gallery, task).items()}
    return {**found, **DRAWINGS}


def classifier(gallery: Gallery, card: Card) -> Callable[..., tuple[dict[str, float], str]]:
    """The function behind the Classify button of one model."""
    name = reference(card)

    def classify(
        picture: str | None,
        labels: str = ", ".join(DRAWN),
        templates: str = TEMPLATES,
        negative_labels: str = "",
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio asks for it
    ) -> tuple[dict[str, float], str]:
        with telling():
            given = require(picture)
            for text in (labels, templates, negative_labels):
                check_length(text, gallery.limits.prompt_characters)
            model = gallery.models.get(name, lambda line: progress(None, desc=line))
            with warned():
                found = model(
                    given,
                    labels=parts(labels, ","),
                    templates=parts(templates, "\n"),
                    negative_labels=parts(negative_labels, ","),
                )
            rows = [[one["label"], f"{one['similarity']:.3f}"] for one in found]
            table = markup.table("Cosines, highest first", ["Label", "Cosine"], rows)
            return {one["label"]: one["score"] for one in found}, table

    return classify


def comparer(
    gallery: Gallery, card: Card, examples: Mapping[str, Callable[[], Image.Image]]
) -> Callable[[str], str]:
    """The function behind the Compare button of one model."""
    name = reference(card)

    def compare(prompts: str) -> str:
        with telling():
            check_length(prompts, gallery.limits.prompt_characters)
            sentences = parts(prompts, "\n")
            called = gallery.models.get(name).called
            with warned():
                texts = called.classifier([[one] for one in sentences], ["{}"])  # (L, D)
            pictures = called.embed_pictures([make() for make in examples.values()])  # (N, D)
            return matrix(list(examples), sentences, (pictures @ texts.T).tolist())

    return compare


def parts(text: str, sign: str) -> list[str]:
    """What stands between signs, without blanks around it; nothing for nothing."""
    return [part.strip() for part in text.split(sign) if part.strip()]


def matrix(names: Sequence[str], prompts: Sequence[str], cosines: Sequence[Any]) -> str:
    """Numbers of pictures (rows) against prompts, on a ground as strong as each is in its row."""
    head = "".join(f'<th scope="col">{escape(prompt)}</th>' for prompt in prompts)
    body = ""
    for name, row in zip(names, cosines, strict=True):
        least, most = min(row), max(row)
        cells = ""
        for value in row:
            share = round(100 * (value - least) / ((most - least) or 1))
            mark = "● " if value == most else ""
            kind = f'class="zoo-for" style="--share: {share}%"'
            cells += f"<td><span {kind}>{mark}{value:.3f}</span></td>"
        body += f'<tr><th scope="row">{escape(name)}</th>{cells}</tr>'
    caption = "Cosines of drawings and prompts"
    return (
        f'<div class="zoo-table" role="region" tabindex="0" aria-label="{caption}" '
        f'style="overflow-x: auto"><table><caption>{caption}</caption>'
        f'<thead><tr><th scope="col">Drawing</th>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
