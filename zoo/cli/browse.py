"""The verbs that look: list, info, plugins. None of them imports torch."""

import dataclasses
import json
import shutil
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from zoo.cli import output
from zoo.errors import UnknownNameError
from zoo.numbers import lower_is_better, plural, short_bytes, short_count, with_error

if TYPE_CHECKING:
    from zoo.card import Card, Score
    from zoo.plugins import Plugin
    from zoo.registry import Catalogue


def _count(_: click.Context, param: click.Parameter, value: str | None) -> int | None:
    """The number that a text such as "5M" means."""
    if value is None:
        return None
    scale = {"k": 1e3, "m": 1e6, "b": 1e9}.get(value[-1:].lower(), 1)
    try:
        return round(float(value.rstrip("kKmMbB")) * scale)
    except (ValueError, OverflowError) as error:
        raise click.BadParameter(f"{value!r} is not a number such as 800k or 5M") from error


@click.command("list")
@click.argument("query", required=False)
@click.option("--architectures", "kind", flag_value="architectures", help="List architectures.")
@click.option("--tasks", "kind", flag_value="tasks", help="List tasks.")
@click.option("--pipelines", "kind", flag_value="pipelines", help="List pipelines.")
@click.option("--task", help="Only models trained on this task.")
@click.option("--architecture", help="Only models of this architecture.")
@click.option("--pipeline", help="Only models called through this pipeline.")
@click.option("--plugin", help="Only models from this plugin.")
@click.option("--license", help="Only models under this licence.")
@click.option(
    "--max-params",
    metavar="N",
    callback=_count,
    help="Only models of so many parameters or fewer, such as 5M.",
)
@click.option(
    "--bundled/--not-bundled",
    default=None,
    help="Only models whose weights are installed, or the others.",
)
@click.option(
    "--sort",
    default="name",
    metavar="KEY",
    help='"name", "parameters", or a score such as "perplexity per word", best first.',
)
@click.option("--hub", is_flag=True, help="List models on the Hub that were made with txzoo.")
@click.option("--author", help="Only models of this user or organisation, with --hub.")
@output.json_option
def list_models(
    query: str | None,
    kind: str | None,
    sort: str,
    hub: bool,
    author: str | None,
    as_json: bool,
    **filters: Any,
) -> None:
    """List models, or what they are made of.

    QUERY is part of a name or of a summary, or a pattern such as '*-lm'.
    """
    from zoo.registry import registry

    if author is not None and not hub:
        raise click.UsageError("--author goes with --hub")
    if hub:
        given = [name for name, value in filters.items() if value is not None]
        if kind or given or sort != "name":
            option = f"--{(given or [kind or 'sort'])[0].replace('_', '-')}"
            raise click.UsageError(f"{option} is for what is installed, not with --hub")
        return _list_hub(query, author, as_json)
    if kind is not None:
        given = [name for name, value in filters.items() if value is not None]
        if given or sort != "name":
            option = f"--{(given or ['sort'])[0].replace('_', '-')}"
            raise click.UsageError(f"{option} is for models, not with --{kind}")
        return _list_entries(getattr(registry(), kind), query, as_json)

    import zoo

    names = zoo.list_models(query, **filters)
    models = registry().models
    cards = {name: models.get(name) for name in names}
    everything = [score for _, card in models.items() for score in card.scores]
    ordered = _sorted(cards, sort, everything)
    if as_json:
        rows = [
            {**_facts(card, models.owner(name)), "name": name} for name, card in ordered.items()
        ]
        output.print_json(rows)
    elif ordered:
        output.print_table(
            ("name", "architecture", "task", "license", "size", "score"),
            [_row(name, card, sort) for name, card in ordered.items()],
            right=("size",),
            spare=("license", "architecture", "task"),
        )
    else:
        click.echo(f"No model passes: txzoo list shows all {len(models.names())}", err=True)
    _mention_broken()


def _list_hub(query: str | None, author: str | None, as_json: bool) -> None:
    """List what the Hub has."""
    from zoo.hub import search

    models = search(query, author)
    if as_json:
        return output.print_json([dataclasses.asdict(model) for model in models])
    if not models:
        return click.echo("The Hub has no such model with the tag txzoo", err=True)
    access = {(True, True): "private, gated", (True, False): "private", (False, True): "gated"}
    output.print_table(
        ("model", "architecture", "task", "license", "size", "access"),
        [
            (
                f"hf://{model.repo}",
                model.architecture,
                model.task,
                model.license,
                short_count(model.parameters),
                access.get((model.private, model.gated), ""),
            )
            for model in models
        ],
        right=("size",),
        spare=("license", "task"),
    )


def _list_entries(catalogue: "Catalogue[Any]", query: str | None, as_json: bool) -> None:
    """List architectures, tasks or pipelines."""
    entries = [
        (name, entry)
        for name, entry in catalogue.items()
        if query is None or query.lower() in name or query.lower() in entry.summary.lower()
    ]
    if as_json:
        output.print_json(
            [
                {**dataclasses.asdict(entry), "name": name, "plugin": catalogue.owner(name).name}
                for name, entry in entries
            ]
        )
    else:
        rows = [(name, catalogue.owner(name).name, entry.summary) for name, entry in entries]
        output.print_table(("name", "plugin", "summary"), rows, spare=("plugin",))
    _mention_broken()


