"""What `txzoo demo` shows: every bundled model answers, one shows what it looks at."""

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

import zoo
from zoo.conversation import asked
from zoo.data import PAIRED, PICTURED
from zoo.drawings import drawing
from zoo.errors import MissingExtraError, ZooError
from zoo.numbers import plural, short_bytes, short_count, with_error
from zoo.registry import registry, resolve

if TYPE_CHECKING:
    from zoo.model import Model

PROMPT = "The"  # for a card without an example
DRAWING = "ship"  # of the zoo's own
SIDE = 224  # pixels of a picture that a task draws
LINES = 4  # at most so many of what a model wrote
SAMPLING = {"temperature": 0.7, "top_p": 0.9, "seed": 1}


def run_demo(console: Console, picture: Path, command: str) -> bool:
    """Load every bundled model, let it answer its example, and say what to type next.

    Args:
        console: where it is shown.
        picture: where the attention map goes, in place of what is there.
        command: how to call this program.

    Returns:
        Whether there is a model and every one of them ran, those aside whose extra is not
        installed.
    """
    names = zoo.list_models(bundled=True)
    title = f"txzoo {zoo.__version__}: {plural(len(names), 'bundled model')}, no network needed"
    console.print(Text(title, style="bold"))
    started = time.monotonic()
    with console.status("Starting PyTorch"):
        import torch  # noqa: F401 - seconds, where the models themselves take none
    ready: list[Model] = []
    failed = 0
    for name in names:
        console.print()
        try:
            ready.append(show(console, name))
        except MissingExtraError as error:
            console.print(Padding(Text(str(error), style="yellow"), (0, 0, 0, 4), expand=False))
        except ZooError as error:
            failed += 1
            console.print(Text(f"{name}: {error}", style="red"))
    # at one text
    looking = [model for model in ready if model.pipeline not in (*PAIRED, *PICTURED)]
    if looking:
        console.print()
        draw(console, looking[0], picture)
    seconds = f"{time.monotonic() - started:.0f} s"
    console.print(Text(f"{plural(len(ready), 'model')} ran in {seconds}.", style="dim"))
    console.print()
    what_next(console, ready, command)
    return bool(ready) and not failed


def show(console: Console, name: str) -> "Model":
    """Show a model's size, its headline score, and its answer to its example."""
    card = registry().models.get(name)
    size = f"{short_count(card.parameters)} parameters"
    weights = short_bytes(sum(record.bytes for record in card.files.values()))
    console.print(Text.assemble((name, "bold cyan"), f"  {size}, {weights}"))
    if card.summary:
        console.print(Padding(Text(card.summary, style="dim"), (0, 0, 0, 2), expand=False))
    if card.scores:
        score = card.scores[0]
        number = with_error(score.value, score.standard_error)
        line = Text.assemble(f"{score.name} ", (number, "green"), f" on {score.dataset}")
        console.print(Padding(line.append(f" {score.split}"), (0, 0, 0, 2), expand=False))
    model = zoo.load(name)
    if model.pipeline in PICTURED:  # no card could hold a picture
        given, behind = "a drawing", f" → {seen(model)}"
    else:
        given = example(model)
        behind = answer(model, given)
    text = Text.assemble((given, "bold"), re.sub(r"\s*\n\s*", "\n", behind))
    lines = text.wrap(console, console.width - 4)
    console.print(Padding(Text("\n").join(lines[:LINES]), (0, 0, 0, 4), expand=False))
    return model


def answer(model: "Model", prompt: str) -> str:
    """What stands behind the prompt: the text that goes on, the answer, the likely labels."""
    if model.pipeline in PAIRED:
        return f" → {model(prompt, num_beams=4)}"
    if model.pipeline == "text-generation":
        given = asked(model, prompt)
        said = str(model(given, return_full_text=False, **SAMPLING)).rstrip()
        return said if given is prompt else f" → {said}"
    if model.pipeline == "fill-mask":
        guesses = model(prompt, top_k=2)
        return f"  {likely([{'label': one['token_str'], **one} for one in guesses])}"
    found = model(prompt, top_k=2) if model.pipeline == "text-classification" else []
    return f"  {likely(found)}".rstrip()


def seen(model: "Model") -> str:
    """What a model says of a drawing: its task's own, which it has not learned from, or ours."""
    assert model.card is not None  # a loaded model has one
    tasks, picture = registry().tasks, drawing(DRAWING)
    if model.card.task in tasks.names():
        task = resolve(tasks.get(model.card.task).target)()
        if getattr(task, "drawn", False):
            picture = task.drawing("test", 0, SIDE)
    if model.pipeline == "image-to-text":
        return str(model(picture, num_beams=4))
    if model.pipeline == "image-classification":
        return likely(model(picture, top_k=2))
    labels = [label.strip() for label in (model.card.example or "").split(",") if label.strip()]
    return likely(model(picture, labels=labels or [DRAWING])[:2])


def likely(found: "list[dict[str, Any]]") -> str:
    """Labels with their probabilities."""
    return "  ".join(f"{entry['label']} {entry['score']:.2f}" for entry in found)


def example(model: "Model") -> str:
    """What its card gives to try a model with; of one that reads pictures a file's name."""
    assert model.card is not None  # a loaded model has one
    if model.pipeline in PICTURED:
        return "picture.png"
    return model.card.example or PROMPT


def draw(console: Console, model: "Model", picture: Path) -> None:
    """Draw what a model looks at in its example, where matplotlib is installed."""
    from zoo.attention import draw as paint
    from zoo.attention import token_labels
    from zoo.pipelines import tokenizer_of

    text = example(model)
    labels = token_labels(tokenizer_of(model), text)
    try:
        paint(model.attention(text), labels, picture, title=f"{model.name}: {text}")
    except MissingExtraError as error:
        console.print(Text(f"No attention picture: {error}", style="yellow"))
    else:
        line = Text.assemble("Who looks at whom in ", (model.name, "cyan"), f": {picture}")
        console.print(line, soft_wrap=True)


def what_next(console: Console, models: "list[Model]", command: str) -> None:
    """Print commands to go on with."""
    console.print(Text("What to type next", style="bold"))
    if models:
        first = models[0].name
        lines = {
            f'{command} run {first} "{example(models[0])}"': "let it write",
            f"{command} info {first}": "its card",
            f"{command} list --sort parameters": "all models",
            f"{command} verify {models[-1].name}": "recompute its card",
        }
    else:
        lines = {f"{command} doctor": "what is wrong here"}
    width = max(map(len, lines))
    for line, meaning in lines.items():
        console.print(
            Text.assemble("  ", (line.ljust(width), "cyan"), (f"  {meaning}", "dim")),
            soft_wrap=True,
        )
