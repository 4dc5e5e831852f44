"""The verbs that use one model: run, attention, explain."""

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli import output
from zoo.cli.options import adapter_option, device_option, engine_option, loaded
from zoo.conversation import asked
from zoo.data import PICTURED
from zoo.errors import InputError
from zoo.numbers import plural

if TYPE_CHECKING:
    from zoo.model import Model

FILES = ("source", "out", "text_column", "resume", "overwrite")  # options of whole files

# to models of pictures and texts
TOLD = {"labels", "synonym", "template", "negative_labels", "prompts"}


@click.command()
@click.argument("ref", metavar="NAME")
@click.argument("prompt", required=False)
@click.option("--max-new-tokens", type=int, metavar="N", help="Write at most so many tokens.")
@click.option("--temperature", type=float, metavar="T", help="Above 0, draw by chance.")
@click.option("--top-k", type=int, metavar="K", help="Draw among the K best tokens.")
@click.option("--top-p", type=float, metavar="P", help="Draw among the best that reach P.")
@click.option("--repetition-penalty", type=float, metavar="R", help="Above 1, repeat less.")
@click.option("--num-beams", type=int, metavar="N", help="Search with so many hypotheses.")
@click.option("--length-penalty", type=float, metavar="P", help="Of beams: above 1, longer ones.")
@click.option("--num-return-sequences", type=int, metavar="N", help="So many answers, best first.")
@click.option("--seed", type=int, help="Of the draws; the same again gives the same text.")
@click.option("--stop", multiple=True, metavar="TEXT", help="End before it; may be repeated.")
@click.option("--draft", metavar="NAME", help="A smaller model with its tokens, to write faster.")
@adapter_option
@engine_option
@device_option
@click.option("--source-language", metavar="NAME", help="Of the text, where a model knows several.")
@click.option("--target-language", metavar="NAME", help="To write in, likewise: de, de_DE.")
@click.option(
    "--input",
    "source",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Lines of JSON, in place of PROMPT.",
)
@click.option(
    "--output",
    "out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where their answers go.",
)
@click.option("--text-column", metavar="NAME", help="Of --input: text unless given, or picture.")
@click.option("--resume", is_flag=True, help="Of --input: go on where it stopped.")
@click.option("--overwrite", is_flag=True, help="Of --output: replace what is there.")
@click.option("--labels", metavar="A,B", help="To tell a picture by, without any training.")
@click.option("--synonym", multiple=True, metavar="LABEL=NAME", help="A further name of a label.")
@click.option("--template", multiple=True, help="A sentence with {} for the label; again for more.")
@click.option("--negative-labels", metavar="A,B", help="That compete and are not answered.")
@click.option("--prompts", type=click.Path(path_type=Path), help="What txzoo prompts --out wrote.")
@click.option("--search", metavar="TEXT", help="The pictures of a folder that fit a text best.")
@output.json_option
def run(ref: str, prompt: str | None, as_json: bool, **options: Any) -> None:
    """Let a model go on from a text, or say what it makes of it.

    One that has learned to answer, with a chat template of its own, is asked: the PROMPT is a
    message, and the answer is written alone.

    Without a PROMPT, or with -, it is read from standard input. Unless an option says otherwise,
    each token is the most likely one. A model that classifies shows its labels, or the --top-k
    best; the PROMPT of one that reads pictures is a file. One of pictures and texts is told the
    --labels, and reads a folder too.

    With --draft a smaller model writes some tokens ahead, which NAME then reads at once and keeps
    as far as they are its own. How many it kept is said on standard error.

    With --engine another project computes what NAME gives; NAME may be what txzoo export wrote
    for it. What it reads is written the first time, which takes a while, and kept in the cache.

    With --input and --output it is called with each line of a file, of any length: a text, or a
    table with one. What comes is that table with a "result", or with an "error".
    """
    files = {name: options.pop(name) for name in FILES}
    where = {name: options.pop(name) for name in ("adapter", "engine", "device")}
    given = {name: value for name, value in options.items() if value not in (None, ())}
    if given.keys() & TOLD:
        from zoo.cli.prompts import called

        given = called(given)
    if any(files.values()):
        if prompt is not None or as_json or None in (files["source"], files["out"]):
            raise click.UsageError(
                "a file takes both --input and --output, no PROMPT and no --json"
            )
        return _file(ref, where, files, given)
    import zoo

    # what an engine computes may have no card, and an adapter another head
    model = loaded(ref, **where) if where["engine"] or where["adapter"] else None
    if (model or zoo.info(ref)).pipeline in PICTURED:
        picture = read_bytes(prompt, f"txzoo run {ref} PICTURE")
        model = model or loaded(ref, **where)
        if model.pipeline == "zero-shot-image-classification":
            from zoo.cli.prompts import look

            return look(model, picture, given, as_json)
        show = _make if model.pipeline == "image-to-text" else _say
        return show(model, picture, given, as_json)
    prompt = read_text(prompt, f"txzoo run {ref} TEXT")
    from zoo.nn import EncoderDecoder

    model = model or loaded(ref, **where)
    if isinstance(model.module, EncoderDecoder):
        return _make(model, prompt, given, as_json)
    if model.pipeline != "text-generation":
        return _say(model, prompt, given, as_json)
    asking = asked(model, prompt)
    draft = None
    if "draft" in given:
        from zoo.speculation import Draft

        draft = given["draft"] = Draft(zoo.load(given["draft"], device=where["device"]))
    if as_json:
        facts = {"model": model.name, "prompt": prompt, "generated_text": model(asking, **given)}
        if draft is not None:
            facts["draft"] = {
                "model": draft.model.name,
                "drafted": draft.drafted,
                "accepted": draft.accepted,
                "passes": draft.passes,
            }
        return output.print_json(facts)
    if given.get("num_return_sequences", 1) > 1:
        for text in model(asking, **given):
            click.echo(text)
        return None
    if given.get("num_beams", 1) > 1:  # what comes first is known only at the end
        pieces = iter([model(asking, return_full_text=False, **given)])
    else:
        pieces = model(asking, stream=True, return_full_text=False, **given)
    if asking is prompt:
        click.echo(output.styled(prompt, bold=True), nl=False)
    try:
        for piece in pieces:
            click.echo(piece, nl=False)
    finally:
        click.echo()
    if draft is not None and draft.drafted:
        click.echo(
            f"{draft.model.name} drafted {plural(draft.drafted, 'token')}, {draft.accepted} of "
            f"them kept ({draft.acceptance_rate:.0%}); {model.name} ran "
            f"{plural(draft.passes, 'time')}",
            err=True,
        )
    return None


