"""The verbs that train and measure: train, eval, verify."""

import re
import shlex
import shutil
import sys
import tomllib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli import output
from zoo.cli.options import adapter_option, device_option, engine_option, loaded
from zoo.errors import (
    CONTROLS,
    InputError,
    NameClashError,
    TrainingError,
    UnknownNameError,
    ZooError,
)
from zoo.numbers import in_words, short_count, spelled, with_error

if TYPE_CHECKING:
    from zoo.evaluation import Errors, Report, TranslationErrors
    from zoo.model import Model


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
@click.option(
    "--data",
    metavar="FILE",
    multiple=True,
    help="Labelled texts or pictures, sentence pairs or conversations, instead of a task.",
)
@click.option(
    "--test-data", metavar="FILE", multiple=True, help="To measure on; a part of --data if none."
)
@click.option("--text-column", metavar="NAME", help="Of labelled texts, or running text.")
@click.option("--label-column", metavar="NAME", help="Of labelled texts.")
@click.option("--source-column", metavar="NAME", help="Of sentence pairs in one file.")
@click.option("--target-column", metavar="NAME", help="Of sentence pairs in one file.")
@click.option("--license", metavar="NAME", help="Of --data; unknown unless given.")
def train(
    recipe: str,
    out: Path,
    resume: bool,
    overwrite: bool,
    changes: tuple[str, ...],
    tuning: str | None,
    rank: int | None,
    base: str | None,
    **data: str | tuple[str, ...] | None,
) -> None:
    """Train a model by a recipe, or adapt a trained one with --tuning.

    The recipe is that of a model, or a file, or in a model folder. While it runs everything is
    in OUT.partial; the finished folder appears at OUT in one move.

    --data takes labelled texts of your own: a .csv, .tsv or .jsonl file, perhaps with .gz, or
    hf://datasets/owner/name. An encoder-decoder takes sentence pairs: such a file, or, with --data
    given twice, a text file of sources and one of targets. What classifies pictures takes a folder:
    FOLDER/label/1.png, or in splits, FOLDER/train/label/1.png and FOLDER/test/label/2.png.

    A decoder takes conversations, pairs of answers (chosen and rejected), or running text of any
    size: files .txt or .parquet, a folder or a pattern of files, or another file with the
    --text-column that holds it.
    """
    options: dict[str, Any] = {"tuning": tuning, "rank": rank, "base": base, **data}
    options = {key: value for key, value in options.items() if value not in (None, ())}
    from zoo.training.loop import plan as find
    from zoo.training.loop import train as run

    plan = find(recipe, **dict(map(_setting, changes)), **options)
    again = ["txzoo", "train", recipe, "--out", str(out), "--resume"]
    again += ["--overwrite"] * overwrite
    again += [
        word
        for key, value in options.items()
        for one in (value if isinstance(value, tuple) else (value,))
        for word in (f"--{key.replace('_', '-')}", str(one))
    ]
    again += [word for change in changes for word in ("--set", change)]
    try:
        with warnings_in_a_line():
            model = run(plan, out=out, resume=resume, overwrite=overwrite)
    except KeyboardInterrupt as error:
        raise TrainingError(f"stopped. {_what_is_left(out, again)}") from error
    from accelerate import PartialState

    card = model.card
    assert card is not None  # a finished folder has one
    if PartialState().is_main_process:
        click.echo(f"{out}: {short_count(card.parameters)} parameters{_trained(card.training)}")
        title, cells = card.baselines()
        rows = [
            (score.name, with_error(score.value, score.standard_error), score.split, *cell)
            for score, cell in zip(card.scores, cells, strict=True)
        ]
        output.print_table(("score", "value", "split", *title), rows)


