"""`txzoo compare`."""

import json

import click

from zoo.cli import output

RIGHT = ("seeds", "trained", "share", "minutes", "memory", "file", "parameters")


@click.command()
@click.argument("refs", nargs=-1)
@click.option("--task", help="What models are measured on; the first one's own unless given.")
@click.option("--split", default="test", show_default=True, help="Of the task.")
@click.option("--limit", type=int, help="Only the first so many tokens or examples.")
@click.option("--context", type=int, help="Tokens read at once, for language models.")
@click.option("--study", help="A study instead of models: its name, or the file of its plan.")
@click.option("--out", help="A folder that keeps what is found; what was stopped goes on.")
@click.option("--base", help="Of a study: where its base lies, if not where the plan says.")
@click.option("--method", "methods", multiple=True, help="Of a study: only this one; repeat it.")
@click.option("--workers", metavar="N", default="1", help="So many at a time, or ray.")
@click.option("--save", "saved", multiple=True, help="Write it, by ending: .md .json .svg .png.")
@output.json_option
def compare(
    refs: tuple[str, ...],
    task: str | None,
    split: str,
    limit: int | None,
    context: int | None,
    study: str | None,
    out: str | None,
    base: str | None,
    methods: tuple[str, ...],
    workers: str,
    saved: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure models side by side, or compare ways of adapting one.

    `txzoo compare alibi-lm rope-lm`; `txzoo compare --study emotion-adaptation` shows what was
    found, and with `--out FOLDER` does the runs again.

    With `--workers N` so many runs or models have a process each at the same time; with
    `--workers ray` as many as a Ray cluster, or this machine, has room for.
    """
    import zoo

    if bool(refs) == bool(study):
        raise click.UsageError("give models, or --study and the name of one")
    if not study and (base or methods):
        raise click.UsageError("--base and --method belong to --study")
    if study and not out and (base or methods):
        raise click.UsageError("--base and --method are for runs: give --out, a folder for them")
    table = zoo.compare(
        study or list(refs),
        task,
        split=split,
        limit=limit,
        context=context,
        out=out,
        base=base,
        methods=methods,
        workers=int(workers) if workers.isdecimal() else workers,
        tell=lambda line: click.echo(line, err=True),
    )
    for path in saved:
        table.save(path)
    if as_json:
        output.print_json(json.loads(table.to_json()))
        return
    output.heading(table.title)
    output.print_table(table.columns, table.rows, right=RIGHT, spare=("memory", "share"))
