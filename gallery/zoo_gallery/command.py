"""The verb `txzoo gallery`."""

from importlib.util import find_spec

import click

from zoo.errors import MissingExtraError


@click.command()
@click.option("--host", metavar="ADDRESS", help="Listen there: 127.0.0.1 unless given.")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    envvar="GRADIO_SERVER_PORT",
    help="The first free one from 7860 on unless given; GRADIO_SERVER_PORT works too.",
)
@click.option("--open/--no-open", "browser", default=True, help="Open a browser, or do not.")
@click.option(
    "--max-new-tokens",
    type=click.IntRange(min=1),
    metavar="N",
    help="Most tokens an answer may have: 200 unless given.",
)
def gallery(host: str | None, port: int | None, browser: bool, max_new_tokens: int | None) -> None:
    """Show all models in a browser: try, compare and train them, look into them.

    Ctrl-C ends it.
    """
    for package in ("gradio", "matplotlib"):
        if find_spec(package) is None:
            raise MissingExtraError("txzoo gallery", "gallery")
    from zoo_gallery.app import launch
    from zoo_gallery.state import Limits

    limits = Limits() if max_new_tokens is None else Limits(new_tokens=max_new_tokens)
    launch(limits, host=host, port=port, browser=browser)
