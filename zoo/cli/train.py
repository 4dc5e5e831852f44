"""The verbs that train and measure: train, eval, verify."""

import shlex
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli import output
from zoo.errors import InputError, NameClashError, TrainingError, UnknownNameError, ZooError
from zoo.numbers import in_words, short_count, with_error

if TYPE_CHECKING:
    from zoo.evaluation import Report


@click.command()
@click.argument("recipe", metavar="NAME_OR_RECIPE")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The model folder.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint.")
@click.option("--overwrite", is_flag=True, help="Replace what is there.")
@click.option(
    "--set", "changes", multiple=True, metavar="KEY=VALUE", help="Another value for the recipe."
)
@click.option("--tuning", metavar="METHOD", help="Adapt the model: lora, ia3, bitfit, ...")
@click.option("--rank", type=int, metavar="N", help="Of lora.")
@click.option("--base", metavar="REF", help="What is adapted, unless it is NAME itself.")
def train(
    recipe: str,
    out: Path,
    resume: bool,
    overwrite: bool,
    changes: tuple[str, ...],
    tuning: str | None,
    rank: int | None,
    base: str | None,
) -> None:
    """Train a model by a recipe, or adapt a trained one with --tuning.

    The recipe is that of a model, or a file, or in a model folder. While it runs everything is
    in OUT.partial; the finished folder appears at OUT in one move.
    """
    options = {"tuning": tuning, "rank": rank, "base": base}
    options = {key: value for key, value in options.items() if value is not None}
    from zoo.training.loop import plan as find
    from zoo.training.loop import train as run

    plan = find(recipe, **dict(map(_setting, changes)), **options)
    again = ["txzoo", "train", recipe, "--out", str(out), "--resume"]
    again += ["--overwrite"] * overwrite
    again += [word for key, value in options.items() for word in (f"--{key}", str(value))]
    again += [word for change in changes for word in ("--set", change)]
    try:
        model = run(plan, out=out, resume=resume, overwrite=overwrite)
    except KeyboardInterrupt as error:
        raise TrainingError(f"stopped. {_what_is_left(out, again)}") from error
    from accelerate import PartialState

    card = model.card
    assert card is not None  # a finished folder has one
    if PartialState().is_main_process:
        click.echo(f"{out}: {short_count(card.parameters)} parameters{_trained(card.training)}")
        rows = [
            (score.name, with_error(score.value, score.standard_error), score.split)
            for score in card.scores
        ]
        output.print_table(("score", "value", "split"), rows)


@click.command()
@click.argument("ref")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The model folder.")
def merge(ref: str, out: Path) -> None:
    """Put an adapter into the weights of its base: a model that stands alone."""
    import zoo

    if out.exists():
        raise InputError(f"{out} exists: choose another folder")
    merged = zoo.load(ref).merge()
    merged.save_pretrained(out)
    click.echo(f"{out}: {merged.name}, {short_count(zoo.info(out).parameters)} parameters")


def _trained(facts: Mapping[str, Any]) -> str:
    """How many of the parameters were trained, where it was not all of them."""
    count = facts.get("trained_parameters")
    return "" if count is None else f", {short_count(count)} of them trained by {facts['tuning']}"


def _setting(change: str) -> tuple[str, Any]:
    """`"steps=100"` as a key and a value, spelled as in a recipe; other words are text."""
    key, equals, text = change.partition("=")
    if not equals:
        raise click.UsageError(f"--set takes KEY=VALUE, such as steps=100, got {change!r}")
    try:
        return key.strip(), tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key.strip(), text


def _what_is_left(out: Path, again: list[str]) -> str:
    """Where the last checkpoint is, and how to go on from it."""
    from zoo.training import checkpoint

    partial = out.with_name(f"{out.name}.partial")
    if (partial / checkpoint.FILE).is_file():
        return f"The last checkpoint is in {partial}; go on with: {shlex.join(again)}"
    return "There was no checkpoint yet: start again"


@click.command("eval")
@click.argument("ref")
@click.option("--task", help="Another task than its card's.")
@click.option("--split", default="test", show_default=True, help="Of the task's data.")
@click.option("--limit", type=int, metavar="N", help="Only the first so many tokens or examples.")
@click.option("--context", type=int, metavar="N", help="Tokens that the model reads at once.")
@output.json_option
def evaluate(
    ref: str, task: str | None, split: str, limit: int | None, context: int | None, as_json: bool
) -> None:
    """Measure a model on a task, with standard errors."""
    import zoo

    model = zoo.load(ref)
    found = zoo.evaluate(model, task, split=split, limit=limit, context=context)
    names = [name for name in found if f"{name}_stderr" in found]
    if as_json:
        assert model.card is not None  # a loaded model has one
        facts = {"model": model.name, "task": task or model.card.task, "split": split}
        values = {name: output.finite(value) for name, value in found.items()}
        return output.print_json({**facts, "limit": limit, "context": context, "metrics": values})
    rows = [
        (name.replace("_", " "), *in_words(found[name], found[f"{name}_stderr"])) for name in names
    ]
    output.print_table(
        ("metric", "value", "standard error"), rows, right=("value", "standard error")
    )


@click.command()
@click.argument("refs", nargs=-1, metavar="REF...")
@click.option("--all", "everything", is_flag=True, help="Every bundled model.")
@output.json_option
@click.pass_context
def verify(ctx: click.Context, refs: tuple[str, ...], everything: bool, as_json: bool) -> None:
    """Recompute what the cards of models claim.

    Exit status 1 when a claim fails.
    """
    if bool(refs) == everything:
        raise click.UsageError("give names of models, or --all")
    reports = []
    for report in _bundled() if everything else map(_verified, refs):
        reports.append(report)
        if not as_json:
            _show(report)
    if as_json:
        output.print_json(
            [{"name": r.name, "ok": r.ok, "checks": list(map(asdict, r.checks))} for r in reports]
        )
    if not all(report.ok for report in reports):
        ctx.exit(1)


def _verified(ref: str) -> "Report":
    """The report of a model; that it does not load is a failed check."""
    import zoo
    from zoo.evaluation import Check, Report

    try:
        return zoo.verify(ref)
    except (UnknownNameError, NameClashError, InputError):
        raise
    except ZooError as error:
        return Report(ref, (Check("loads", "yes", "no", False, str(error)),))


def _bundled() -> "Iterator[Report]":
    """Reports of all bundled models, of those whose card does not parse too."""
    import zoo
    from zoo.evaluation import Check, Report

    yield from map(_verified, zoo.list_models(bundled=True))
    for plugin in zoo.list_plugins():
        for folder, error in plugin.broken_models.items():
            yield Report(folder.name, (Check("card parses", "yes", "no", False, error),))


def _show(report: "Report") -> None:
    output.heading(report.name)
    words = {True: "ok", False: "failed", None: "not checked"}
    rows = [
        (check.claim, _short(check.claimed), _short(check.found), words[check.ok])
        for check in report.checks
    ]
    output.print_table(("claim", "claimed", "found", "result"), rows)
    for note in dict.fromkeys(check.note for check in report.checks if not check.ok):
        if note:
            click.echo(note)


def _short(text: str) -> str:
    """The beginning of a hash, everything else whole."""
    return f"{text[:12]}..." if len(text) == 64 else text
