"""How to use a model, as code that runs: for the gallery's pages and the documentation."""

import shlex
from collections.abc import Mapping

from zoo import Card, conversation
from zoo.conversation import messages_of
from zoo.data import PAIRED, PICTURED
from zoo.errors import MissingExtraError, ZooError
from zoo.export import FORMATS as EXPORTED
from zoo.export import format_of
from zoo.registry import registry, resolve

PROMPT = "The"  # for a text model whose card has no example
PICTURE = "picture.png"  # a visitor's own
LABELS = ("cat", "dog")  # for a model that is told labels
TOLD = "zero-shot-image-classification"
FORMATS = [name for name in EXPORTED if not name.endswith(("int4", "dynamic-int8"))]
SAMPLING: Mapping[str, Mapping[str, float | int]] = {
    "text-generation": {"temperature": 0.8, "top_p": 0.9, "seed": 1},
    "image-classification": {"top_k": 3},
}  # a pipeline's options that are worth showing


def python_snippet(card: Card) -> str:
    """A Python script that loads the model and calls it with the example of its card."""
    lines = ["import zoo", "", f"model = zoo.load({literal(reference(card))})"]
    if (text := example(card)) is not None:
        arguments = [str(messages_of(text)) if answers(card) else literal(text)]
        arguments += [f"{name}={value}" for name, value in SAMPLING.get(card.pipeline, {}).items()]
        if card.pipeline == TOLD:
            arguments.append(f"labels=[{', '.join(map(literal, example_labels(card)))}]")
        lines.append(f"print(model({', '.join(arguments)}))")
    return "\n".join([*lines, ""])


def shell_snippet(card: Card) -> str:
    """A line for a shell that does the same."""
    name = reference(card)
    if (text := example(card)) is None:
        return f"txzoo info {shlex.quote(name)}\n"
    words = ["txzoo", "run", name]
    for option, value in SAMPLING.get(card.pipeline, {}).items():
        words += [f"--{option.replace('_', '-')}", str(value)]
    words += ["--labels", ",".join(example_labels(card))] if card.pipeline == TOLD else []
    words += ["--", text] if text.startswith("-") else [text]
    return shlex.join(words) + "\n"


def elsewhere_snippet(card: Card) -> str:
    """Lines for a shell that serve the model, time it, and write it for other projects."""
    from zoo.cli.serve import SERVED

    name = shlex.quote(reference(card))
    lines = [f"txzoo serve {name}"] if card.pipeline in SERVED else []
    lines += [f"txzoo bench {name}", f"txzoo quantize {name}"]
    return "\n".join([*lines, *(line.format(name=name) for line in exports(card)), ""])


def exports(card: Card) -> list[str]:
    """A line for a shell for each layout that can hold the model; `{name}` stands for it."""
    architecture = resolve(registry().architectures.get(card.architecture).target)
    lines = []
    for format in FORMATS:
        try:
            writer = format_of(format)
            writer.require(card.name, architecture)
            writer.look(card.name, architecture, card.folder)
        except MissingExtraError:  # the command says what to install
            pass
        except ZooError:
            continue
        lines.append(f"txzoo export {{name}} --format {format} --out exported-{format}")
    return lines


def http_snippet(card: Card, url: str) -> str:
    """A Python script that asks a running gallery.

    Args:
        card: of the model.
        url: where the gallery answers.
    """
    shown = card.pipeline in PICTURED
    names = "Client, handle_file" if shown else "Client"
    lines = [f"from gradio_client import {names}", "", f"client = Client({literal(url)})"]
    if (text := example(card)) is None:
        lines.append("client.view_api()")
    else:
        given = f"handle_file({literal(text)})" if shown else literal(text)
        given += f", {literal(', '.join(example_labels(card)))}" if card.pipeline == TOLD else ""
        call = f"client.predict({given}, api_name={literal('/' + endpoint(card, 'run'))})"
        several = card.pipeline in (*PAIRED, "image-to-text", TOLD)
        answer = "[0]" if several else ""  # the table of all answers comes second
        lines.append(f"print({call}{answer})")
    return "\n".join([*lines, ""])


def reference(card: Card) -> str:
    """What `zoo.load` finds the model by: its name, `distribution:name` where two clash.

    One that is not registered is found by its folder.
    """
    for name, other in registry().models.items():
        if other.path == card.path:
            return name
    return str(card.folder)


def slug(card: Card) -> str:
    """The model's name as it stands in addresses: a colon would not be one's own there."""
    return card.name if (name := reference(card)) == str(card.folder) else name.replace(":", "_")


def endpoint(card: Card, action: str) -> str:
    """Name of one of the model's endpoints, the same from start to start.

    Every view calls its main one `run`, as the command does.
    """
    return f"{slug(card)}_{action}"


def example(card: Card) -> str | None:
    """An input to try the model with; None when the card has none and none can be guessed.

    That of a model which reads pictures is a file.
    """
    if card.pipeline in PICTURED:
        return PICTURE
    return card.example or (PROMPT if card.pipeline == "text-generation" else None)


def example_labels(card: Card) -> list[str]:
    """Labels to try a model with that is told them: the example of its card, commas between."""
    found = [label.strip() for label in (card.example or "").split(",") if label.strip()]
    return found or list(LABELS)


def answers(card: Card) -> bool:
    """Whether the model has learned to answer messages."""
    return card.pipeline == "text-generation" and conversation.read(card.folder) is not None


def literal(text: str) -> str:
    """A text as it stands in Python code, between double quotes where that needs no escape."""
    return repr(text) if '"' in text else '"' + repr("'" + text)[2:]