def _file(ref: str, where: dict[str, Any], files: dict[str, Any], options: dict[str, Any]) -> None:
    """Call a model with each line of a file; what could not be answered makes the status 1."""
    from zoo.batch import run_file

    source, out = files.pop("source"), files.pop("out")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        done = run_file(
            loaded(ref, **where),
            source,
            out,
            column=files.pop("text_column"),
            **files,
            **options,
        )
    for warning in caught:
        click.echo(f"Warning: {warning.message}", err=True)
    click.echo(f"{out}: {plural(done.lines, 'line')}, {done.failed} of them errors")
    if done.failed:
        click.echo(f"The first: {done.first}", err=True)
        click.get_current_context().exit(1)


def _make(model: "Model", text: str | bytes, options: dict[str, Any], as_json: bool) -> None:
    """Show what an encoder-decoder makes of a text or a picture: one answer, or several."""
    several = options.get("num_return_sequences", 1) > 1 or options.get("num_beams", 1) > 1
    found: list[dict[str, Any]] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if several or as_json:
            found = model(text, return_scores=True, **options)
        else:
            pieces = model(text, stream=True, **options)
    for warning in caught:
        click.echo(f"Warning: {warning.message}", err=True)
    if as_json:
        return output.print_json({"model": model.name, **_given(model, text), "answers": found})
    if len(found) > 1 and found[0]["score"] is not None:
        rows = [(f"{answer['score']:.3f}", answer["text"]) for answer in found]
        return output.print_table(("score", "text"), rows, right=("score",))
    if found:
        return click.echo("\n".join(answer["text"] for answer in found))
    try:
        for piece in pieces:
            click.echo(piece, nl=False)
    finally:
        click.echo()


def _say(model: "Model", asked: str | bytes, options: dict[str, Any], as_json: bool) -> None:
    """Show what a model that writes no text makes of one, or of a picture: a table, or numbers."""
    if model.pipeline in ("text-classification", "image-classification"):
        options = {"top_k": None, **options}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = model(asked, **options)
    for warning in caught:
        click.echo(f"Warning: {warning.message}", err=True)
    if hasattr(found, "tolist"):  # a vector
        found = found.tolist()
    if as_json:
        return output.print_json({"model": model.name, **_given(model, asked), "result": found})
    rows = [found] if isinstance(found, dict) else found
    if not rows or not isinstance(rows[0], dict):
        return click.echo(" ".join(f"{number:.4f}" for number in rows))
    cells = [[f"{v:.3f}" if isinstance(v, float) else str(v) for v in r.values()] for r in rows]
    output.print_table(tuple(rows[0]), cells, right=("score",))


