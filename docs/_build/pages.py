"""What the documentation takes from the registry: Markdown made anew at each build."""

import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from html import escape
from pathlib import Path

import click
from measured import kept, markdown
from zoo_gallery.snippets import python_snippet, shell_snippet, slug

import zoo
from zoo import Card
from zoo.attention import alignment, token_labels
from zoo.card import Score
from zoo.charts import (
    heatmap,
    lengths,
    lengths_of,
    losses,
    read_curve,
    svg,
    trained_length,
    training_curve,
    validations,
)
from zoo.cli import VERBS, cli, commands
from zoo.evaluation.compare import compare
from zoo.evaluation.study import find_study, studies
from zoo.hookspecs import HOOKS_VERSION, Hooks
from zoo.numbers import in_words, lower_is_better, short_bytes, short_count, with_error
from zoo.registry import registry, resolve
from zoo.testing import CHECKS, KIT_VERSION, check_plugin

HERE = Path(__file__).parent
SHOWN_TOKENS = 20  # of a text whose attention is drawn: more labels cannot be read
Draw = Callable[[str, str], str]  # an <svg> and its caption to what stands for it in Markdown


def plain(text: object) -> str:
    """A text as it is: no character of it means anything to Markdown or HTML."""
    return re.sub(r"[\\`*_{}\[\]()<>#|&~$!]", lambda sign: f"&#{ord(sign[0])};", str(text))


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A Markdown table; cells are Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines) + "\n"


def code(text: str, language: str) -> str:
    """A fenced block that holds any text, fences too."""
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}\n"


def link(kind: str, name: str) -> str:
    """A link from one generated page's folder to a page of another kind."""
    return f"[`{name}`](../{kind}/{name.replace(':', '_')}.md)"


def model_link(card: Card) -> str:
    """A link to a model's page, from a page one folder deep."""
    return f"[`{card.name}`](../models/{slug(card)}.md)"


def cards() -> list[Card]:
    """The cards of all models, by name."""
    return [card for _, card in registry().models.items()]


def headline(card: Card) -> str:
    """A card's first score in words."""
    if not card.scores:
        return ""
    score = card.scores[0]
    return f"{with_error(score.value, score.standard_error)} {plain(score.name)}"


# models


def models_table(page: str, draw: Draw) -> str:
    """Every model, a line each."""
    return table(
        ("model", "idea", "architecture", "task", "size", "score"),
        (
            (
                model_link(card),
                plain(card.summary),
                link("architectures", card.architecture),
                link("tasks", card.task) if card.task else "",
                short_count(card.parameters),
                headline(card),
            )
            for card in cards()
        ),
    )


def model_page(card: Card, draw: Draw) -> str:
    """A model's page: facts, scores, use, attention, the training curve, the card's prose."""
    parts = [
        f"# {plain(card.name)}\n\n{plain(card.summary)}.\n",
        model_facts(card),
        "## Scores\n",
        scores_table(card),
        f"`txzoo verify {card.name}` computes them again. What they mean, and the error beside "
        "each: [How models are measured](../guides/evaluate.md).\n",
    ]
    if card.trained and card.hub is None and card.pipeline in ("text-generation", "translation"):
        shown, output = use(card)
        attention = attention_part if card.pipeline == "text-generation" else alignment_part
        parts += [*shown, *attention(card, output, draw)]
    parts += training_part(card, draw)
    return "\n".join([*parts, "## The card\n", prose(card)])


def model_facts(card: Card) -> str:
    """What a card says in a line each."""
    run = {name: value for name, value in card.training.items() if name != "seed"}
    words = ", ".join(f"{plain(value)} {plain(name.replace('_', ' '))}" for name, value in [
        (name, f"{run[name]:,}") for name in ("steps", "tokens", "epochs", "minutes") if name in run
    ])  # fmt: skip
    rows = {
        "architecture": link("architectures", card.architecture),
        "task": link("tasks", card.task) if card.task else "",
        "pipeline": f"`{card.pipeline}`",
        "parameters": f"{card.parameters:,}" if card.parameters else "",
        "read at once in training": f"{trained_length(card)} tokens" * bool(trained_length(card)),
        "size on disk": short_bytes(sum(record.bytes for record in card.files.values())),
        "licence of the weights": plain(card.license),
        "made from": plain(", ".join(card.base_models)),
        "needs": plain(", ".join(name + asked for name, asked in card.requires.items())),
        "training": f"{words}; {plain(run['hardware'])}" if "hardware" in run else words,
    }
    return table(("", ""), ((name, value) for name, value in rows.items() if value))


