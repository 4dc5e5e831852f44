"""The verb that answers from a folder of documents."""

import dataclasses
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli import output
from zoo.cli.run import read_text
from zoo.errors import CONTROLS, InputError
from zoo.numbers import plural, short_count

if TYPE_CHECKING:
    from zoo.retrieval import Library


@click.command()
@click.argument("question", required=False)
@click.option("--docs", type=click.Path(path_type=Path), metavar="FOLDER", help="The documents.")
@click.option("--k", default=5, show_default=True, metavar="K", help="So many passages.")
@click.option("--encoder", metavar="NAME", help="Looks at their meaning too, not at words alone.")
@click.option("--model", metavar="NAME", help="Writes the answer; a bundled one unless given.")
@click.option(
    "--index", type=click.Path(path_type=Path), metavar="FOLDER", help="Keeps what was read."
)
@click.option("--no-answer", is_flag=True, help="Show the passages alone.")
@output.json_option
def ask(
    question: str | None,
    docs: Path | None,
    k: int,
    encoder: str | None,
    model: str | None,
    index: Path | None,
    no_answer: bool,
    as_json: bool,
) -> None:
    """Find the passages of your documents that a question is about, and answer from them.

    Read are the texts, Markdown and HTML of a folder and of those in it; what is left out is
    counted and named. With --index the next question reads only files that changed, and without
    --docs none. Without a QUESTION, or with -, it is read from standard input.
    """
    if docs is None and index is None:
        raise click.UsageError("documents are missing: txzoo ask --docs FOLDER QUESTION")
    if no_answer and model is not None:
        raise click.UsageError("--model writes the answer: leave out --no-answer")
    question = read_text(question, "txzoo ask --docs FOLDER QUESTION")
    from zoo.loading import load
    from zoo.retrieval.answer import DECODER

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        library = _library(docs, index, encoder)
        hits = library.search(question, k)
        passages = [hit.passage for hit in hits]
        written = None
        if not no_answer:
            from zoo.retrieval import answer

            decoder = load(model or DECODER)
            written = answer(question, passages, decoder)
    for warning in caught:
        click.echo(f"Warning: {warning.message}", err=True)
    if not hits:
        click.echo("No passage was found: ask in other words", err=True)
    if as_json:
        found = [
            {**dataclasses.asdict(hit.passage), "place": hit.passage.place}
            | {"by_words": hit.by_words, "by_meaning": hit.by_meaning}
            for hit in hits
        ]
        value: dict[str, Any] = {"question": question, "passages": found}
        value |= {"encoder": library.ref}
        value |= {"skipped": [dataclasses.asdict(item) for item in library.skipped]}
        if written is not None:
            value |= {"answer": written.text, "citations": written.citations}
            value |= {"model": decoder.name}
        return output.print_json(value)
    for number, hit in enumerate(hits, 1):
        place = output.styled(f"[{number}] {harmless(hit.passage.place)}", bold=True)
        ranks = f"  words {hit.by_words or '-'}, meaning {hit.by_meaning or '-'}"
        ranks = ranks if library.encoder is not None else ""
        click.echo(f"{place}{ranks}\n    {harmless(hit.passage.text)}")
    if written is not None:
        size = short_count(sum(p.numel() for p in decoder.module.parameters()))
        read = harmless(", ".join(written.citations))
        click.echo(f"\n{harmless(written.text) or '(nothing)'}\n")
        click.echo(f"Written by {decoder.name}, {size} parameters, from {read}: check it there.")
    return None


def _library(docs: Path | None, index: Path | None, encoder: str | None) -> "Library":
    """What was kept, brought up to date, or made anew; says on standard error what it read."""
    from zoo.retrieval import Library
    from zoo.retrieval.documents import summary
    from zoo.retrieval.library import PASSAGES

    kept = index is not None and (index / PASSAGES).is_file()
    if index is not None and kept:
        library = Library.load(index, encoder)
        if docs is None:
            return library
        before = library.documents
        library = library.refreshed(docs)
        changed = library.documents != before
    elif docs is None:
        raise InputError(f"{index} holds no index yet: make it with --docs FOLDER")
    else:
        library, changed = Library.of(docs, encoder), True
    if index is not None and changed:
        library.save(index)
    click.echo(
        f"{docs}: {plural(len(library.passages), 'passage')} of "
        f"{plural(len(library.documents), 'document')}, {library.made_anew} of them "
        f"{f'read by {library.ref}' if library.ref else 'new'}; "
        f"{harmless(summary(library.skipped))}",
        err=True,
    )
    return library


def harmless(text: str) -> str:
    """A text of somebody's file, without what would control a terminal."""
    return CONTROLS.sub(lambda sign: ascii(sign[0])[1:-1], text)
