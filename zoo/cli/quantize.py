"""The verb that shows what quantisation does to a model: quantize."""

import click

from zoo.cli import output
from zoo.cli.bench import machine_line, shown
from zoo.numbers import short_bytes, titled, with_error


@click.command()
@click.argument("ref", metavar="NAME")
@click.option("--kinds", metavar="A,B", help="Of int8, int4 and dynamic-int8; all unless given.")
@click.option("--limit", type=int, metavar="N", help="Measure the score on the first N only.")
@click.option("--batch", type=int, default=1, show_default=True, help="Inputs at a time.")
@click.option("--tokens", type=int, default=128, show_default=True, help="To write in a round.")
@click.option("--rounds", type=int, default=5, show_default=True, help="Of timing, in turns.")
@output.json_option
def quantize(
    ref: str,
    kinds: str | None,
    limit: int | None,
    batch: int,
    tokens: int,
    rounds: int,
    as_json: bool,
) -> None:
    """Show what 8 or 4 bits a weight do to a model: size, speed and score, before and after.

    The score is the first metric of the model's task, on the split that its card has scores of,
    where the data are at hand; else, of a decoder, the perplexity of text that it writes itself.
    Nothing is written: txzoo export NAME --format safetensors-int8 writes the quantised folder.
    """
    import zoo
    from zoo.evaluation.quantized import effect
    from zoo.evaluation.speed import machine
    from zoo.nn.quantized import KINDS

    chosen = tuple(KINDS) if kinds is None else tuple(kind.strip() for kind in kinds.split(","))
    model = zoo.load(ref)
    found = effect(model, chosen, limit=limit, batch=batch, tokens=tokens, rounds=rounds)
    on = machine(model.device)
    if as_json:
        rows = [
            {
                **vars(row),
                "speed": None if row.speed is None else vars(row.speed),
                "score": None if row.score is None else output.finite(row.score),
                "error": None if row.error is None else output.finite(row.error),
                "change": found.change(row),
            }
            for row in found.rows
        ]
        facts = {
            "model": model.name,
            "batch": batch,
            "metric": found.metric,
            "measured_on": found.text,
        }
        return output.print_json({**facts, "machine": on, "rows": rows})
    unit = next((row.speed.unit for row in found.rows if row.speed is not None), "speed")
    titles = ("weights", "size", unit, "least", "most", titled(found.metric) or "score", "change")
    cells = []
    for row in found.rows:
        fast = row.speed
        speeds = ("-",) * 3 if fast is None else (fast.median, fast.low, fast.high)
        numbers = (value if isinstance(value, str) else shown(value, unit) for value in speeds)
        score = "-" if row.score is None else with_error(row.score, row.error)
        change = found.change(row)
        change_text = "" if change is None else f"{change:+.2%}"
        cells.append((row.kind, short_bytes(row.bytes), *numbers, score, change_text))
    output.print_table(titles, cells, right=titles[1:])
    click.echo(f"\n{model.name}, batch {batch}; measured on {found.text}")
    return click.echo(machine_line(on))
