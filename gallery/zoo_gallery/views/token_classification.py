"""Try a model that gives each token a label: the text with its spans, and every token's numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import gradio as gr

from zoo import Card
from zoo.charts import INK, STYLES
from zoo.numbers import plural
from zoo_gallery import markup
from zoo_gallery.snippets import endpoint, example, reference
from zoo_gallery.state import COMPUTE, Gallery
from zoo_gallery.views import check_length, telling, warned

HUES = [style["color"] for style in STYLES if style["color"] != INK]
OUTSIDE = "O"  # the label of what is none, as CoNLL's data call it


@dataclass(frozen=True)
class Span:
    """A part of a text.

    Attributes:
        label: its tokens', without `B-` or `I-`.
        score: the mean of its tokens' probabilities.
        start: its first character.
        end: the one behind its last.
    """

    label: str
    score: float
    start: int
    end: int


def view(gallery: Gallery, card: Card) -> None:
    """Build the tab: a text, the text with its spans, a legend, and each token in a table."""
    start = example(card) or ""
    text = gr.Textbox(start, label="Text", lines=4, max_lines=12)
    with gr.Row():
        ask = gr.Button("Label", variant="primary", min_width=80)
        restore = gr.Button("Example", min_width=80)
    drawn = gr.HTML("")
    with gr.Accordion("The tokens as a table", open=False):
        numbers = gr.HTML("")
    look = labeller(gallery, card)

    def show(
        text: str,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 - how Gradio asks for it
    ) -> tuple[str, str]:
        tokens = look(text, progress)
        labels = gallery.models.get(reference(card)).config.labels
        return shown(text, tokens, labels), table(tokens)

    gr.on(
        [ask.click, text.submit],
        show,
        text,
        [drawn, numbers],
        concurrency_id=COMPUTE,
        trigger_mode="once",
        api_visibility="private",
    )
    restore.click(lambda: start, None, text, queue=False, api_visibility="private")

    def run(text: str) -> list[dict[str, Any]]:
        """The label of each token of a text, its probability, and where it starts and ends."""
        return look(text)

    gr.api(run, api_name=endpoint(card, "run"), concurrency_id=COMPUTE)


def labeller(gallery: Gallery, card: Card) -> Callable[..., list[dict[str, Any]]]:
    """The function that gives the labels of a text's tokens, as a call of the model does."""
    name = reference(card)

    def look(text: str, progress: Callable[..., Any] | None = None) -> list[dict[str, Any]]:
        with telling():
            check_length(text, gallery.limits.prompt_characters)
            tell = (lambda line: progress(None, desc=line)) if progress else None
            model = gallery.models.get(name, tell)
            with warned():
                found: list[dict[str, Any]] = model(text)
            return found

    return look


def spans_of(tokens: Sequence[Mapping[str, Any]]) -> list[Span]:
    """Neighbours of one label taken together; `B-` begins a new span, `O` is in none.

    As `transformers` takes them together with `aggregation_strategy="simple"`.
    """
    groups: list[tuple[str, list[Mapping[str, Any]]]] = []
    for token in tokens:
        label = kind_of(token["entity"])
        if groups and groups[-1][0] == label and not token["entity"].startswith("B-"):
            groups[-1][1].append(token)
        else:
            groups.append((label, [token]))
    return [
        Span(label, sum(t["score"] for t in of) / len(of), of[0]["start"], of[-1]["end"])
        for label, of in groups
        if label != OUTSIDE
    ]


def kind_of(label: str) -> str:
    """A label without `B-` or `I-`."""
    return label[2:] if label.startswith(("B-", "I-")) else label


def shown(text: str, tokens: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> str:
    """The text with its spans on grounds of their labels' colours, and what these are below it.

    What the model did not read, because the text is too long for it, is pale and italic.

    Args:
        text: all of it.
        tokens: as the model gives them.
        labels: all that the model has; a label's colour is the same in each text.
    """
    found = spans_of(tokens)
    kinds = [kind for kind in dict.fromkeys(map(kind_of, labels)) if kind != OUTSIDE]
    hues = {kind: HUES[place % len(HUES)] for place, kind in enumerate(kinds)}
    pieces, place = [], 0
    for span in found:
        first = max(span.start, place)  # a letter of several bytes may be in two tokens
        pieces += [
            escape(text[place:first]),
            _ground(hues[span.label], text[first : span.end]),
            f'<small class="zoo-label">{escape(span.label)} {span.score:.0%}</small>',
        ]
        place = max(place, span.end)
    read = max((token["end"] for token in tokens), default=0)
    pieces.append(escape(text[place:read]))
    legend = [
        f"<li>{_ground(hues[label], label)} {plural(count, 'span')}</li>"
        for label in kinds
        if (count := sum(span.label == label for span in found))
    ]
    if text[read:].strip():
        pieces.append(f'<span class="zoo-unread">{escape(text[read:])}</span>')
        legend.append('<li><span class="zoo-unread">Italic</span> was not read</li>')
    nothing = (
        "" if found else markup.note(f"Every token has the label {OUTSIDE}: there is no span.")
    )
    body = f'<div class="zoo-words" role="group" aria-label="Spans">{"".join(pieces)}</div>'
    return f'{nothing}{body}<ul class="zoo-legend" aria-label="Legend">{"".join(legend)}</ul>'


def _ground(hue: str, text: str) -> str:
    return f'<mark style="--hue: {hue}">{escape(text)}</mark>'


def table(tokens: Sequence[Mapping[str, Any]]) -> str:
    """Each token, its label and the probability of that."""
    rows = [[token["word"], token["entity"], f"{token['score']:.3f}"] for token in tokens]
    return markup.table("Tokens", ["Token", "Label", "Probability"], rows)
