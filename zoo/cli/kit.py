"""The verbs for those who write or install plugins."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoo.cli import output
from zoo.errors import InputError

if TYPE_CHECKING:
    from zoo.testing import Report

KINDS = ("architecture", "task", "pipeline", "tuning")


@click.command("new-plugin")
@click.argument("name")
@click.option(
    "--kind", type=click.Choice(KINDS), default="architecture", show_default=True, help="It brings."
)
@click.option("--out", type=click.Path(path_type=Path), help="Its folder; NAME unless given.")
def new_plugin(name: str, kind: str, out: Path | None) -> None:
    """Write a new plugin, complete and installable.

    NAME is what pip will install, such as zoo-hello.
    """
    from zoo.template import write_plugin

    folder = out or Path(name)
    for path in write_plugin(name, folder, kind=kind):
        click.echo(str(path))
    click.echo(f"\nNow: cd {shlex.quote(str(folder))} && pip install -e '.[test]'")
    click.echo(f"Then: txzoo check-plugin {name}; {folder / 'README.md'} says how to go on")


@click.command("check-plugin")
@click.argument("targets", nargs=-1, metavar="TARGET...")
@click.option("--all", "everything", is_flag=True, help="Every installed plugin.")
@click.option(
    "--level",
    type=click.Choice(["quick", "full"]),
    default="full",
    show_default=True,
    help="quick leaves out what takes longer.",
)
@click.option(
    "--expect", "expected", multiple=True, metavar="NUMBER=REASON", help="A check that may fail."
)
@output.json_option
@click.pass_context
def check_plugin(
    ctx: click.Context,
    targets: tuple[str, ...],
    everything: bool,
    level: str,
    expected: tuple[str, ...],
    as_json: bool,
) -> None:
    """Hold plugins against the conformance kit.

    TARGET is a distribution, an entry point, both as distribution:entry_point, or the folder of an
    installed project. Exit status 1 when a check fails that is not expected to, or passes that is.
    """
    from zoo.plugins import installed
    from zoo.testing.kit import Session, find
    from zoo.testing.records import save_record

    if bool(targets) == everything:
        raise click.UsageError("give plugins, or --all")
    found = installed()[0] if everything else [one for target in targets for one in find(target)]
    reasons = dict(map(_expectation, expected))
    reports = []
    for one in sorted(found, key=lambda one: one.plugin().name):
        session = Session(one, level=level, expected_failures=reasons)
        reports.append(session.report())
        save_record(one.plugin(), reports[-1])
        if not as_json:
            _show(reports[-1])
    if as_json:
        output.print_json([report.to_dict() for report in reports])
    if not all(report.ok for report in reports):
        ctx.exit(1)


def _expectation(text: str) -> tuple[str, str]:
    number, equals, reason = text.partition("=")
    if not equals or not reason.strip():
        raise click.UsageError(f"--expect takes NUMBER=REASON, got {text!r}")
    return number.strip(), reason.strip()


def _show(report: "Report") -> None:
    """What did not simply pass, and a line that counts."""
    output.heading(f"{report.plugin} {report.version}")
    rows = [
        (result.number, result.subject, result.outcome, result.message)
        for result in report.results
        if result.outcome != "passed"
    ]
    if rows:
        output.print_table(("check", "of", "result", "why"), rows)
    counts = {r.outcome: report.count(r.outcome) for r in report.results}
    words = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    seconds = sum(result.seconds for result in report.results)
    click.echo(f"kit {report.kit}, level {report.level}: {words}, {seconds:.1f} s")


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("packages", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def install(ctx: click.Context, packages: tuple[str, ...]) -> None:
    """Install plugins: pip install, in this environment.

    PACKAGES and options are handed to pip as they are.
    """
    ctx.exit(_pip("install", packages))


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("packages", nargs=-1, required=True, type=click.UNPROCESSED)
@click.pass_context
def uninstall(ctx: click.Context, packages: tuple[str, ...]) -> None:
    """Uninstall plugins: pip uninstall, in this environment.

    PACKAGES and options are handed to pip as they are; -y asks nothing.
    """
    if "txzoo" in packages:
        raise InputError("txzoo cannot uninstall itself: python -m pip uninstall txzoo")
    ctx.exit(_pip("uninstall", packages))


def _pip(verb: str, words: Sequence[str]) -> int:
    """Print a pip command, run it, and return its exit status."""
    from importlib.util import find_spec

    command = [sys.executable, "-m", "pip", verb, *words]
    click.echo(f"$ {shlex.join(command)}")
    if find_spec("pip") is None:
        raise InputError(
            f"this environment has no pip: {sys.executable} -m ensurepip, or run your installer"
        )
    return subprocess.run(command, check=False).returncode
