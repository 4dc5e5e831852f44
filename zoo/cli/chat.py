"""The verb that talks: chat."""

import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli import output
from zoo.cli.options import adapter_option, device_option, engine_option, loaded
from zoo.errors import InputError, ZooError

if TYPE_CHECKING:
    from zoo.chat import Chat

HELP = """\
/retry         answer the last message again
/undo          take the last message and its answer back
/clear         forget everything but the system message
/save FILE     write the conversation as JSON
/load FILE     go on with one that was saved, and its settings
/set KEY=VALUE another setting: temperature, top_p, max_new_tokens, ...; KEY= takes it back
/history       show the conversation
/quit          leave, as Ctrl-D does; Ctrl-C ends an answer
"""


@click.command()
@click.argument("ref", metavar="NAME")
@click.option("--system", default="", metavar="TEXT", help="The system message.")
@click.option("--template", default="", metavar="NAME", help="alpaca or chatml; its own if none.")
@click.option("--window", type=int, metavar="N", help="Tokens that are read at once.")
@click.option("--load", "file", metavar="FILE", help="Go on with a conversation and its settings.")
@click.option("--max-new-tokens", type=int, metavar="N", help="Answer in so many tokens at most.")
@click.option("--temperature", type=float, metavar="T", help="Above 0, draw by chance.")
@click.option("--top-k", type=int, metavar="K", help="Draw among the K best tokens.")
@click.option("--top-p", type=float, metavar="P", help="Draw among the best that reach P.")
@click.option("--repetition-penalty", type=float, metavar="R", help="Above 1, repeat less.")
@click.option("--seed", type=int, help="Of the draws.")
@adapter_option
@engine_option
@device_option
def chat(
    ref: str,
    system: str,
    template: str,
    window: int | None,
    file: str | None,
    adapter: Path | None,
    engine: str | None,
    device: str | None,
    **options: Any,
) -> None:
    """Talk to a model in the terminal.

    Each line is a message; /help shows what else can be said. Without a terminal the lines of
    standard input are the messages.
    """
    from zoo.chat import Chat

    given = {name: value for name, value in options.items() if value is not None}
    model = loaded(ref, adapter, engine=engine, device=device)
    talk = Chat(model, system=system, template=template, window=window, **given)
    if file is not None:
        talk.load(file)
        talk.set(**given)  # what is said here goes before what was saved
    if sys.stdin.isatty():
        click.echo(f"{model.name}, {talk.window} tokens at once. /help shows commands.", err=True)
    for line in lines():
        if line in ("/quit", "/exit"):
            break
        try:
            answer(talk, line)
        except (ZooError, OSError) as error:
            click.echo(f"txzoo: {' '.join(str(error).split())}", err=True)


def lines() -> Iterator[str]:
    """What is typed, without empty lines, up to the end of it."""
    shown = output.styled("> ", bold=True) if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(shown).strip()
        except EOFError:
            return
        except KeyboardInterrupt:
            click.echo("\n/quit or Ctrl-D leaves", err=True)
            continue
        except UnicodeDecodeError as error:
            raise InputError(f"Standard input is not UTF-8 at byte {error.start + 1}") from error
        if line:
            yield line


def answer(talk: "Chat", line: str) -> None:
    """Do what a line says."""
    if not line.startswith("/"):
        return write(talk, talk.stream(line))
    verb, _, rest = line.partition(" ")
    if verb not in COMMANDS:
        raise InputError(f"Unknown command {verb}. There are: {', '.join(COMMANDS)}, /quit")
    return COMMANDS[verb](talk, rest.strip())


def write(talk: "Chat", pieces: Iterator[str]) -> None:
    """Show an answer as it is written; Ctrl-C ends it."""
    if talk.left_out:
        click.echo(f"({talk.left_out} older messages are out of the window)", err=True)
    try:
        for piece in pieces:
            click.echo(piece, nl=False)
    except KeyboardInterrupt:
        pieces.close()  # type: ignore[attr-defined]
    finally:
        click.echo()


def _save(talk: "Chat", rest: str) -> None:
    click.echo(f"{talk.save(_file(rest))}: {len(talk.messages)} messages", err=True)


def _load(talk: "Chat", rest: str) -> None:
    talk.load(_file(rest))
    click.echo(f"{rest}: {len(talk.messages)} messages", err=True)


def _file(rest: str) -> str:
    if not rest:
        raise InputError("Say which file: /save talk.json")
    return rest


def _set(talk: "Chat", rest: str) -> None:
    key, equals, text = rest.partition("=")
    if not equals:
        raise InputError(f"/set takes KEY=VALUE, such as temperature=0.8, got {rest!r}")
    try:
        value = tomllib.loads(f"value = {text}")["value"] if text.strip() else None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"/set {key.strip()}: {text.strip()!r} is no number") from error
    talk.set(**{key.strip(): value})


def _undo(talk: "Chat", rest: str) -> None:
    click.echo(f"taken back: {talk.undo()}", err=True)


def _history(talk: "Chat", rest: str) -> None:
    for message in talk.messages:
        click.echo(f"{output.styled(message['role'] + ':', bold=True)} {message['content']}")


COMMANDS: dict[str, Callable[["Chat", str], None]] = {
    "/retry": lambda talk, rest: write(talk, talk.retry()),
    "/undo": _undo,
    "/clear": lambda talk, rest: talk.clear(),
    "/save": _save,
    "/load": _load,
    "/set": _set,
    "/history": _history,
    "/help": lambda talk, rest: click.echo(HELP, nl=False),
}
