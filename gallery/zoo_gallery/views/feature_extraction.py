"""Try a model that makes a vector of a text: cosines of several texts, and what is near what."""

from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
import torch

from zoo import Card
from zoo.errors import InputError
from zoo_gallery import markup
from zoo_gallery.snippets import endpoint, example, reference
from zoo_gallery.state import COMPUTE, Gallery
from zoo_gallery.views import check_count, check_length, parts, telling, warned

LINES = (
    "A man plays a guitar.",
    "Someone makes music.",
    "The bank raised its rates.",
    "Interest went up again.",
)
WHAT = (
    "The cosine of each text with each other: 1 for the same direction, 0 for nothing in common. "
    "● is the nearest other text of a row."
)


def view(gallery: Gallery, card: Card) -> None:
    """Build the tab: texts, one a line, those nearest to the first, and the cosines of all."""
    start = "\n".join([*parts(example(card) or ""), *LINES])
    with gr.Row(elem_classes="zoo-try"):
        with gr.Column(scale=3, min_width=280):
            texts = gr.Textbox(start, label="Texts", info="One a line", lines=6, max_lines=24)
            with gr.Row():
                ask = gr.Button("Compare", variant="primary", min_width=80)
                restore = gr.Button("Example", min_width=80)
        with gr.Column(scale=2, min_width=280):
            near = gr.HTML("")
    every = gr.HTML("")
    embed = embedder(gallery, card)

    def show(
        texts: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio asks for it
    ) -> tuple[str, str]:
        with telling():
            if len(parts(texts)) == 1:
                raise InputError("There is one text alone: give two at least, one a line")
        found = embed(texts, progress)
        return nearest(found), matrix(found)

    ask.click(
        show,
        texts,
        [near, every],
        concurrency_id=COMPUTE,
        trigger_mode="once",
        api_visibility="private",
    )
    restore.click(lambda: start, None, texts, queue=False, api_visibility="private")

    def run(texts: str) -> dict[str, Any]:
        """The vector of each text, one a line, of length 1, and the cosines of all with all."""
        return embed(texts)

    gr.api(run, api_name=endpoint(card, "run"), concurrency_id=COMPUTE)


def embedder(gallery: Gallery, card: Card) -> Callable[..., dict[str, Any]]:
    """The function that gives the `texts` of some lines, their `vectors` and their `cosines`."""
    name = reference(card)

    def embed(texts: str, progress: Callable[..., Any] | None = None) -> dict[str, Any]:
        with telling():
            check_length(texts, gallery.limits.prompt_characters)
            lines = parts(texts)
            if not lines:
                raise InputError("There are no texts: give one a line")
            check_count(len(lines), gallery.limits.texts, "texts")
            tell = (lambda line: progress(None, desc=line)) if progress else None
            model = gallery.models.get(name, tell)
            with warned():
                vectors = torch.stack(model(lines))  # (N, D)
            cosines = vectors @ vectors.T
            return {"texts": lines, "vectors": vectors.tolist(), "cosines": cosines.tolist()}

    return embed


def nearest(found: dict[str, Any]) -> str:
    """What the vectors are, and the other texts, those nearest to the first one first."""
    texts, cosines = found["texts"], found["cosines"][0]
    order = sorted(range(1, len(texts)), key=lambda place: -cosines[place])
    facts = {
        "A text is": f"{len(found['vectors'][0]):,} numbers, a vector of length 1",
        "Pooling": "the mean over its tokens",
    }
    rows = [[texts[place], f"{cosines[place]:.3f}"] for place in order]
    caption = f"Nearest to: {texts[0]}"
    return markup.facts(facts) + markup.table(caption, ["Text", "Cosine"], rows, texts=True)


def matrix(found: dict[str, Any]) -> str:
    """The cosines of all texts with all, on a ground as strong as they are."""
    texts: Sequence[str] = found["texts"]
    rows = []
    for place, (text, cosines) in enumerate(zip(texts, found["cosines"], strict=True)):
        others = [cosine for other, cosine in enumerate(cosines) if other != place]
        cells = [
            (
                f"{'● ' if n != place and cosine == max(others) else ''}{cosine:.3f}",
                max(cosine, 0.0),
            )
            for n, cosine in enumerate(cosines)
        ]
        rows.append((f"{place + 1} {text}", cells))
    titles = ["Text", *(str(place) for place in range(1, len(texts) + 1))]
    return markup.paragraph(WHAT) + markup.heat("Cosines of the texts", titles, rows)