@click.command()
@click.argument("ref")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The model folder.")
@adapter_option
def merge(ref: str, out: Path, adapter: Path | None) -> None:
    """Put an adapter into the weights of its base: a model that stands alone.

    REF is the adapter, whose card names its base, or with --adapter the base.
    """
    import zoo

    if out.exists():
        raise InputError(f"{out} exists: choose another folder")
    merged = loaded(ref, adapter).merge()
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
@click.option(
    "--data",
    metavar="FILE",
    multiple=True,
    help="Labelled texts or pictures, sentence pairs or conversations, instead of a task.",
)
@click.option("--text-column", metavar="NAME", help="Of labelled texts.")
@click.option("--label-column", metavar="NAME", help="Of labelled texts.")
@click.option("--source-column", metavar="NAME", help="Of sentence pairs in one file.")
@click.option("--target-column", metavar="NAME", help="Of sentence pairs in one file.")
@click.option("--errors", type=int, metavar="N", help="Show N of what it is worst at.")
@click.option(
    "--baseline/--no-baseline",
    default=None,
    help="Show what TF-IDF reaches beside a text classifier, or save that time.",
)
@adapter_option
@engine_option
@device_option
@output.json_option
def evaluate(
    ref: str,
    task: str | None,
    split: str,
    limit: int | None,
    context: int | None,
    errors: int | None,
    baseline: bool | None,
    as_json: bool,
    data: tuple[str, ...],
    adapter: Path | None,
    engine: str | None,
    device: str | None,
    **named: str | None,
) -> None:
    """Measure a model on a task, with standard errors.

    --data takes labelled texts of your own, for text classification: a .csv, .tsv or .jsonl file,
    perhaps with .gz, or hf://datasets/owner/name. Of an encoder-decoder it takes sentence pairs:
    such a file, or, given twice, a text file of sources and one of targets. For image
    classification it takes a folder: FOLDER/label/1.png, or FOLDER/test/label/1.png.

    --errors shows the labels that a classifier is surest of and wrong, or the sentences that a
    translator is farthest off, and what the length of a text has to do with it.

    Beside a text classifier stands TF-IDF with logistic regression, learned from what the model
    learned from.
    """
    import zoo
    from zoo.data import PAIRED
    from zoo.evaluation import errors as find
    from zoo.evaluation import translation_errors
    from zoo.evaluation.evaluate import choose

    model = loaded(ref, adapter, engine=engine, device=device)
    where: dict[str, Any] = {"task": task, "split": split, "limit": limit, "data": data or None}
    where |= {key: value for key, value in named.items() if value is not None}
    paired = model.pipeline in PAIRED
    if paired and baseline:
        raise click.UsageError(
            f"--baseline is TF-IDF's, for text classification; {model.name} is a {model.pipeline} "
            "model"
        )
    foreign = ("text_column", "label_column") if paired else ("source_column", "target_column")
    other = [key for key in foreign if key in where]
    if other and (errors is not None or baseline):
        raise click.UsageError(
            f"--{other[0].replace('_', '-')} is not of the texts that {model.name}, a "
            f"{model.pipeline} model, is measured on"
        )
    look: Any = translation_errors if paired else find
    with warnings_in_a_line():
        analysis: Any = None if errors is None else look(model, n=errors, context=context, **where)
        found = dict(analysis.scores) if analysis else zoo.evaluate(model, context=context, **where)
        beside = _tfidf(model, where, baseline)
        signatures: dict[str, str] = {}
        if paired:
            of_task = {key: value for key, value in where.items() if key != "limit"}
            signatures = choose(model, **of_task)[1].signatures(split, limit=limit)
    if as_json:
        facts = {
            "model": model.name,
            "split": split,
            "limit": limit,
            **_measured(model, task, data),
        }
        facts["metrics"] = _finite(found)
        facts |= {"baseline": _finite(beside)} if beside else {}
        facts |= {"signatures": signatures} if signatures else {}
        if analysis is not None:
            facts |= (_analysis_of_translations if paired else _analysis)(analysis)
        return output.print_json(facts)
    names = [name for name in found if f"{name}_stderr" in found]
    if len(pairs := [name for name in names if PAIR.match(name)]) > MOST_PAIRS:
        names = [name for name in names if name not in pairs]
    rows: list[tuple[str, ...]] = [
        (spelled(name), *in_words(found[name], found[f"{name}_stderr"])) for name in names
    ]
    columns = ["metric", "value", "standard error"]
    if beside:
        columns += ["TF-IDF", "its standard error"]
        rows = [
            (*row, *in_words(beside[name], beside[f"{name}_stderr"]))
            for row, name in zip(rows, names, strict=True)
        ]
    if signatures:
        columns.append("95% interval")
        rows = [(*row, _interval(found, name)) for row, name in zip(rows, names, strict=True)]
    output.print_table(columns, rows, right=columns[1:])
    for name, signature in signatures.items():
        click.echo(f"{spelled(name)}: {signature}")
    if skipped := found.get("skipped_tokens"):
        click.echo(f"{skipped:,.0f} tokens had no finite loss and were left out.")
    if analysis is not None:
        (_show_translations if paired else _show_errors)(analysis)


def _tfidf(model: Any, where: Mapping[str, Any], asked: bool | None) -> dict[str, float]:
    """What TF-IDF reaches on the same; where nobody asked for it, a line if it cannot be had."""
    from zoo.evaluation.baseline import baseline_of

    if not (asked or (asked is None and model.pipeline == "text-classification")):
        return {}
    try:
        return dict(baseline_of(model, **where))
    except ZooError as error:
        if asked:
            raise
        click.echo(f"txzoo: no TF-IDF stands beside it: {error}", err=True)
        return {}


def _interval(found: Mapping[str, float], name: str) -> str:
    """The ends of a metric's 95% interval, where it has one, with the digits of its value."""
    ends = [found.get(f"{name}_{end}") for end in ("low", "high")]
    return " to ".join(in_words(end, found[f"{name}_stderr"])[0] for end in ends if end is not None)