def scores_table(card: Card) -> str:
    """Every number on a card, with its standard error."""
    if not card.scores:
        return "The card has none.\n"
    at = trained_length(card)
    ends = " (95% interval)" * any(score.interval for score in card.scores)
    title, cells = card.baselines()
    rows = table(
        ("metric", "data", "split", "read at once", f"score{ends}", *title),
        (
            (
                plain(score.key.replace("_", " ")),
                plain(score.dataset),
                plain(score.split),
                f"{score.context or at or ''}",
                with_error(score.value, score.standard_error) + interval(score),
                *cell,
            )
            for score, cell in zip(card.scores, cells, strict=True)
        ),
    )
    signatures = (
        f"- {plain(score.name)}, {plain(score.split)}: `{score.signature.replace('`', '')}`\n"
        for score in card.scores
        if score.signature
    )
    return "\n".join([rows, "".join(signatures)])


def interval(score: Score) -> str:
    """The ends of a score's 95% interval in brackets, where the card has them."""
    if score.interval is None:
        return ""
    low, high = (in_words(end, score.standard_error)[0] for end in score.interval)
    return f" ({low} to {high})"


def use(card: Card) -> tuple[list[str], str]:
    """How to call a model, and what it then says."""
    from blocks import run_page

    script = python_snippet(card)
    output = run_page(code(script, "python"))[0].output
    parts = [
        "## Use\n",
        code(script, "python"),
        "prints\n",
        code(output, "text"),
        "In a shell:\n",
        code(shell_snippet(card), "bash"),
    ]
    return parts, output


def attention_part(card: Card, output: str, draw: Draw) -> list[str]:
    """Where two heads of a model look while it reads the beginning of what it said."""
    model = zoo.load(str(card.folder))
    assert model.tokenizer is not None
    offsets = model.tokenizer.encode(output).offsets
    text = output[: offsets[min(SHOWN_TOKENS, len(offsets)) - 1][1]]
    labels = token_labels(model.tokenizer, text)
    maps = model.attention(text)
    pictures = [
        draw(
            svg(heatmap(maps[layer][head], labels), f"{card.name}, {title}"),
            f"{card.name}, {title}: a row for each token that looks",
        )
        for layer, head, title in (
            (0, 0, "first layer, first head"),
            (-1, -1, "last layer, last head"),
        )
    ]
    return [
        "## Attention\n",
        "On the beginning of that text, in two of its heads "
        f"({len(maps)} layers of {len(maps[0])} heads). `model.attention(text)` gives the numbers; "
        "how to read them: [Attention](../primer/attention.md).\n",
        *pictures,
    ]


def alignment_part(card: Card, output: str, draw: Draw) -> list[str]:
    """Where a translator looks in the source while it writes what it said."""
    model = zoo.load(str(card.folder))
    assert card.example is not None  # it was called with it
    found = alignment(model, card.example, output.strip())
    pictures = [
        draw(
            svg(heatmap(weights.mean(0), found.target, columns=found.source), f"{card.name}, {at}"),
            f"{card.name}, {at}, mean of its heads: a row for each word that is written",
        )
        for at, weights in (("first layer", found.layers[0]), ("last layer", found.layers[-1]))
    ]
    return [
        "## Alignment\n",
        "Where the decoder looks in the source while it writes that "
        f"({len(found.layers)} layers of {len(found.layers[0])} heads). "
        "`zoo.attention.alignment(model, source)` gives the numbers; how to read them: "
        "[What was translated by what](../guides/translate.md#what-was-translated-by-what).\n",
        *pictures,
    ]


