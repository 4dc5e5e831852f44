"""The verb that answers over HTTP."""

import os
from typing import Any

import click

from zoo.cli.options import engine_option
from zoo.errors import InputError

WRITTEN: tuple[str, ...] = ("text-generation",)
SERVED = (*WRITTEN, "text-classification", "feature-extraction", "fill-mask")
KEY = "TXZOO_SERVE_KEY"  # not an option: others can read a process's arguments


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    type=click.IntRange(0, 65_535),
    default=8000,
    show_default=True,
    help="Likewise; 0 for a free one.",
)
@click.option("--max-new-tokens", type=int, metavar="N", help="Of an answer, at most.")
@click.option("--context", type=int, metavar="N", help="Tokens of a prompt and its answer.")
@click.option("--rows", type=int, metavar="N", help="Answers of a model side by side.")
@click.option("--waiting", type=int, metavar="N", help="Prompts that may wait for a row.")
@click.option("--seconds", type=float, metavar="S", help="For an answer.")
@click.option("--body", type=int, metavar="BYTES", help="Of a request, at most.")
@click.option("--connections", type=int, metavar="N", help="Open at once.")
@engine_option
def serve(names: tuple[str, ...], host: str, port: int, engine: str | None, **limits: Any) -> None:
    """Serve models in the shapes of OpenAI's interface: completions, chat, embeddings.

    All that come with the package, or those that are named; each is loaded when it is first asked
    for. With TXZOO_SERVE_KEY set, clients must send it.
    """
    for name, value in limits.items():
        if value is not None and value <= 0:
            raise InputError(f"--{name.replace('_', '-')} must be above 0, got {value:g}")
    limits["new_tokens"] = limits.pop("max_new_tokens")
    try:
        from zoo.serving.app import Limits, listen, require_served, server
    except ImportError as error:
        from zoo.errors import MissingExtraError

        raise MissingExtraError("Serving", "serve") from error
    from zoo.loading import info, list_models

    pipelines, how = SERVED, ""
    if engine is not None:
        require_served(engine)
        pipelines, how = WRITTEN, f" by {engine}"
    for name in names:  # what nobody could ask for is said now
        if (pipeline := info(name).pipeline) not in pipelines:
            known = ", ".join(pipelines)
            raise InputError(f"{name} has the pipeline {pipeline}; served{how} are {known}")
    served = names or sorted(
        name for pipeline in pipelines for name in list_models(pipeline=pipeline, bundled=True)
    )
    given = {name: value for name, value in limits.items() if value is not None}
    key = os.environ.get(KEY) or None
    made = server(served, limits=Limits(**given), key=key, engine=engine)
    listening = listen(host, port)
    with listening:
        shown = f"[{host}]" if ":" in host else host
        address = f"http://{shown}:{listening.getsockname()[1]}/v1"
        click.echo(f"{address} serves {', '.join(served)}", err=True)
        made.run(sockets=[listening])
