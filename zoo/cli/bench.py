"""The verb that times a model: bench."""

from typing import TYPE_CHECKING, Any

import click

from zoo.cli import output
from zoo.cli.options import engine_option
from zoo.numbers import short_bytes, short_count

if TYPE_CHECKING:
    from zoo.evaluation.speed import Figure


@click.command()
@click.argument("ref", metavar="NAME")
@click.option("--batch", type=int, multiple=True, help="Inputs at a time, 1 and 8 unless given.")
@click.option("--tokens", type=int, default=128, show_default=True, help="To write in a round.")
@click.option("--rounds", type=int, default=5, show_default=True, help="Of each, in turns.")
@engine_option
@output.json_option
def bench(
    ref: str, batch: tuple[int, ...], tokens: int, rounds: int, engine: str | None, as_json: bool
) -> None:
    """Time a model on this machine: start, load, memory, and what it does a second.

    Of a decoder is timed how it writes, and how it reads 256 tokens at once; of an encoder-decoder
    how it answers; of an encoder or a classifier how it reads texts or pictures. Inputs are
    random. The works take turns; a round that waited for a processor more than 3 % of its time is
    left out, if there are others.
    """
    from zoo.evaluation import speed
    from zoo.nn.quantized import kind_of

    model, figures = speed.bench(
        ref, batches=batch or speed.BATCHES, tokens=tokens, rounds=rounds, engine=engine
    )
    dtype = str(next(model.module.parameters()).dtype).removeprefix("torch.")
    weights = engine or kind_of(model.module) or dtype
    parameters: int | None = sum(parameter.numel() for parameter in model.module.parameters())
    if engine is not None:  # which holds them
        parameters = None if model.card is None else model.card.parameters
    machine = speed.machine(model.device)
    if as_json:
        facts = {"model": model.name, "parameters": parameters, "weights": weights}
        numbers = [vars(figure) for figure in figures]
        return output.print_json({**facts, "machine": machine, "figures": numbers})
    titles = ("what", "unit", "median", "least", "most", "undisturbed")
    output.print_table(titles, [_row(figure) for figure in figures], right=titles[2:])
    count = "" if parameters is None else f" {short_count(parameters)} parameters,"
    click.echo(f"\n{model.name}:{count} {weights} weights")
    return click.echo(machine_line(machine))


def shown(value: float, unit: str) -> str:
    """A number of a figure for people."""
    if unit == "bytes":
        return short_bytes(int(value))
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def machine_line(machine: dict[str, Any]) -> str:
    """What figures were measured on, in a line."""
    return (
        f"{machine['system']}, {machine['hardware']}; Python {machine['python']}, "
        f"torch {machine['torch']}, txzoo {machine['txzoo']}"
    )


def _row(figure: "Figure") -> tuple[str, ...]:
    numbers = (figure.median, figure.low, figure.high)
    unit = "" if figure.unit == "bytes" else figure.unit
    fed = f"{figure.undisturbed} of {figure.rounds}" if figure.unit.endswith("/s") else "-"
    return (figure.what, unit, *(shown(number, figure.unit) for number in numbers), fed)