def training_part(card: Card, draw: Draw) -> list[str]:
    """The training curve and its last numbers; nothing where there is no log."""
    rows = read_curve(card.folder)
    curve = losses(rows)
    if not curve:
        return []
    metric = card.scores[0].key if card.scores else ""
    name, points = validations(rows, metric)
    parts = [
        "## Training\n",
        draw(svg(training_curve(rows, metric), f"Training curve of {card.name}"), "By step"),
        f"The last loss in the log is {curve[-1][1]:.3f} nats, at step {curve[-1][0]:,}.\n",
    ]
    if points:
        found = ((f"{step:,}", with_error(value, error)) for step, value, error in points)
        parts.append(table(("step", f"validation {plain(name)}"), found))
    return parts


def prose(card: Card) -> str:
    """The prose of a card: headings one level down, HTML as text, no pictures from elsewhere."""
    pieces = re.split(r"(^```.*?^```$|`[^`\n]+`)", card.text, flags=re.M | re.S)
    for index in range(0, len(pieces), 2):  # between the pieces of code
        piece = re.sub(r"^# .*\n", "", pieces[index], flags=re.M)
        piece = re.sub(r"^(#+ )", r"#\1", piece, flags=re.M)
        pieces[index] = piece.replace("<", "&lt;").replace("![", "[")
    return "".join(pieces)


# architectures


def architectures_table(page: str, draw: Draw) -> str:
    """Every architecture, a line each."""
    return table(
        ("architecture", "idea", "paper", "models"),
        (
            (
                link("architectures", name),
                plain(entry.summary),
                paper(entry.paper),
                ", ".join(model_link(card) for card in cards() if card.architecture == name),
            )
            for name, entry in registry().architectures.items()
        ),
    )


def paper(reference: str) -> str:
    """A paper as a link when it is one."""
    if not reference.startswith("https://"):
        return plain(reference)
    short = reference.removeprefix("https://arxiv.org/abs/")
    return f"[{'' if short == reference else 'arXiv:'}{plain(short)}]({reference})"


def architecture_page(name: str) -> str:
    """The page of an architecture that has none of its own."""
    summary = registry().architectures.get(name).summary
    parts = [
        "<!-- generated: architecture-facts -->",
        "## The file",
        "<!-- generated: architecture-file -->",
    ]
    return "\n\n".join([f"# {plain(name)}", f"{plain(summary)}.", *parts])


def architecture_facts(page: str, draw: Draw) -> str:
    """Paper, checkpoints that are read, models; cost; scores by length."""
    name = Path(page).stem
    entry = registry().architectures.get(name)
    owner = registry().architectures.owner(name)
    mine = [card for card in cards() if card.architecture == name]
    rows = {
        "name": f"`zoo.create({name!r}, ...)`",
        "paper": paper(entry.paper),
        "reads checkpoints of": ", ".join(f"`{kind}`" for kind in entry.model_types),
        "models": ", ".join(map(model_link, mine)),
        "plugin": f"`{owner.name}` {owner.version}",
        "conformance": f"{plain(conformance(owner.name))}, see [the kit](../guides/conformance.md)",
    }
    parts = [table(("", ""), ((key, value) for key, value in rows.items() if value))]
    cost = [line for line in cost_lines() if line.startswith(f"| {name}")]
    if cost:
        parts += ["## What it costs\n", "\n".join([*cost_lines()[:2], *cost]) + "\n"]
        parts.append(
            "Beside the others, and on what machine: [all architectures](index.md#cost).\n"
        )
    if series := lengths_of(mine):
        parts += ["## Longer texts than in training\n", lengths_table(series)]
        parts.append("Perplexity per word on the test split, by tokens read at once; ")
        parts.append("drawn beside the others: [all architectures](index.md#length).\n")
    return "\n".join(parts)


@cache
def conformance(plugin: str) -> str:
    """What the conformance kit finds in a plugin, in words."""
    report = check_plugin(plugin, level="quick", on_fail=None)
    failed = [result.number for result in report.results if not result.ok]
    words = f"failed {', '.join(failed)}" if failed else f"passed {report.count('passed')}"
    return f"{words} (kit {report.kit}, {report.level})"


def checks_part(page: str, draw: Draw) -> str:
    """Every check of the conformance kit."""
    parts = [f"Version of the kit: {KIT_VERSION}.\n"]
    for kind in dict.fromkeys(check.kind for check in CHECKS):
        rows = ((f"`{c.number}`", plain(c.title), c.level) for c in CHECKS if c.kind == kind)
        parts += [f"### Of each {kind}\n", table(("number", "holds when", "level"), rows)]
    return "\n".join(parts)


