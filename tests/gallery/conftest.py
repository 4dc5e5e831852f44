"""The gallery as visitors meet it: a process of its own, and a real browser that looks at it."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

STARTED = 120  # seconds that a start may take on a machine with other things to do
LEFT_OUT = ("GRADIO_", "TXZOO_DATA")  # what a stranger's machine does not have
# what Gradio says of a request that a page had under way when it was left
LEFT_BEHIND = ("AbortError: signal is aborted", "Unexpected error Connection errored out")
COMMAND = "import sys; from zoo.cli import main; sys.exit(main(['gallery', '--no-open']))"


@dataclass
class App:
    """A running gallery.

    Attributes:
        url: without a slash at the end.
        pid: of its process.
        log: what it prints.
    """

    url: str
    pid: int
    log: Path


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def running(code: str, log: Path, env: dict[str, str]) -> Iterator[App]:
    """A process that runs Python code which starts the gallery, until it answers."""
    port = free_port()
    settings = {
        **{name: value for name, value in os.environ.items() if not name.startswith(LEFT_OUT)},
        "GRADIO_ANALYTICS_ENABLED": "False",
        "GRADIO_SERVER_PORT": str(port),
        "GRADIO_TEMP_DIR": str(log.with_suffix("")),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        **env,
    }
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", code], env=settings, stdout=output, stderr=subprocess.STDOUT
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_for(url, process, log)
        yield App(url, process.pid, log)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + STARTED
    while time.monotonic() < end and process.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=10).close()
            return
        except OSError:
            time.sleep(0.2)
    pytest.fail(f"The gallery does not answer, it printed:\n{log.read_text(errors='replace')}")


Serve = Callable[..., contextlib.AbstractContextManager[App]]


@pytest.fixture(scope="session")
def serve(tmp_path_factory: pytest.TempPathFactory) -> Serve:
    """Start a gallery of one's own: `with serve(code, VARIABLE="value") as app`."""

    def start(code: str = COMMAND, **env: str) -> contextlib.AbstractContextManager[App]:
        return running(code, tmp_path_factory.mktemp("gallery") / "app.log", env)

    return start


@pytest.fixture(scope="session")
def app(serve: Serve) -> Iterator[App]:
    """The gallery that most tests share."""
    with serve() as started:
        yield started


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("these tests drive a browser: apt-get install chromium")
    flags = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        expect.set_options(timeout=60_000)  # the machine may be busy
        started = playwright.chromium.launch(executable_path=path, args=flags)
        yield started
        started.close()


def faults(context: BrowserContext) -> list[str]:
    """What goes wrong in any tab of a context from now on, one line each."""
    found: list[str] = []

    def request(asked: Any) -> None:
        address = urlsplit(asked.url)
        if address.hostname not in ("127.0.0.1", None):
            found.append(f"asked for {asked.url}")

    def response(answer: Any) -> None:
        if answer.status >= 400:
            found.append(f"{answer.status} for {answer.url}")

    def console(message: Any) -> None:
        if message.type == "error" and not message.text.startswith(LEFT_BEHIND):
            found.append(f"console: {message.text}")

    context.on("request", request)
    context.on("response", response)
    context.on("console", console)
    context.on("weberror", lambda error: found.append(f"script: {error.error}"))
    return found


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """A tab; at its end nothing may have gone wrong, in it and in others of its context."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-GB")
    context.set_default_timeout(60_000)
    found = faults(context)
    yield context.new_page()
    context.close()
    assert not found


LOOKS = [(theme, width) for theme in ("light", "dark") for width in (1280, 320)]
Flaws = Callable[..., list[str]]


@pytest.fixture(scope="session")
def flaws() -> Flaws:
    """What is wrong with a page as it stands: axe-core's findings, and more width than its window.

    It is looked at in both themes, wide and narrow, or in one of these four, by its number.
    """
    axe = Axe()

    def find(page: Page, look: int | None = None) -> list[str]:
        found: list[str] = []
        page.add_style_tag(content="* { transition: none !important }")  # a fading text is pale
        for theme, width in LOOKS if look is None else [LOOKS[look]]:
            page.emulate_media(color_scheme=theme)
            expect(page.locator("body.dark")).to_have_count(int(theme == "dark"))
            page.set_viewport_size({"width": width, "height": 900})
            page.wait_for_timeout(100)  # charts are drawn anew
            here = f"{page.url} {theme} {width}:"
            found += [
                f"{here} {rule['id']}: {' '.join(map(str, node['target']))} {node['html'][:200]} "
                f"{node['failureSummary']}"
                for rule in axe.run(page).response["violations"]
                for node in rule["nodes"]
            ]
            if (wide := page.evaluate("document.documentElement.scrollWidth")) > width:
                found.append(f"{here} is {wide} wide")
        return found

    return find