def _sorted(cards: "dict[str, Card]", key: str, known: "Iterable[Score]") -> "dict[str, Card]":
    """Cards by name, by size, or by a score: best first, those without it last."""
    if key == "name":
        return cards
    values: dict[str, float | None] = {name: card.parameters for name, card in cards.items()}
    if key != "parameters":
        words = {word for score in known for word in (score.name, score.metric)}
        if key.replace("_", " ") not in words:
            raise UnknownNameError("score", key, words | {"name", "parameters"})
        sign = 1 if lower_is_better(key) else -1
        for name, card in cards.items():
            score = _score(card, key)
            values[name] = sign * score.value if score else None
    order = sorted(cards, key=lambda name: (values[name] is None, values[name] or 0.0, name))
    return {name: cards[name] for name in order}


def _score(card: "Card", key: str) -> "Score | None":
    """The first score of that exact name, else of that kind; for other keys the headline."""
    scores = card.scores
    words = key.replace("_", " ")
    if key in ("name", "parameters"):
        return scores[0] if scores else None
    named = [score for score in scores if score.name == words]
    return next(iter(named + [score for score in scores if score.metric == words]), None)


def _row(name: str, card: "Card", sort: str) -> tuple[str, ...]:
    score = _score(card, sort)
    shown = "" if card.trained else "no weights yet"
    if score is not None:
        shown = f"{with_error(score.value, score.standard_error)} {score.name}"
    size = short_count(card.parameters)
    return (name, card.architecture, card.task or "", card.license, size, shown)


def _facts(card: "Card", owner: "Plugin | None") -> dict[str, Any]:
    """A card as JSON, with the plugin that brings it."""
    return {
        "name": card.name,
        "summary": card.summary,
        "architecture": card.architecture,
        "task": card.task,
        "pipeline": card.pipeline,
        "parameters": card.parameters,
        "license": card.license,
        "datasets": card.datasets,
        "base_models": card.base_models,
        "plugin": owner.name if owner else None,
        "folder": str(card.folder),
        "bundled": owner is not None and card.installed,
        "hub": dataclasses.asdict(card.hub) if card.hub else None,
        "scores": [dataclasses.asdict(score) for score in card.scores],
        "requires": card.requires,
        "files": {name: dataclasses.asdict(record) for name, record in card.files.items()},
        "training": json.loads(json.dumps(card.training, default=str)),
    }


def _owner(card: "Card") -> "Plugin | None":
    """The plugin that brings a card, None for a folder of somebody's."""
    from zoo.registry import registry

    models = registry().models
    return next((models.owner(name) for name, other in models.items() if other is card), None)


def _mention_broken() -> None:
    """Say on standard error that something is set aside."""
    import zoo

    plugins = zoo.list_plugins()
    counts = {
        "plugin": sum(plugin.error is not None for plugin in plugins),
        "model": sum(len(plugin.broken_models) for plugin in plugins),
    }
    aside = [plural(count, word) for word, count in counts.items() if count]
    if aside:
        click.echo(f"txzoo: broken: {' and '.join(aside)}; txzoo plugins shows why", err=True)


@click.command()
@click.argument("ref")
@output.json_option
def info(ref: str, as_json: bool) -> None:
    """Show what is known about a model.

    REF is a name, hf://owner/name[@revision], or a path to a model folder.
    """
    import zoo

    card = zoo.info(ref)
    facts = _facts(card, _owner(card))
    if as_json:
        return output.print_json(facts)
    click.echo(output.styled(card.name, fg="cyan", bold=True))
    if card.summary:
        click.echo(click.wrap_text(card.summary, shutil.get_terminal_size().columns))
    click.echo()
    shown = {key: facts[key] or "" for key in ("architecture", "task", "pipeline", "license")}
    shown["parameters"] = f"{card.parameters:,}" if card.parameters else ""
    shown["plugin"] = facts["plugin"] or ""
    shown["made from"] = ", ".join(card.base_models)
    if card.hub:
        shown["on the Hub"] = f"{card.hub.repo} at {card.hub.revision[:12]}"
    shown["folder"] = facts["folder"]
    output.print_facts({key: value for key, value in shown.items() if value})
    if card.scores:
        output.heading("Scores")
        title, cells = card.baselines()
        rows = [
            (
                score.name,
                with_error(score.value, score.standard_error),
                score.dataset,
                score.split,
                *cell,
            )
            for score, cell in zip(card.scores, cells, strict=True)
        ]
        output.print_table(("score", "value", "data set", "split", *title), rows)
    if card.files:
        output.heading("Files")
        files = [
            (name, short_bytes(record.bytes), record.sha256[:16])
            for name, record in card.files.items()
        ]
        output.print_table(("file", "size", "sha256 begins"), files, right=("size",))
    if card.requires:
        output.heading("Needs")
        output.print_facts(card.requires)
    if facts["training"]:
        output.heading("Training")
        output.print_facts({key: str(value) for key, value in facts["training"].items()})