def _given(model: "Model", asked: str | bytes) -> dict[str, str]:
    """What a model was given, for JSON; nothing where it came as bytes."""
    what = "picture" if model.pipeline in PICTURED else "text"
    return {} if isinstance(asked, bytes) else {what: asked}


def read_text(argument: str | None, usage: str) -> str:
    """A text from the command line, or from standard input.

    Args:
        argument: what was given; None or "-" for standard input.
        usage: how to give one, for the error.

    Raises:
        InputError: standard input is not UTF-8.
        click.UsageError: nothing was given, and standard input is a terminal.
    """
    if argument not in (None, "-"):
        return str(argument)
    if argument is None and sys.stdin.isatty():
        raise click.UsageError(f"a text is missing: {usage}, or pipe it in")
    try:
        text = sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"Standard input is not UTF-8 at byte {error.start + 1}") from error
    return text.removesuffix("\n")  # as a shell does


def read_bytes(argument: str | None, usage: str) -> str | bytes:
    """The path of a file from the command line, or the bytes of standard input; as `read_text`."""
    if argument not in (None, "-"):
        return str(argument)
    if argument is None and sys.stdin.isatty():
        raise click.UsageError(f"a picture is missing: {usage}, or pipe one in")
    return sys.stdin.buffer.read()


@click.command()
@click.argument("ref")
@click.argument("text")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="map.png or map.svg.")
@click.option("--target", help="What a translator's text is aligned with; its own unless given.")
def attention(ref: str, text: str, out: Path, target: str | None) -> None:
    """Draw which token of a text looks at which.

    One panel for each layer and head. TEXT may be - for standard input. For a model that makes a
    text of another, the words it writes against the words of TEXT. For one that reads pictures
    TEXT is a file, and what counts of it is drawn over it.
    """
    import zoo
    from zoo.attention import alignment, draw, draw_seen, token_labels
    from zoo.nn import EncoderDecoder
    from zoo.pipelines import tokenizer_of

    if zoo.info(ref).pipeline in PICTURED:
        picture = read_bytes(text, f"txzoo attention {ref} PICTURE --out {out}")
        model = zoo.load(ref)
        draw_seen(model, picture, out, title=model.name)
        what = f"{plural(model.config.n_layers, 'layer')} and the roll-out"
        if isinstance(model.module, EncoderDecoder):
            what = "where it looks at each word that it writes"
        return click.echo(f"{out}: {what}")
    text = read_text(text, f"txzoo attention {ref} TEXT --out {out}")
    model = zoo.load(ref)
    if target is None and not isinstance(model.module, EncoderDecoder):
        maps, rows, columns = model.attention(text), token_labels(tokenizer_of(model), text), []
    else:
        found = alignment(model, text, target)
        maps, rows, columns = found.layers, found.target, found.source
    draw(maps, rows, out, title=f"{model.name}: {text}", columns=columns)
    heads = max(map(len, maps))
    click.echo(f"{out}: {plural(len(maps), 'layer')} of {plural(heads, 'head')}")
    if zoo.info(ref).pipeline == "text-classification":
        click.echo(f"Where a head looks is not what decided: txzoo explain {ref} TEXT asks that.")


@click.command()
@click.argument("ref")
@click.argument("text")
@click.option(
    "--method",
    default="occlusion",
    show_default=True,
    help="occlusion, or gradient, which is fast.",
)
@click.option("--label", help="The label that is asked about; the most likely unless given.")
@click.option("--words", default=20, show_default=True, help="So many, the weightiest first.")
@output.json_option
def explain(ref: str, text: str, method: str, label: str | None, words: int, as_json: bool) -> None:
    """Show which words carried a classifier's decision.

    TEXT may be - for standard input. A score is how many nats of the label's log-odds a
    word is worth; below 0 it spoke against the label.
    """
    text = read_text(text, f"txzoo explain {ref} TEXT")
    import zoo
    from zoo.attribution import attributions

    if words < 1:
        raise InputError(f"--words must be at least 1, got {words}")
    model = zoo.load(ref)
    found = attributions(model, text, method=method, label=label)
    if as_json:
        return output.print_json({"model": model.name, "words": [vars(word) for word in found]})
    found.sort(key=lambda word: -abs(word.score))
    rows = [(word.text, f"{word.score:+.3f}") for word in found[:words]]
    output.print_table(("word", "score"), rows, right=("score",))