def architecture_file(page: str, draw: Draw) -> str:
    """The source of the architecture's module, in full."""
    entry = registry().architectures.get(Path(page).stem)
    module = inspect.getmodule(resolve(entry.target))
    assert module is not None
    return code(inspect.getsource(module), "python")


def cost_lines() -> list[str]:
    """The table that `benchmarks/architectures.py` printed, line by line."""
    text = (HERE / "cost.md").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line.startswith("|")]


def cost_table(page: str, draw: Draw) -> str:
    """All that `benchmarks/architectures.py` printed."""
    return (HERE / "cost.md").read_text(encoding="utf-8")


def benchmarks_part(page: str, draw: Draw) -> str:
    """What `benchmarks/table.py` measured last."""
    return markdown(kept())


def lengths_part(page: str, draw: Draw) -> str:
    """Perplexity by length of all models of WikiText-2, drawn and as a table."""
    mine = [card for card in cards() if card.task == "wikitext-2"]
    series = lengths_of(mine)
    if not series:
        return "No card holds such scores.\n"
    trained = {trained_length(card) for card in mine}
    drawing = lengths(series, trained=trained.pop() if len(trained) == 1 else None)
    picture = svg(drawing, "Perplexity per word by tokens read at once")
    return draw(picture, "WikiText-2 test, one standard error") + "\n" + lengths_table(series)


def lengths_table(series: dict[str, list[tuple[int, float, float]]]) -> str:
    """A model a row, a length a column."""
    contexts = sorted({context for points in series.values() for context, _, _ in points})
    rows = []
    for name, points in series.items():
        found = {context: with_error(value, error) for context, value, error in points}
        cells = [found.get(context, "–") for context in contexts]
        rows.append((model_link(registry().models.get(name)), *cells))
    return table(("model", *(f"{context:,} tokens" for context in contexts)), rows)


def studies_part(page: str, draw: Draw) -> str:
    """Each study: what it asks, what came of it, and the command that does it again."""
    parts = []
    for name, plan in studies().items():
        study = find_study(plan)
        parts += [f"### {plain(name)}\n", f"{plain(study.summary)}.\n"]
        if study.runs:
            found, facts = compare(study), study.facts
            ways = table([plain(c) for c in found.columns], [map(plain, r) for r in found.rows])
            parts += [
                f"{plain(study.subject)} on `{facts['task']}`, {plain(facts['split'])} split. "
                "After ± stands the standard error of the mean over seeds; *trained* counts numbers, and "
                f"minutes are those of {plain(facts['hardware'])}.\n",
                ways,
                draw(
                    svg(found.figure(), f"{name}: score by trained parameters"), "One point a way"
                ),
                draw(svg(found.curves(), f"{name}: training loss"), "First seed of each way"),
            ]
        else:
            parts.append("It has not been run yet.\n")
        parts.append(code(f"txzoo compare --study {name} --out runs/{name}", "bash"))
    return "\n".join(parts)


# tasks


def tasks_table(page: str, draw: Draw) -> str:
    """Every task, a line each."""
    return table(
        ("task", "is", "pipeline", "licence of the data"),
        (
            (
                link("tasks", name),
                plain(entry.summary),
                f"`{entry.pipeline}`",
                plain(entry.license),
            )
            for name, entry in registry().tasks.items()
        ),
    )


def task_page(name: str) -> str:
    """The page of a task that has none of its own."""
    summary = registry().tasks.get(name).summary
    return f"# {plain(name)}\n\n{plain(summary)}.\n\n<!-- generated: task-facts -->"


