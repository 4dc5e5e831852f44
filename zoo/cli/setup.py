"""The verbs of the first minute: demo, and doctor for when something is wrong."""

import dataclasses
import shutil
import sys
from pathlib import Path

import click

from zoo.cli import output


@click.command()
@output.json_option
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> None:
    """Look for what is wrong with this installation.

    Exit status 1 when something is.
    """
    from zoo.doctor import examine

    findings = list(examine())
    wrong = [finding for finding in findings if finding.state == "wrong"]
    if as_json:
        rows = [dataclasses.asdict(finding) for finding in findings]
        output.print_json({"ok": not wrong, "findings": rows})
    else:
        for part in dict.fromkeys(finding.part for finding in findings):
            output.heading(part.capitalize())
            mine = [finding for finding in findings if finding.part == part]
            output.print_table(("", "", ""), [(f.name, f.state, f.value) for f in mine])
        output.heading(f"{len(wrong)} wrong" if wrong else "All is well")
        for finding in wrong:
            click.echo(f"{finding.name}: {finding.advice}")
    if wrong:
        ctx.exit(1)


@click.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("attention.png"),
    show_default=True,
    help="The attention picture.",
)
@click.pass_context
def demo(ctx: click.Context, out: Path) -> None:
    """Let every bundled model write something: a minute, no network."""
    from rich.console import Console

    from zoo.demo import run_demo

    if not run_demo(Console(highlight=False), out, _command()):
        ctx.exit(1)


def _command() -> str:
    """How this program is called from here."""
    if shutil.which("txzoo"):
        return "txzoo"
    path = Path(sys.argv[0]).absolute()
    if path.name != "txzoo":
        return "python -m zoo"
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
