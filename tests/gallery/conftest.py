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
import torch
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

import zoo
from zoo.card import Card
from zoo.drawings import DRAWN, drawing
from zoo.folder import CARD
from zoo.model import Model
from zoo.tokenization import build_tokenizer, mark_texts, pad_id_of

HOSTILE = "<script>window.taken = 1</script><img src=x onerror='window.taken = 1'>"
LINK = "[click](javascript:window.taken=1)"
STARTED = 120  # seconds that a start may take on a machine with other things to do
LEFT_OUT = ("GRADIO_", "TXZOO_DATA")  # what a stranger's machine does not have
# what Gradio says of a request that a page had under way when it was left
LEFT_BEHIND = (
    "AbortError: signal is aborted",
    "AbortError: BodyStreamBuffer was aborted",
    "Unexpected error Connection errored out",
)
COMMAND = "import sys; from zoo.cli import main; sys.exit(main(['gallery', '--no-open']))"
# as on a slow machine: else a text is whole before a page can show that it grows, or be stopped
SLOWLY = """
import time, zoo.generation
def slowly(*given, at_once=zoo.generation.last_logits):
    time.sleep(0.02)
    return at_once(*given)
zoo.generation.last_logits = slowly
"""


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

    def start(
        code: str = COMMAND, *, slowly: bool = False, **env: str
    ) -> contextlib.AbstractContextManager[App]:
        code = SLOWLY + code if slowly else code
        return running(code, tmp_path_factory.mktemp("gallery") / "app.log", env)

    return start


@pytest.fixture(scope="session")
def app(serve: Serve) -> Iterator[App]:
    """The gallery that most tests share."""
    with serve() as started:
        yield started


@pytest.fixture(scope="session")
def slow_app(serve: Serve) -> Iterator[App]:
    """A gallery whose models write 50 tokens a second at most."""
    with serve(slowly=True) as started:
        yield started


def write_plugin(site: Path, name: str, source: str) -> None:
    """What `pip install` of a plugin would leave."""
    (site / f"{name}.py").write_text(source)
    info = site / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[txzoo]\n{name} = {name}\n")


@pytest.fixture(scope="session")
def looker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder that tells the gallery's drawings apart, a little."""
    folder = tmp_path_factory.mktemp("pictures")
    for label in DRAWN:
        (folder / "drawn" / label).mkdir(parents=True)
        for turn in range(5):
            image = drawing(label).rotate(3 * turn)
            image.save(folder / "drawn" / label / f"{turn}.png")
    sizes = {"image_size": 16, "d_model": 16, "n_layers": 2, "n_heads": 2, "d_ff": 16}
    steps = {"steps": 20, "batch_tokens": 16 * 12, "warmup_steps": 2}
    zoo.train("vit-cifar10", data=folder / "drawn", out=folder / "drawn-cct", **sizes, **steps)
    return folder / "drawn-cct"


SENTENCE = "Ada Lovelace wrote the first program in London for Charles Babbage"


def write_encoder(folder: Path, pipeline: str, head: str, labels: tuple[str, ...] = ()) -> None:
    """A random encoder of a few words with a head, which reads twelve tokens."""
    tokenizer = build_tokenizer(SENTENCE, {"kind": "word"})
    mark_texts(tokenizer)
    sizes = {"vocab_size": tokenizer.get_vocab_size(), "max_seq_len": 12, "d_model": 12}
    sizes |= {"n_layers": 2, "n_heads": 3, "d_ff": 16, "pad_id": pad_id_of(tokenizer)}
    torch.manual_seed(3)
    module: Any = zoo.create("encoder", **sizes, head=head, labels=labels).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.dim() > 1:  # a bias would give every token one label
                parameter.add_(torch.randn(parameter.shape))
    ours = {"name": folder.name, "architecture": "encoder", "example": SENTENCE}
    card = Card({"license": "mit", "pipeline_tag": pipeline, "txzoo": ours}, "", folder / CARD)
    model = Model(
        name=folder.name,
        module=module,
        config=module.config,
        tokenizer=tokenizer,
        pipeline=pipeline,
        card=card,
    )
    model.save_pretrained(folder)