def task_facts(page: str, draw: Draw) -> str:
    """Splits, metrics, licence; the models trained on it with their scores, best first."""
    name = Path(page).stem
    entry = registry().tasks.get(name)
    owner = registry().tasks.owner(name)
    task = resolve(entry.target)
    rows = [
        ("pipeline", f"`{entry.pipeline}`"),
        ("splits", ", ".join(f"`{split}`" for split in task.splits)),
        ("measured on", ", ".join(f"`{split}`" for split in task.test_splits)),
        ("metrics", ", ".join(f"`{metric}`" for metric in entry.metrics)),
        ("licence of the data", plain(entry.license)),
        ("plugin", f"`{owner.name}` {owner.version}"),
    ]
    parts = [table(("", ""), rows)]
    metric = entry.metrics[0]
    found = [
        (score.value, card, score)
        for card in cards()
        if card.task == name
        for score in card.scores
        if score.key == metric and score.context is None
    ]
    if found:
        found.sort(key=lambda row: row[0], reverse=not lower_is_better(metric))
        beside = ("TF-IDF",) if any(score.baseline for _, _, score in found) else ()
        head = ("model", "architecture", "size", "split", plain(metric.replace("_", " ")), *beside)
        parts += [
            "## Models\n",
            table(
                head,
                (
                    (
                        model_link(card),
                        link("architectures", card.architecture),
                        short_count(card.parameters),
                        plain(score.split),
                        with_error(value, score.standard_error),
                        *(with_error(*score.baseline) if score.baseline else "" for _ in beside),
                    )
                    for value, card, score in found
                ),
            ),
        ]
    return "\n".join(parts)


# reference


def commands_part(page: str, draw: Draw) -> str:
    """Every verb of the command, those of plugins too, with all it takes."""
    own = [(name, "", cli.get_command(click.Context(cli), name)) for name in VERBS]
    catalogue = commands()
    added = [
        (name, catalogue.owner(name).name, command)
        for name, command in catalogue.items()
        if name not in VERBS and catalogue.owner(name).name != "txzoo:core"
    ]
    parts = []
    for name, owner, command in [*own, *added]:
        assert command is not None, name
        parts.append(command_part(command, f"txzoo {name}", owner))
        if isinstance(command, click.Group):
            for verb, below in command.commands.items():
                parts.append(command_part(below, f"txzoo {name} {verb}", ""))
    return "\n".join(parts)


def command_part(command: click.Command, path: str, owner: str) -> str:
    """One verb: usage, help, options."""
    context = click.Context(command, info_name=path)
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    parts = [f"## {path}\n", code(usage, "text"), *plain_paragraphs(command.help or "")]
    if owner:
        parts.append(f"Added by the plugin `{owner}`.\n")
    records = [
        record
        for parameter in command.get_params(context)
        if "--traceback" not in parameter.opts and "--help" not in parameter.opts
        if (record := parameter.get_help_record(context))
    ]
    if records:
        parts.append(
            table(("option", ""), ((f"`{option}`", plain(text)) for option, text in records))
        )
    return "\n".join(parts)


def plain_paragraphs(text: str) -> list[str]:
    """The paragraphs of a docstring as Markdown."""
    return [f"{plain(' '.join(part.split()))}\n" for part in inspect.cleandoc(text).split("\n\n")]


def hooks_part(page: str, draw: Draw) -> str:
    """Every hook with its exact signature."""
    parts = [f"Version of the hooks: {HOOKS_VERSION}.\n"]
    for name, hook in vars(Hooks).items():
        if name.startswith("txzoo_"):
            signature = inspect.signature(hook)
            own = [value for key, value in signature.parameters.items() if key != "self"]
            line = f"def {name}{signature.replace(parameters=own)}: ..."
            for module in ("collections.abc.", "zoo.hookspecs.", "typing.", "pathlib."):
                line = line.replace(module, "")
            parts += [f"## {name}\n", code(f"@zoo.hookimpl\n{line}", "py")]
            parts += plain_paragraphs(hook.__doc__ or "")
    return "\n".join(parts)


def figure(picture: str, caption: str) -> str:
    """An `<svg>` and the words under it, left out of the search."""
    words = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure class="chart" data-search-exclude>{picture}{words}</figure>'


PARTS: dict[str, Callable[[str, Draw], str]] = {
    "models": models_table,
    "architectures": architectures_table,
    "architecture-facts": architecture_facts,
    "architecture-file": architecture_file,
    "cost": cost_table,
    "lengths": lengths_part,
    "benchmarks": benchmarks_part,
    "studies": studies_part,
    "tasks": tasks_table,
    "task-facts": task_facts,
    "commands": commands_part,
    "hooks": hooks_part,
    "checks": checks_part,
}