@contextmanager
def warnings_in_a_line() -> Iterator[None]:
    """Print warnings for users as errors are printed, each once."""
    said: set[str] = set()
    with warnings.catch_warnings():
        usual = warnings.showwarning

        def show(message: Any, category: type[Warning], *place: Any, **more: Any) -> None:
            if category is not UserWarning:
                return usual(message, category, *place, **more)
            if str(message) not in said:
                click.echo(f"txzoo: warning: {message}", err=True)
            said.add(str(message))

        warnings.showwarning = show
        yield


PAIR = re.compile("is_.*_called_")
MOST_PAIRS = 100  # of labels in a table; JSON has all


def _measured(model: "Model", task: str | None, data: Sequence[str]) -> dict[str, Any]:
    """What a model was measured on, as JSON says it; a list where it is two files."""
    assert model.card is not None  # a loaded model has one
    own = model.card.data["txzoo"].get("data")
    if not data and task is None and own:
        data = [own["path"], *([own["target_path"]] if "target_path" in own else [])]
    if data:
        return {"task": None, "data": data[0] if len(data) == 1 else list(data)}
    return {"task": task or model.card.task}


def _finite(scores: Mapping[str, float]) -> dict[str, float | None]:
    return {name: output.finite(value) for name, value in scores.items()}


def _analysis(found: "Errors") -> dict[str, Any]:
    """An error analysis as JSON has it, texts whole."""
    mistakes = [asdict(mistake) for mistake in found.surest]
    if found.what == "pictures":
        called = [{"picture": one.pop("text"), **one} for one in mistakes]
        return {"pictures": found.texts, "wrong": found.wrong, "errors": called}
    return {
        "texts": found.texts,
        "wrong": found.wrong,
        "errors": mistakes,
        "errors_by_length": [
            {**asdict(quarter), "share_stderr": output.finite(quarter.share_stderr)}
            for quarter in found.by_length
        ],
    }


def _show_errors(found: "Errors") -> None:
    """Print an error analysis: the texts as far as a line has room, then the lengths.

    Of pictures the paths stand there whole, and there are no lengths.
    """
    output.heading(f"{found.wrong:,} of {found.texts:,} {found.what} wrong, the surest ones first")
    facts = [(f"{m.probability:.3f}", m.given, m.label) for m in found.surest]
    titles = ("probability", "given", "right")
    taken = sum(max(map(len, cells)) for cells in zip(titles, *facts, strict=True)) + 3 * 2
    room = max(MIN_TEXT, shutil.get_terminal_size().columns - taken)
    if found.what == "pictures":
        room = sys.maxsize
    rows = [
        (*fact, shortened(mistake.text, room))
        for fact, mistake in zip(facts, found.surest, strict=True)
    ]
    if rows:
        output.print_table((*titles, found.what.removesuffix("s")), rows)
    if not found.by_length:
        return
    output.heading("Errors by length")
    columns = ("words", "texts", "wrong", "share", "standard error")
    quarters = [
        (
            "-".join(dict.fromkeys(map(str, quarter.words))),
            str(quarter.texts),
            str(quarter.wrong),
            *in_words(quarter.share, quarter.share_stderr),
        )
        for quarter in found.by_length
    ]
    output.print_table(columns, quarters, right=columns)


def _analysis_of_translations(found: "TranslationErrors") -> dict[str, Any]:
    """The same of a translator."""
    return {
        "sentences": found.sentences,
        "worst": [asdict(sentence) for sentence in found.worst],
        "scores_by_length": [row._asdict() for row in found.by_length],
    }


def _show_translations(found: "TranslationErrors") -> None:
    """Print the error analysis of a translator: sentences one below the other, then lengths."""
    output.heading(f"The {len(found.worst)} worst of {found.sentences:,} sentences")
    room = max(MIN_TEXT, shutil.get_terminal_size().columns - 2 - len("translation") - 2)
    for one in found.worst:
        lines = [("source", one.source), ("translation", one.translation)]
        lines += [("reference", text) for text in one.references]
        click.echo(f"{one.place}  chrF {one.chrf:.1f}")
        for name, text in lines:
            click.echo(f"  {name:<11}  {shortened(text, room)}")
    output.heading("Scores by length of the source")
    columns = ("words", "sentences", "BLEU", "chrF")
    rows = [
        (row.words, f"{row.sentences:,}", f"{row.bleu:.1f}", f"{row.chrf:.1f}")
        for row in found.by_length
    ]
    output.print_table(columns, rows, right=columns[1:])


MIN_TEXT = 20  # characters of a text, however narrow the terminal


def shortened(text: str, room: int) -> str:
    """A text in one line of at most `room` characters, without what controls terminals."""
    line = CONTROLS.sub(lambda sign: ascii(sign[0])[1:-1], " ".join(text.split()))
    return line if len(line) <= room else f"{line[: room - 1]}…"


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