@pytest.fixture(scope="session")
def models(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_model: Path,
    translator: Path,
    looker: Path,
    captioner: Path,
) -> Path:
    """The models of a plugin: one that sorts first, a damaged one, a hostile one, others."""
    folder = tmp_path_factory.mktemp("acme") / "models"
    for name in ("aaa-lm", "damaged-lm", "hostile-lm", "numerals-lm"):
        shutil.copytree(translator if name == "numerals-lm" else tiny_model, folder / name)
        card = Card.read(folder / name)
        card.data["txzoo"] |= {"name": name, "example": "count 1 2", "summary": "<i>tiny</i> & new"}
        if name == "numerals-lm":
            card.data["txzoo"]["example"] = "three one four"
        if name == "hostile-lm":
            card.data["txzoo"]["summary"] = HOSTILE
            frame = "<iframe src='//x.test'></iframe>"
            text = f"{card.text}\n\n## Limits\n\n{HOSTILE} {LINK}\n\n{frame}\n"
            card = Card(card.data, text, card.path)
        card.write(folder / name)
    shutil.copytree(looker, folder / "drawn-cct")
    shutil.copytree(captioner, folder / "paints")
    card = Card.read(folder / "paints")
    card.data["txzoo"]["name"] = "paints"
    card.write(folder / "paints")
    labels = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC")
    write_encoder(folder / "tagger", "token-classification", "token-classification", labels)
    write_encoder(folder / "embedder", "feature-extraction", "none")
    (folder / "damaged-lm/README.md").write_text("---\nlicense: [\n---\n")
    return folder


@pytest.fixture(scope="session")
def space(serve: Serve, models: Path) -> Iterator[App]:
    """The gallery as a Space starts it, with two plugins: one of models, one that is broken."""
    site = models.parent / "site"
    site.mkdir()
    write_plugin(
        site,
        "acme",
        "from pathlib import Path\nfrom zoo import hookimpl\n\n@hookimpl\ndef txzoo_models():\n"
        f"    return sorted(Path({str(models)!r}).iterdir())\n",
    )
    write_plugin(site, "bolts", "raise RuntimeError('out of <b>bolts</b>')\n")
    app = Path(__file__).parents[2] / "gallery/app.py"
    code = f"import runpy; runpy.run_path({str(app)!r}, run_name='__main__')"
    paths = [str(site), *filter(None, [os.environ.get("PYTHONPATH")])]
    with serve(code, PYTHONPATH=os.pathsep.join(paths)) as started:
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


@pytest.fixture(scope="session")
def visitor(browser: Browser) -> Iterator[tuple[BrowserContext, list[str]]]:
    """One context for all tests, which loads the scripts of Gradio once, and its faults."""
    context = browser.new_context(viewport={"width": 1280, "height": 900}, locale="en-GB")
    context.set_default_timeout(60_000)
    yield context, faults(context)
    context.close()


@pytest.fixture
def page(visitor: tuple[BrowserContext, list[str]]) -> Iterator[Page]:
    """A tab; at its end nothing may have gone wrong, in it and in others of its context."""
    context, found = visitor
    found.clear()
    yield context.new_page()
    for tab in context.pages:
        tab.close()
    context.clear_permissions()
    assert not found


STILL = "* { transition: none !important }"  # a fading text is pale
# once what follows a change of width is drawn; in two frames, as that may change the width again
LOOK = """async () => {
    for (let n = 0; n < 2; n++) await new Promise(requestAnimationFrame);
    const { violations } = await axe.run(document, { resultTypes: ["violations"] });
    return [violations, document.documentElement.scrollWidth];
}"""
LOOKS = [(theme, width) for theme in ("light", "dark") for width in (1280, 320)]
Flaws = Callable[[Page], list[str]]


@pytest.fixture(scope="session")
def flaws() -> Flaws:
    """What is wrong with a page as it stands: axe-core's findings, and more width than its window.

    It is looked at in both themes, wide and narrow.
    """
    script = Axe().axe_script

    def find(page: Page) -> list[str]:
        found: list[str] = []
        if not page.evaluate("'axe' in window"):
            page.evaluate(script)
            page.add_style_tag(content=STILL)
        for theme, width in LOOKS:
            page.emulate_media(color_scheme=theme)
            page.set_viewport_size({"width": width, "height": 900})
            expect(page.locator("body.dark")).to_have_count(int(theme == "dark"))
            here = f"{page.url} {theme} {width}:"
            rules, wide = page.evaluate(LOOK)
            found += [
                f"{here} {rule['id']}: {' '.join(map(str, node['target']))} {node['html'][:200]} "
                f"{node['failureSummary']}"
                for rule in rules
                for node in rule["nodes"]
            ]
            if wide > width:
                found.append(f"{here} is {wide} wide")
        return found

    return find
