"""The app: one page for each model of the registry, and those that all models share."""

import json
from collections.abc import Callable
from functools import partial
from importlib.metadata import version

import gradio as gr

from zoo.errors import InputError
from zoo.plugins import one_line
from zoo_gallery import ask, chat, compare, index, markup, model_page, train
from zoo_gallery.snippets import reference
from zoo_gallery.state import Gallery, Limits
from zoo_gallery.theme import CSS, theme

LINKS = {"./": "Models", "chat": "Chat", "ask": "Ask", "compare": "Compare", "train": "Train"}
DAY = 86400  # seconds
IDLE = 0.02  # seconds


def launch(
    limits: Limits | None = None,
    *,
    host: str | None = None,
    port: int | None = None,
    browser: bool = False,
) -> None:
    """Show the gallery until it is interrupted.

    Args:
        limits: bounds for its visitors.
        host: address to listen on; `GRADIO_SERVER_NAME` or 127.0.0.1 unless given.
        port: `GRADIO_SERVER_PORT` or the first free one from 7860 on unless given.
        browser: whether to open one.

    Raises:
        InputError: nobody can listen there.
    """
    gallery = Gallery(limits=limits or Limits())
    demo = build(gallery)
    demo.queue(max_size=gallery.limits.waiting, default_concurrency_limit=1)
    # unless told, Gradio looks a thousand times a second whether somebody asks
    demo._queue.sleep_when_free = demo._queue.progress_update_sleep_when_free = IDLE
    try:
        demo.launch(
            server_name=host,
            server_port=port,
            inbrowser=browser,
            theme=theme(),
            css_paths=CSS,
            max_file_size=f"{gallery.limits.file_megabytes}mb",
            ssr_mode=False,
            state_session_capacity=gallery.limits.visitors,
            footer_links=[],
        )
    except OSError as error:
        place = f"port {port or '7860 to 7959'} of {host or '127.0.0.1'}"
        raise InputError(f"Cannot listen on {place}: choose another with --port") from error


def build(gallery: Gallery) -> gr.Blocks:
    """All pages of a gallery; one that cannot be built says why in its place."""
    demo = gr.Blocks(title="txzoo gallery", analytics_enabled=False, delete_cache=(DAY, DAY))
    broken: dict[str, str] = {}
    paths = [_route(demo, card.name, index.path(card)) for card in gallery.cards]
    shared = {"chat": chat.page, "ask": ask.page, "compare": compare.page, "train": train.page}
    for name in shared:
        _route(demo, LINKS[name], name)
    with demo:  # entered once: whenever it is left, Gradio makes the whole application anew
        for card, path in zip(gallery.cards, paths, strict=True):
            demo.current_page = path
            if error := _page(demo, card.name, partial(model_page.page, gallery, card)):
                broken[reference(card)] = error
        for name, build_page in shared.items():
            demo.current_page = name
            _page(demo, LINKS[name], partial(build_page, gallery), name)
        demo.current_page = ""  # the index comes last, so that it knows what is broken
        _page(demo, "Models", partial(index.page, gallery, broken), "./")
    return demo


def _route(demo: gr.Blocks, title: str, path: str) -> str:
    """Add an address; what Gradio calls it, which has addresses of its own."""
    return str(demo.route(title, f"/{path}", show_in_navbar=False).current_page)


def _page(demo: gr.Blocks, title: str, fill: Callable[[], None], here: str = "") -> str:
    """Build one page into its route.

    Args:
        demo: the app.
        title: stands in the tab of the browser.
        fill: makes what is below the header.
        here: the link that leads to it.

    Returns:
        Why it could not be built, or nothing.
    """
    name = json.dumps(f"{title} · txzoo gallery")
    demo.load(None, None, None, js=f"() => {{ document.title = {name} }}", api_visibility="private")
    gr.HTML(header(here))
    with gr.Column() as body:
        try:
            fill()
            return ""
        except Exception as error:  # what a plugin brings is anybody's
            problem = one_line(error)
            body.visible = False
    gr.HTML(markup.error(problem, title="This page is broken:"))
    return problem


def header(here: str) -> str:
    """The line above every page.

    Args:
        here: the link that leads to this page; one of a model's page has none.
    """
    links = "".join(
        f'<a href="{link}"{" aria-current=page" if link == here else ""}>{title}</a>'
        for link, title in LINKS.items()
    )
    return (
        f'<header class="zoo-header"><strong>txzoo</strong> <small>{version("txzoo")}</small>'
        f'<nav aria-label="Pages">{links}</nav></header>'
    )
