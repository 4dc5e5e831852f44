"""The page that puts models side by side: on one prompt, and beyond their training length."""

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import gradio as gr

from zoo import Card, Model
from zoo.charts import Point, lengths, lengths_of, svg, trained_length
from zoo.conversation import asked
from zoo.data import PAIRED
from zoo.errors import InputError, ZooError
from zoo.evaluation.compare import compare as measure
from zoo.evaluation.study import find_study, studies
from zoo.folder import CONFIG, read_config
from zoo.generation import GenerationOptions, stream
from zoo.numbers import titled, with_error
from zoo.pipelines.text_generation import Pieces, Writing
from zoo_gallery.markup import figure, heading, listed, paragraph, table
from zoo_gallery.snippets import reference
from zoo_gallery.state import COMPUTE, Gallery
from zoo_gallery.views import check_length, paced, telling, warned

MOST = 4  # columns that can be read beside each other
CHOSEN = 3  # at first
METRIC = "perplexity per word"
WRITERS = ("text-generation", *PAIRED)  # pipelines whose models write


@dataclass
class Column:
    """One model's answer while it is written.

    Attributes:
        name: the model.
        text: what it has written.
        tokens: how many.
        seconds: how long it computed, without the time the others took.
        state: what stands beside the name while there is nothing to count.
    """

    name: str
    text: str = ""
    tokens: int = 0
    seconds: float = 0.0
    state: str = "waiting"

    @property
    def label(self) -> str:
        """Model, tokens, time and speed."""
        if not self.tokens:
            return f"{self.name} · {self.state}"
        rate = f"{self.tokens / self.seconds:.0f} tokens/s"
        return f"{self.name} · {self.tokens} tokens in {self.seconds:.2f} s · {rate}"

    def fail(self, error: Exception) -> None:
        """Say why there is no answer, or no more of it."""
        self.state, self.tokens, self.text = "no answer", 0, str(error)


def page(gallery: Gallery) -> None:
    """Build the page in the current Blocks."""
    cards = [card for card in gallery.cards if card.pipeline in WRITERS and card.trained]
    said = (
        f"Up to {MOST} models write in turn, a token each, with the same settings and the same "
        "seed. The time is each model's own."
        if cards
        else "No installed model generates text, so there is nothing to compare."
    )
    summary = "One prompt through several models, and how far each can read."
    gr.HTML(heading("Compare", summary) + paragraph(said))
    if cards:
        _prompt_part(gallery, cards)
    gr.HTML(f"<h2>Beyond the training length</h2>{lengths_part(gallery.cards)}")
    gr.HTML(f"<h2>Ways of adapting</h2>{studies_part()}")


def _prompt_part(gallery: Gallery, cards: Sequence[Card]) -> None:
    limits = gallery.limits
    ((task, _),) = Counter(card.task for card in cards).most_common(1)
    chosen = [card for card in cards if card.task == task][:CHOSEN]
    names = gr.CheckboxGroup(
        [reference(card) for card in cards],
        value=[reference(card) for card in chosen],
        label="Models",
    )
    prompt = gr.Textbox(
        label="Prompt",
        value=next((card.example for card in chosen if card.example), "The"),
        lines=2,
        max_length=limits.prompt_characters,
    )
    with gr.Row():
        tokens = gr.Slider(
            1, limits.new_tokens, value=min(40, limits.new_tokens), step=1, label="New tokens"
        )
        temperature = gr.Slider(0, 2, value=0.8, step=0.05, label="Temperature")
        top_p = gr.Slider(0.05, 1, value=0.9, step=0.05, label="Top-p")
        seed = gr.Number(value=1, precision=0, label="Seed")
    with gr.Row():
        run = gr.Button("Compare", variant="primary")
        stop = gr.Button("Stop")
    with gr.Row():
        answers = [
            gr.Textbox(label=name, lines=8, interactive=False, visible=bool(name), min_width=220)
            for name in [*map(reference, chosen), *[""] * MOST][:MOST]
        ]

    def compare(*values: Any) -> Iterator[list[Any]]:
        with telling():
            for columns in compared(gallery, *values):
                yield [shown(column) for column in columns] + [hidden()] * (MOST - len(columns))

    writing = gr.on(
        [run.click, prompt.submit],
        compare,
        [names, prompt, tokens, temperature, top_p, seed],
        answers,
        concurrency_id=COMPUTE,
        show_progress="hidden",
        api_visibility="private",
    )
    stop.click(None, cancels=[writing], api_visibility="private")


def shown(column: Column) -> Any:
    """A column as it stands in the page."""
    return gr.Textbox(value=column.text, label=column.label, visible=True)


def hidden() -> Any:
    """A column that nobody needs."""
    return gr.Textbox(value="", visible=False)