@click.command()
@click.option("--all", "everything", is_flag=True, help="txzoo's own too, when they are well.")
@click.option("--strict", is_flag=True, help="Exit status 1 when one is broken.")
@output.json_option
@click.pass_context
def plugins(ctx: click.Context, everything: bool, strict: bool, as_json: bool) -> None:
    """Show what each plugin brings, what it costs, and which are broken and why."""
    import zoo
    from zoo.cli import commands
    from zoo.registry import registry

    added: dict[str, list[str]] = {}
    catalogue = commands()
    for name in catalogue.names():
        added.setdefault(catalogue.owner(name).name, []).append(name)
    registry().models.names()  # reads the cards, so that broken ones are known
    found = [_describe(plugin, added.get(plugin.name, [])) for plugin in zoo.list_plugins()]
    broken = any(plugin["error"] or plugin["broken_models"] for plugin in found)
    own = [p for p in found if p["distribution"] == "txzoo" and _is_well(p)]
    if not everything:
        found = [plugin for plugin in found if plugin not in own]
    if as_json:
        output.print_json(found)
    else:
        if found:
            _print_plugins(found)
        if not everything:
            besides = "" if found else "No plugin besides "
            click.echo(f"{besides}{len(own)} of txzoo's own, all well: --all shows them")
        for plugin in found:
            _explain(plugin, traceback=ctx.find_root().obj["traceback"])
    if strict and broken:
        ctx.exit(1)


def _is_well(plugin: dict[str, Any]) -> bool:
    """Whether there is nothing to say about a plugin."""
    return plugin["state"] == "ok" and not (plugin["broken_models"] or plugin["output"])


def _print_plugins(found: list[dict[str, Any]]) -> None:
    output.print_table(
        ("plugin", "version", "brings", "ms", "state", "conformance"),
        [
            (
                plugin["name"],
                plugin["version"],
                ", ".join(plural(len(n), kind[:-1]) for kind, n in plugin["brings"].items()),
                f"{1000 * plugin['seconds']:.0f}",
                plugin["state"],
                _conformance(plugin),
            )
            for plugin in found
        ],
        right=("ms",),
        spare=("version", "conformance"),
    )


def _conformance(plugin: dict[str, Any]) -> str:
    """What the conformance kit found here last."""
    if plugin["conformance"]:
        return str(plugin["conformance"]["words"])
    return "not checked" if plugin["state"] == "ok" else ""


def _explain(plugin: dict[str, Any], *, traceback: bool) -> None:
    """What is wrong with a plugin, and what it costs or prints that it should not."""
    name = plugin["name"]
    for error in filter(None, (plugin["error"], *plugin["broken_models"].values())):
        _complain(name, error)
    for words in plugin["warnings"]:
        click.echo(f"{name}: {words}")
    if plugin["heavy"]:
        click.echo(
            f"{name} imports {', '.join(plugin['heavy'])} when it starts: every command waits "
            f"{1000 * plugin['seconds']:.0f} ms for it (TXZOO_DISABLE_PLUGINS={name} leaves it out)"
        )
    if traceback:
        for text in filter(None, (plugin["traceback"], plugin["output"])):
            click.echo(text.rstrip())
    elif plugin["output"]:
        words = plural(len(plugin["output"].splitlines()), "line")
        click.echo(f"{name} printed {words} while starting (--traceback shows)")


def _describe(plugin: "Plugin", added: list[str]) -> dict[str, Any]:
    """A plugin as JSON."""
    from zoo.registry import registry
    from zoo.testing.records import last_record

    models = registry().models
    own = [name for name in models.names() if models.owner(name) is plugin]
    brings = {
        kind: [entry.name for entry in entries]
        for kind, entries in plugin.entries.items()
        if kind != "models"
    } | {"models": own, "commands": added}
    state = "disabled" if plugin.disabled else "broken" if plugin.error else "ok"
    record = None if plugin.error or plugin.disabled else last_record(plugin)
    return {
        "name": plugin.name,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "module": plugin.module,
        "state": state,
        "disabled_by": plugin.disabled_by or None,
        "brings": {kind: names for kind, names in brings.items() if names},
        "seconds": round(plugin.seconds, 4),
        "heavy": list(plugin.heavy),
        "error": plugin.error,
        "traceback": plugin.traceback,
        "output": plugin.output,
        "warnings": plugin.warnings,
        "broken_models": {str(folder): error for folder, error in plugin.broken_models.items()},
        "conformance": record and {**dataclasses.asdict(record), "words": str(record)},
    }


def _complain(name: str, error: str) -> None:
    click.echo(f"{output.styled(name, fg='red', bold=True)}: {output.styled(error, fg='red')}")
