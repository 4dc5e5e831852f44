"""The tabs that show what is written down: how a model was trained, its card, how to use it."""

import json
from collections.abc import Mapping
from typing import Any

import gradio as gr

from zoo import Card
from zoo.charts import losses, read_curve, svg, training_curve, validations
from zoo.errors import ZooError
from zoo.folder import RECIPE
from zoo.numbers import short_bytes, short_count, spelled, titled, with_error
from zoo.testing import last_record
from zoo_gallery import markup
from zoo_gallery.snippets import (
    elsewhere_snippet,
    http_snippet,
    python_snippet,
    shell_snippet,
)
from zoo_gallery.state import Gallery

ROWS = 20  # of a curve that are written out
LOCAL = "http://127.0.0.1:7860"  # stands in the snippet until the page knows where it is


def training_tab(card: Card, tab: gr.Tab) -> None:
    """Build the Training tab; the curve is drawn when it is opened."""
    if card.training:
        gr.HTML(markup.facts({titled(key): fact(value) for key, value in card.training.items()}))
    curve = gr.HTML()
    with gr.Accordion("The numbers as a table", open=False):
        numbers = gr.HTML()
    tab.select(
        lambda: curve_and_table(card), None, [curve, numbers], api_visibility="private",
        show_progress="minimal",
    )  # fmt: skip
    recipe = card.folder / RECIPE
    if recipe.is_file():
        with gr.Accordion("The recipe", open=False):
            gr.HTML(markup.code(recipe.read_text(encoding="utf-8", errors="replace"), "Recipe"))


def curve_and_table(card: Card) -> tuple[str, str]:
    """The drawn curve, and its numbers; a note in its place when there is none."""
    try:
        rows = read_curve(card.folder)
        if not losses(rows):
            return markup.note("No training log lies beside this card, so there is no curve."), ""
        drawing = svg(training_curve(rows), f"Training of {card.name}: loss over steps")
        return markup.figure(drawing), curve_table(card, rows)
    except ZooError as error:
        return markup.error(str(error)), ""


def curve_table(card: Card, rows: list[dict[str, Any]]) -> str:
    """Some lines of a curve, evenly spaced, and every validation."""
    curve = dict(losses(rows))
    metric, points = validations(rows)
    measured = {step: with_error(value, error) for step, value, error in points}
    steps = sorted(curve)
    chosen = {steps[(len(steps) - 1) * n // (ROWS - 1)] for n in range(ROWS)} | set(measured)
    titles = ["Step", "Training loss (nats)", *([f"Validation {metric}"] if metric else [])]
    lines = []
    for step in sorted(chosen):
        loss = f"{curve[step]:.3f}" if step in curve else ""
        lines.append([str(step), loss, *([measured.get(step, "")] if metric else [])])
    return markup.table(f"Training of {card.name}", titles, lines)


def card_tab(gallery: Gallery, card: Card) -> None:
    """Build the Card tab: front matter as facts, scores as a table, the prose as it is."""
    gr.HTML(markup.facts({**card_facts(card), **plugin_facts(gallery, card)}))
    if card.scores:
        gr.HTML(scores_table(card))
    gr.HTML(markup.prose(card.text))


def card_facts(card: Card) -> Mapping[str, str]:
    """What the front matter says, in words."""
    size = sum(record.bytes for record in card.files.values())
    return {
        "Pipeline": card.pipeline,
        "Architecture": card.architecture,
        "Task": card.task or "",
        "Parameters": short_count(card.parameters),
        "Licence": card.license,
        "Data": ", ".join(card.datasets),
        "Made from": ", ".join(card.base_models),
        "Needs": ", ".join(f"{name}{versions}" for name, versions in card.requires.items()),
        "Files": f"{len(card.files)}, {short_bytes(size)}" if card.files else "",
        "On the Hub": f"{card.hub.repo} at {card.hub.revision[:12]}" if card.hub else "",
    }


def plugin_facts(gallery: Gallery, card: Card) -> Mapping[str, str]:
    """The plugin that brings a model, and what the conformance kit found in it here last."""
    names = [name for name, other in gallery.registry.models.items() if other.path == card.path]
    if not names:
        return {}
    plugin = gallery.registry.models.owner(names[0])
    found = str(last_record(plugin) or f"not checked here: txzoo check-plugin {plugin.name}")
    return {"Plugin": f"{plugin.name} {plugin.version}", "Conformance": found}


def scores_table(card: Card) -> str:
    """Every score of the card, with its standard error."""
    title, cells = card.baselines()
    rows = [
        [
            spelled(score.name),
            with_error(score.value, score.standard_error),
            " ".join(filter(None, (score.dataset, score.split))),
            *cell,
        ]
        for score, cell in zip(card.scores, cells, strict=True)
    ]
    titles = ["Score", "Value ± standard error", "Measured on", *title]
    return markup.table(f"Scores of {card.name}", titles, rows)


def use_tab(gallery: Gallery, card: Card, tab: gr.Tab) -> None:
    """Build the Use it tab: code for Python, shell and HTTP, each as it runs, and for elsewhere."""
    snippet("Python", python_snippet(card))
    snippet("Shell", shell_snippet(card))
    if card.trained and card.base is None:
        # what writes a layout takes seconds to import: not before somebody looks
        box = snippet("Elsewhere", f"txzoo info {card.name}")
        tab.select(lambda: elsewhere_snippet(card).rstrip(), None, box, api_visibility="private")
    if card.pipeline not in gallery.registry.views.names():
        return
    code = http_snippet(card, LOCAL)
    asked = snippet("HTTP", code)
    # only the browser knows the address; pages lie side by side below the root
    js = f"() => {json.dumps(code)}.replace({json.dumps(LOCAL)}, " + (
        "location.origin + location.pathname.replace(/\\/[^/]*$/, ''))"
    )
    tab.select(None, None, asked, js=js, api_visibility="private")


def snippet(label: str, code: str, lines: int = 1) -> gr.Textbox:
    """A piece of code with a button that copies it, at least `lines` high.

    Not `gr.Code`: what that scrolls is out of a keyboard's reach, and its colours are too pale.
    Not a text box's own copy button: it takes the label away from the text.
    """
    with gr.Group():
        box = gr.Textbox(
            code.removesuffix("\n"), label=label, lines=lines, max_lines=20, interactive=False,
            elem_classes="zoo-snippet",
        )  # fmt: skip
        copy = gr.Button(f"Copy {label}", size="sm")
    copy.click(None, box, None, js="text => navigator.clipboard.writeText(text)")
    return box


def fact(value: object) -> str:
    """A value of front matter as people write it."""
    return f"{value:,}" if isinstance(value, int) else str(value)