def compared(
    gallery: Gallery,
    names: Sequence[str],
    prompt: str,
    tokens: float,
    temperature: float,
    top_p: float,
    seed: float,
) -> Iterator[list[Column]]:
    """All columns again and again, while the models write a token each in turns.

    Raises:
        InputError: no model or too many, a prompt too long, or settings out of range.
    """
    if not 1 <= len(names) <= MOST:
        raise InputError(f"Choose one to {MOST} models, not {len(names)}")
    check_length(prompt, gallery.limits.prompt_characters)
    options = GenerationOptions(
        max_new_tokens=max(1, min(int(tokens), gallery.limits.new_tokens)),
        temperature=temperature,
        top_p=top_p if temperature else None,
        seed=int(seed or 0),
    )
    columns = [Column(name) for name in names]
    writers: dict[str, Iterator[tuple[str, int]]] = {}
    for column in columns:
        column.state = "loading its weights"
        yield columns
        try:
            model = gallery.models.get(column.name)
            began = time.perf_counter()
            with warned():
                writers[column.name] = written(writing(model, prompt, options))
            column.seconds = time.perf_counter() - began
            column.state = "waiting"
        except ZooError as error:
            column.fail(error)
    yield from paced(_turns(columns, writers))


def _turns(
    columns: list[Column], writers: dict[str, Iterator[tuple[str, int]]]
) -> Iterator[list[Column]]:
    """Have the models write a token each, in turns, until the last of them has ended."""
    while writers:
        for column in columns:
            if column.name in writers and not _another(column, writers[column.name]):
                del writers[column.name]
        yield columns


def _another(column: Column, writer: Iterator[tuple[str, int]]) -> bool:
    """Have a model write its next token; whether there was one."""
    began = time.perf_counter()
    try:
        piece, count = next(writer)
    except StopIteration:
        return False
    except ZooError as error:
        column.fail(error)
        return False
    column.seconds += time.perf_counter() - began
    column.text += piece
    column.tokens += count
    return True


def written(parts: Sequence[tuple[Iterator[int], Writing]]) -> Iterator[tuple[str, int]]:
    """Pieces of text, each with how many tokens it took."""
    for number, (tokens, writing) in enumerate(parts):
        if number:
            yield " ", 0
        for token in tokens:
            yield writing.push(token), 1
            if writing.stopped:
                break
        if rest := writing.rest():
            yield rest, 0


def writing(
    model: Model, prompt: str, options: GenerationOptions
) -> list[tuple[Iterator[int], Writing]]:
    """The tokens as they are written, and what makes text of them; for each part of a source."""
    pipeline = model.called
    if model.pipeline in PAIRED:
        most = getattr(model.module, "max_len", None) or options.max_new_tokens or 1
        length = min(most, options.max_new_tokens or most)
        parts = pipeline.streams(prompt, replace(options, max_new_tokens=length))
        return [(tokens, Writing(pieces)) for tokens, pieces in parts]
    read = pipeline.read(asked(model, prompt))
    tokens = stream(pipeline.module, read.ids, options, end_id=read.end_id)
    return [(tokens, Writing(Pieces(pipeline.tokenizer, read.ids), read.stop))]


def lengths_part(cards: Sequence[Card]) -> str:
    """Chart and table for each task whose models' cards hold scores at several lengths."""
    parts = []
    for task in dict.fromkeys(card.task for card in cards):
        own = [card for card in cards if card.task == task]
        series = lengths_of(own, METRIC)
        measured = {name: points for name, points in series.items() if len(points) > 1}
        if measured:
            parts.append(_lengths_of_task(str(task), own, measured))
    return "".join(parts) or paragraph(
        "No card of an installed model holds scores at other lengths than the one it was trained "
        "on. txzoo eval NAME --context 512 measures one."
    )


def _lengths_of_task(task: str, cards: Sequence[Card], series: dict[str, list[Point]]) -> str:
    trained = {trained_length(card) for card in cards if card.name in series}
    length = trained.pop() if len(trained) == 1 else None
    title = f"{titled(METRIC)} on {task} over the number of tokens read at once"
    chart = svg(lengths(series, metric=METRIC, trained=length), title)
    contexts = sorted({context for points in series.values() for context, _, _ in points})
    rows = []
    for name, points in series.items():
        values = {context: with_error(value, error) for context, value, error in points}
        rows.append([name, *(values.get(context, "–") for context in contexts)])
    titles = ["Model", *(f"{context:,} tokens" for context in contexts)]
    others = [_why_not(card) for card in cards if card.name not in series]
    note = paragraph(f"Not measured at other lengths: {'; '.join(others)}.") if others else ""
    return figure(chart) + table(f"{title}, lower is better", titles, rows) + note


def _why_not(card: Card) -> str:
    """A model without such scores, and why it has none where its configuration tells."""
    if (card.folder / CONFIG).is_file() and read_config(card.folder).get("positions") == "learned":
        return f"{card.name} (its learned positions end at {trained_length(card)} tokens)"
    return card.name


def studies_part() -> str:
    """Charts and table of each study that has an outcome; of the others, how to run them."""
    parts, left = [], {}
    for name, plan in studies().items():
        try:
            found = find_study(plan)
            if not found.runs:
                left[name] = f"not run yet: txzoo compare --study {name} --out FOLDER"
                continue
            measured = measure(found)
            drawings = [
                svg(measured.figure(), f"{name}: score by trained parameters"),
                svg(measured.curves(), f"{name}: training loss of the first seed"),
            ]
        except ZooError as error:
            left[name] = str(error)
            continue
        said = f"{found.summary}. After ± stands the standard error of the mean over seeds."
        rows = table(measured.title, [titled(word) for word in measured.columns], measured.rows)
        parts.append(
            f"<h3>{escape(name)}</h3>{paragraph(said)}{''.join(map(figure, drawings))}{rows}"
        )
    return "".join(parts) + (listed(left) if left else "")
