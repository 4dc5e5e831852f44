"""The verb that measures templates: prompts; and what `txzoo run` shows of zero-shot models."""

import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoo.cli import output
from zoo.errors import InputError

if TYPE_CHECKING:
    from zoo.evaluation.prompts import Trial
    from zoo.model import Model


@click.command()
@click.argument("ref", metavar="NAME")
@click.option("--data", required=True, help="FOLDER/label/picture, or a task of labelled pictures.")
@click.option("--template", multiple=True, help="With {} for the label; may be repeated.")
@click.option("--synonym", multiple=True, metavar="LABEL=NAME", help="A further name of a label.")
@click.option("--limit", type=int, metavar="N", help="Of so many pictures, drawn.")
@click.option("--seed", default=1, show_default=True, help="Of what is drawn.")
@click.option("--negative-labels", metavar="A,B", help="A picture that fits one of them is wrong.")
@click.option("--flips", default=5, show_default=True, metavar="N", help="Name so many pictures.")
@click.option("--out", type=click.Path(path_type=Path), help="Write the best set: prompts.toml.")
@output.json_option
def prompts(
    ref: str,
    data: str,
    template: tuple[str, ...],
    synonym: tuple[str, ...],
    limit: int | None,
    seed: int,
    negative_labels: str | None,
    flips: int,
    out: Path | None,
    as_json: bool,
) -> None:
    """Measure templates on pictures of your own, and choose the best set of them.

    Half of the pictures choose, the other half measure. Each template is compared with the first,
    which is the bare label unless you give your own.
    """
    from zoo.evaluation.prompts import CANDIDATES, study_prompts, write_prompts

    with warned():
        study = study_prompts(
            ref,
            data,
            template or CANDIDATES,
            synonyms=_synonyms(synonym),
            negative_labels=_listed(negative_labels or ""),
            limit=limit,
            seed=seed,
        )
    if out is not None:
        write_prompts(study, out)
    if as_json:
        return output.print_json(asdict(study))
    ranked = sorted(study.trials, key=lambda trial: -trial.accuracy)
    rows = [_row(trial) for trial in (study.best, *ranked)]
    header = ("templates", "accuracy", "95 %", "gain", "95 %", "won", "lost")
    output.print_table(header, rows, right=("accuracy", "gain", "won", "lost"))
    click.echo(
        f"measured on {study.measured_on:,} pictures, chosen on {study.chosen_on:,} others; "
        f"gain: over {study.trials[0].templates[0]!r}"
    )
    for text in study.best.templates:
        click.echo(f"best: {text}")
    for what, names in (("won", study.best.won), ("lost", study.best.lost)):
        for name in names[:flips]:
            click.echo(f"{what}: {name}")
    if out is not None:
        click.echo(f"{out}: txzoo run {ref} PICTURE --prompts {out}")


def _row(trial: "Trial") -> tuple[str, ...]:
    count = len(trial.templates)
    return (
        trial.templates[0] if count == 1 else f"best set, {count} of them",
        f"{trial.accuracy:.3f}",
        f"{trial.low:.3f} to {trial.high:.3f}",
        f"{trial.gain:+.3f}",
        f"{trial.gain_low:+.3f} to {trial.gain_high:+.3f}",
        str(len(trial.won)),
        str(len(trial.lost)),
    )


def look(model: "Model", asked: str | bytes, options: dict[str, Any], as_json: bool) -> None:
    """What a zero-shot model makes of a picture, or of each in a folder; or which one fits a text.

    Args:
        model: of the pipeline zero-shot-image-classification.
        asked: a path, or the bytes of a picture.
        options: as `called` gives them, and perhaps `search`.
        as_json: print JSON.
    """
    call = dict(options)
    search = call.pop("search", None)
    with warned():
        if search is not None:
            return _found(model, search, asked, call, as_json)
        if isinstance(asked, bytes) or not Path(asked).is_dir():
            answers = model(asked, **call)
            if as_json:
                where = {} if isinstance(asked, bytes) else {"picture": asked}
                return output.print_json({"model": model.name, **where, "result": answers})
            return _table(answers)
        rows = model.called.classify_folder(asked, **call)
    if as_json:
        return output.print_json({"model": model.name, "result": rows})
    best = [(row["picture"], row["labels"][0]) for row in rows]
    cells = [
        (f, one["label"], f"{one['score']:.3f}", f"{one['similarity']:.3f}") for f, one in best
    ]
    output.print_table(
        ("picture", "label", "score", "similarity"), cells, right=("score", "similarity")
    )


def called(options: dict[str, Any]) -> dict[str, Any]:
    """Options of the command line as a zero-shot pipeline is called with them."""
    from zoo.evaluation.prompts import read_prompts
    from zoo.pipelines.zero_shot import with_synonyms

    options = dict(options)
    call: dict[str, Any] = {}
    if path := options.pop("prompts", None):
        call |= read_prompts(path)
    for key in ("labels", "negative_labels"):
        if (words := options.pop(key, None)) is not None:
            call[key] = _listed(words)
    if synonyms := _synonyms(options.pop("synonym", ())):
        call["labels"] = with_synonyms(call.get("labels"), synonyms)
    if templates := options.pop("template", None):
        call["templates"] = list(templates)
    return call | options


def _listed(words: str) -> list[str]:
    """Names with commas between."""
    return [word.strip() for word in words.split(",")] if words.strip() else []


def _synonyms(given: Iterable[str]) -> dict[str, list[str]]:
    """What `--synonym LABEL=NAME` says of each label."""
    found: dict[str, list[str]] = {}
    for one in given:
        label, sign, name = one.partition("=")
        if not sign or not name:
            raise click.UsageError(f"--synonym {one!r} must read LABEL=NAME")
        found.setdefault(label, []).append(name)
    return found


def _found(
    model: "Model", query: str, folder: str | bytes, call: dict[str, Any], as_json: bool
) -> None:
    if isinstance(folder, bytes):
        raise InputError("--search looks through a folder: give one")
    known = {key: call[key] for key in ("templates", "top_k") if key in call}
    found = model.called.search(query, folder, **known)
    if as_json:
        return output.print_json({"model": model.name, "query": query, "result": found})
    rows = [(f"{one['similarity']:.3f}", one["file"]) for one in found]
    output.print_table(("similarity", "picture"), rows, right=("similarity",))


def _table(answers: list[dict[str, Any]]) -> None:
    rows = [(a["label"], f"{a['score']:.3f}", f"{a['similarity']:.3f}") for a in answers]
    output.print_table(("label", "score", "similarity"), rows, right=("score", "similarity"))


@contextmanager
def warned() -> Iterator[None]:
    """Show warnings as lines on standard error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            yield
        finally:
            for warning in caught:
                click.echo(f"Warning: {warning.message}", err=True)
