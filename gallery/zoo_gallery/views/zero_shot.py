"""Try a model of pictures and texts: labels in words, pictures by a text, texts by a picture."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
import torch
from PIL import Image
from torch import Tensor

from zoo import Card
from zoo.drawings import DRAWN
from zoo.errors import InputError
from zoo.images import SUFFIXES, open_picture
from zoo_gallery import markup
from zoo_gallery.snippets import endpoint, example_labels, reference
from zoo_gallery.state import COMPUTE, Gallery
from zoo_gallery.views import check_count, check_length, parts, telling, warned
from zoo_gallery.views.image_classification import ROLLOUT, look_at
from zoo_gallery.views.pictures import DRAWINGS, drawn_by, figure, picture_input, require

TEMPLATES = "a photo of a {}\na drawing of a {}"
WHAT = (
    "The cosine of each picture with each text. ● is the best text of a picture, ▲ the best "
    "picture of a text. A text is a whole sentence: try the same thing in other words."
)
BEST = 3  # texts of each picture that are listed
THUMBNAIL = 112  # pixels a side at most

Made = Mapping[str, Callable[[], Image.Image]]
Ranked = tuple[str, Image.Image, float]  # a picture's name, the picture itself, small, its cosine


def view(gallery: Gallery, card: Card) -> None:
    """Build the tabs: a picture and labels, their bars; pictures and texts, what fits what."""
    examples = drawings(gallery)
    with gr.Tabs():
        with gr.Tab("Classify", id="classify"):
            classify_tab(gallery, card, examples)
        with gr.Tab("Search", id="search"):
            search_tab(gallery, card, examples)


def classify_tab(gallery: Gallery, card: Card, examples: Made) -> None:
    """Build the tab: a picture, labels and templates, their bars, what was looked at."""
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


def search_tab(gallery: Gallery, card: Card, examples: Made) -> None:
    """Build the tab: pictures ranked by a text, texts by each picture, and all cosines."""
    sentences = [f"a drawing of a {name}" for name in example_labels(card)]
    with gr.Row(elem_classes="zoo-try"):
        with gr.Column(scale=3, min_width=280):
            # not `gr.Files`: it puts buttons into a button, which readers cannot take
            files = gr.UploadButton(
                "Upload pictures", file_count="multiple", file_types=list(SUFFIXES), min_width=80
            )
            restore = gr.Button("Take the drawings", min_width=80)
            chosen = gr.HTML(chosen_of(None))
        with gr.Column(scale=2, min_width=280):
            query = gr.Textbox(sentences[0], label="What to look for", max_lines=1)
            search = gr.Button("Search", variant="primary", min_width=80)
            texts = gr.Textbox("\n".join(sentences), label="Texts", info="One a line", lines=4)
            compare = gr.Button("Compare", min_width=80)
    ranked, table = gr.HTML(""), gr.HTML("")
    files.upload(chosen_of, files, chosen, queue=False, api_visibility="private")
    restore.click(
        lambda: (None, chosen_of(None)),
        None,
        [files, chosen],
        queue=False,
        api_visibility="private",
    )
    look = searcher(gallery, card, examples)
    gr.on(
        [search.click, query.submit],
        lambda files, query: shown(look(files, query)),
        [files, query],
        ranked,
        concurrency_id=COMPUTE,
        trigger_mode="once",
        api_visibility="private",
    )
    compare.click(
        comparer(gallery, card, examples),
        [files, texts],
        table,
        concurrency_id=COMPUTE,
        trigger_mode="once",
        api_visibility="private",
    )
    program, found = gr.Button(visible=False), gr.JSON(visible=False)
    program.click(
        lambda files, query: [
            {"picture": name, "similarity": cosine} for name, _, cosine in look(files, query)
        ],
        [files, query],
        found,
        api_name=endpoint(card, "search"),
        api_description="The cosine of each picture with a text, the best picture first.",
        concurrency_id=COMPUTE,
    )


def drawings(gallery: Gallery) -> Made:
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
                    templates=parts(templates),
                    negative_labels=parts(negative_labels, ","),
                )
            rows = [[one["label"], f"{one['similarity']:.3f}"] for one in found]
            table = markup.table("Cosines, highest first", ["Label", "Cosine"], rows)
            return {one["label"]: one["score"] for one in found}, table

    return classify


def chosen_of(files: Sequence[str] | None) -> str:
    """A line that says what is searched."""
    names = ", ".join(Path(file).name for file in files or ()) or "the drawings, until you upload"
    return markup.status(f"Searched: {names}")


def searcher(gallery: Gallery, card: Card, examples: Made) -> Callable[..., list[Ranked]]:
    """The function behind the Search button of one model: pictures, the best one first."""
    name = reference(card)

    def search(files: Sequence[str] | None, query: str) -> list[Ranked]:
        with telling():
            check_length(query, gallery.limits.prompt_characters)
            if not query.strip():
                raise InputError("There is nothing to look for: say it in words")
            called = gallery.models.get(name).called
            with warned():
                text = called.classifier([[query]], ["{}"])[0]  # (D,)
            names, images, vectors = read(gallery, called, files, examples)
            found = zip(names, images, (vectors @ text).tolist(), strict=True)
            return sorted(found, key=lambda one: -one[2])

    return search


def comparer(gallery: Gallery, card: Card, examples: Made) -> Callable[..., str]:
    """The function behind the Compare button of one model: all cosines, and the best texts."""
    name = reference(card)

    def compare(files: Sequence[str] | None, texts: str) -> str:
        with telling():
            check_length(texts, gallery.limits.prompt_characters)
            sentences = parts(texts)
            if not sentences:
                raise InputError("There are no texts: give one a line")
            check_count(len(sentences), gallery.limits.texts, "texts")
            called = gallery.models.get(name).called
            with warned():
                vectors = called.classifier([[one] for one in sentences], ["{}"])  # (L, D)
            names, _, pictures = read(gallery, called, files, examples)
            cosines = (pictures @ vectors.T).tolist()
            return matrix(names, sentences, cosines) + best_texts(names, sentences, cosines)

    return compare


def read(
    gallery: Gallery, called: Any, files: Sequence[str] | None, examples: Made
) -> tuple[list[str], list[Image.Image], Tensor]:
    """Names of what was uploaded, of the drawings if nothing was; small pictures; vectors (N, D).

    One is read after the other: decoded, each may take 300 megabytes.

    Raises:
        InputError: there are too many, or one cannot be read.
    """
    check_count(len(files or ()), gallery.limits.pictures, "pictures")
    given: list[tuple[str, Callable[[], Image.Image]]] = [
        (Path(file).name, partial(open_picture, file)) for file in files or ()
    ]
    names, images, vectors = [], [], []
    for name, make in given or examples.items():
        image = make()
        vectors.append(called.embed_pictures([image])[0])
        image.thumbnail((THUMBNAIL, THUMBNAIL))
        names.append(name)
        images.append(image)
    return names, images, torch.stack(vectors)


def shown(ranked: Sequence[Ranked]) -> str:
    """Pictures in their order, each with its name and cosine."""
    figures = (
        figure(image, name, f"{place}. {name}: {cosine:.3f}")
        for place, (name, image, cosine) in enumerate(ranked, start=1)
    )
    return (
        f'<div class="zoo-seens" role="group" aria-label="Pictures found">{"".join(figures)}</div>'
    )


def matrix(
    names: Sequence[str], sentences: Sequence[str], cosines: Sequence[Sequence[float]]
) -> str:
    """Cosines of pictures (rows) and texts, on a ground as strong as each is in its row."""
    tops = [max(column) for column in zip(*cosines, strict=True)]
    rows = []
    for name, row in zip(names, cosines, strict=True):
        least, most = min(row), max(row)
        cells = [
            (
                "● " * (value == most) + "▲ " * (value == top) + f"{value:.3f}",
                (value - least) / ((most - least) or 1),
            )
            for value, top in zip(row, tops, strict=True)
        ]
        rows.append((name, cells))
    titles = ["Picture", *sentences]
    return markup.paragraph(WHAT) + markup.heat("Cosines of pictures and texts", titles, rows)


def best_texts(
    names: Sequence[str], sentences: Sequence[str], cosines: Sequence[Sequence[float]]
) -> str:
    """The texts that fit each picture best, with their cosines."""
    rows = []
    for name, row in zip(names, cosines, strict=True):
        order = sorted(range(len(row)), key=lambda place: -row[place])[:BEST]
        rows.append([name, *(f"{sentences[place]} ({row[place]:.3f})" for place in order)])
    titles = ["Picture", *("Best text", "Second", "Third")[: len(sentences)]]
    return markup.table("The best texts of each picture", titles, rows)
