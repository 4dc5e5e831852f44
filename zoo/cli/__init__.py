"""The `txzoo` command: one verb each, one clear line for every error.

Exit status: 0; 1 when something failed; 2 for wrong usage or bad input.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from zoo import __version__
from zoo.errors import ConfigError, InputError, NameClashError, UnknownNameError, ZooError

if TYPE_CHECKING:
    from zoo.registry import Catalogue

VERBS = {  # where each one is defined, in the order of the help
    "list": "zoo.cli.browse:list_models",
    "info": "zoo.cli.browse:info",
    "run": "zoo.cli.run:run",
    "ask": "zoo.cli.ask:ask",
    "chat": "zoo.cli.chat:chat",
    "attention": "zoo.cli.run:attention",
    "explain": "zoo.cli.run:explain",
    "train": "zoo.cli.train:train",
    "eval": "zoo.cli.train:evaluate",
    "lm-eval": "zoo.cli.harness:lm_eval",
    "prompts": "zoo.cli.prompts:prompts",
    "compare": "zoo.cli.compare:compare",
    "verify": "zoo.cli.train:verify",
    "serve": "zoo.cli.serve:serve",
    "merge": "zoo.cli.train:merge",
    "export": "zoo.cli.export:export",
    "quantize": "zoo.cli.quantize:quantize",
    "bench": "zoo.cli.bench:bench",
    "publish": "zoo.cli.hub:publish",
    "pull": "zoo.cli.hub:pull",
    "cache": "zoo.cli.hub:cache",
    "plugins": "zoo.cli.browse:plugins",
    "new-plugin": "zoo.cli.kit:new_plugin",
    "check-plugin": "zoo.cli.kit:check_plugin",
    "install": "zoo.cli.kit:install",
    "uninstall": "zoo.cli.kit:uninstall",
    "doctor": "zoo.cli.setup:doctor",
    "demo": "zoo.cli.setup:demo",
}
BAD_INPUT = (UnknownNameError, NameClashError, ConfigError, InputError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character
    settings = {"traceback": False}
    try:
        status = cli.main(arguments, prog_name="txzoo", standalone_mode=False, obj=settings)
        return status if isinstance(status, int) else 0
    except click.exceptions.Abort:
        click.echo("txzoo: interrupted", err=True)
        return 1
    except Exception as error:
        if settings["traceback"] and not isinstance(error, click.UsageError):
            import traceback

            traceback.print_exception(error)
        click.echo(f"txzoo: {describe(error)}", err=True)
        return 2 if isinstance(error, (*BAD_INPUT, click.UsageError)) else 1


def describe(error: Exception) -> str:
    """An error in one line."""
    words = " ".join(str(error).split())
    if isinstance(error, click.ClickException):
        words = " ".join(error.format_message().split())
        if isinstance(error, click.UsageError) and error.ctx is not None:
            words = f"{words.rstrip('.')}. See: {error.ctx.command_path} --help"
        return words
    if isinstance(error, ZooError):
        return words
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return f"{type(error).__name__}: {words} (--traceback shows where)"


class Verbs(click.Group):
    """The verbs of `VERBS`, imported when used; others are asked of the plugins."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The verbs of txzoo itself: looking at a plugin's would import it."""
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command:
        """A verb.

        Raises:
            UnknownNameError: neither txzoo nor a plugin has it.
            NameClashError: two plugins have it.
        """
        name = cmd_name.removeprefix("txzoo:")
        if name in VERBS:
            module, _, attribute = VERBS[name].partition(":")
            command: click.Command = getattr(import_module(module), attribute)
        else:
            command = commands().get(name)
        if not any(
            "--traceback" in param.opts for param in command.params
        ):  # so that it may stand after the verb too
            command.params.append(TRACEBACK)
        return command

    def invoke(self, ctx: click.Context) -> None:
        """Run the verb; what it returns is not an exit status."""
        super().invoke(ctx)


def commands() -> "Catalogue[click.Command]":
    """The verbs of txzoo and those that plugins add.

    A plugin cannot take a verb of txzoo away: its own is reached as `distribution:name`.
    """
    from zoo.plugins import isolated
    from zoo.registry import CORE, Catalogue, registry

    plugins = registry().plugins
    catalogue: Catalogue[click.Command] = Catalogue("command", plugins)
    for name in VERBS:
        catalogue.add(name, click.Command(name), CORE)
    for plugin in plugins:
        if plugin.error or plugin.disabled:
            continue
        group = click.Group()
        with isolated(plugin):
            plugin.hooks.txzoo_commands(cli=group)
            for name, command in group.commands.items():
                catalogue.add(name, command, plugin)
    return catalogue


def _remember(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    settings: dict[str, Any] = ctx.find_root().ensure_object(dict)
    settings["traceback"] = settings.get("traceback", False) or value


TRACEBACK = click.Option(
    ["--traceback"],
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_remember,
    help="Show where an error comes from.",
)


@click.command(
    cls=Verbs,
    params=[TRACEBACK],
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Plugins add more, such as gallery: txzoo plugins shows them. Start with: txzoo demo",
)
@click.version_option(__version__, message="txzoo %(version)s")
@click.pass_context
def cli(ctx: click.Context) -> None:
    """A zoo of transformer models: code comes from plugins, weights are only data."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
