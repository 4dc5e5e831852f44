"""The app: its pages, its index, what plugins bring to it, and the verb that starts it."""

import asyncio
import re
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
import torch
from playwright.sync_api import Locator, Page, expect
from zoo_gallery import index, model_page
from zoo_gallery.app import build
from zoo_gallery.state import Gallery

import zoo
from zoo.card import Card
from zoo.cli import main

App = Any
NAMES = zoo.list_models()
PAGES = ["", "chat", "ask", "compare", "train", *NAMES]
VISITS = """
import gradio
from zoo_gallery.app import launch
from zoo_gallery.state import Limits

def visit(demo):  # where it waits until it is interrupted
    sessions = demo.app.state_holder
    first, second, third = (sessions[name] for name in ("first", "second", "third"))
    assert "first" not in sessions and sessions["second"] is second and sessions["third"] is third

gradio.Blocks.block_thread = visit
launch(Limits(visitors=2))
"""
WRITING = {"temperature": 0.8, "top_p": 0.9, "max_new_tokens": 60, "seed": 1}  # as the page opens


def cards(page: Page) -> Locator:
    return page.locator(".zoo-card")


@pytest.mark.browser
def test_every_page_is_accessible(app: App, page: Page, flaws: Any) -> None:
    for path in PAGES:
        page.goto(f"{app.url}/{path}")
        title = path if path in NAMES else path.capitalize() or "Models"
        expect(page.get_by_role("heading", level=1)).to_have_text(title)
        expect(page).to_have_title(f"{title} · txzoo gallery")  # set once all of it stands
        assert flaws(page) == []


@pytest.mark.browser
def test_the_index_shows_what_the_cards_say(app: App, page: Page) -> None:
    page.goto(app.url)
    expect(cards(page)).to_have_count(len(NAMES))
    expect(page.get_by_text(f"{len(NAMES)} models", exact=True)).to_be_visible()
    first = cards(page).first
    card = zoo.info("alibi-lm")
    score = f"{card.scores[0].value} ± {card.scores[0].standard_error}"
    size = f"{(card.parameters or 0) / 1e6:.1f}M"
    for text in ("alibi-lm", "ALiBi decoder on WikiText-2", "wikitext-2", size, score):
        expect(first).to_contain_text(text)
    expect(page.get_by_text("Set aside")).to_have_count(0)
    page.set_viewport_size({"width": 1920, "height": 1080})
    assert page.evaluate("document.documentElement.scrollWidth") <= 1920


@pytest.mark.browser
def test_search_and_filters(app: App, page: Page) -> None:
    page.goto(app.url)
    search = page.get_by_role("textbox", name="Search")
    search.fill("rotary")
    expect(cards(page)).to_have_count(1)
    expect(cards(page)).to_contain_text("rope-lm")
    expect(page.get_by_text(f"1 of {len(NAMES)} models")).to_be_visible()
    search.fill("speech-*")
    expect(cards(page)).to_have_count(3)
    choose(page, "Architecture", "alibi-decoder")
    expect(cards(page)).to_have_count(1)
    search.fill("<b>nothing")
    expect(page.get_by_text(f"0 of {len(NAMES)} models")).to_be_visible()
    search.fill("")
    expect(cards(page)).to_have_count(2)  # of that architecture
    choose(page, "Task", "wikitext-2")
    expect(cards(page)).to_have_count(1)
    choose(page, "Architecture", "All")
    expect(cards(page)).to_have_count(len(zoo.list_models(task="wikitext-2")))


def choose(page: Page, label: str, value: str) -> None:
    page.get_by_role("listbox", name=label).or_(page.get_by_role("combobox", name=label)).click()
    page.get_by_role("option", name=value, exact=True).click()
    expect(page.get_by_role("option")).to_have_count(0)


@pytest.mark.browser
def test_a_model_is_found_and_tried_with_the_keyboard_alone(app: App, page: Page) -> None:
    page.goto(app.url)
    expect(cards(page)).to_have_count(len(NAMES))
    reach(page, "a", "synthetic-decoder")
    page.keyboard.press("Enter")
    expect(page).to_have_url(f"{app.url}/synthetic-decoder")
    expect(page.get_by_role("button", name="Write")).to_be_visible()
    reach(page, "button", "Write")
    page.keyboard.press("Enter")
    expect(page.get_by_role("textbox", name="What it writes")).to_have_value(re.compile(r"\d"))


def reach(page: Page, tag: str, text: str) -> None:
    """Press Tab until an element has the focus."""
    for _ in range(60):
        page.keyboard.press("Tab")
        focused = page.evaluate(
            "[document.activeElement.localName, document.activeElement.innerText]"
        )
        if focused == [tag, text]:
            return
    pytest.fail(f"Tab does not reach {tag} {text!r}")


@pytest.mark.browser
def test_plugins_between_two_starts(app: App, space: App, models: Path, page: Page) -> None:
    page.goto(app.url)
    expect(cards(page).first).to_contain_text("alibi-lm")
    torch.set_num_threads(1)  # as the gallery, so that both round alike
    page.goto(space.url)
    more = len(list(models.iterdir())) - 1  # one is damaged
    expect(page.get_by_text(f"{len(NAMES) + more} models", exact=True)).to_be_visible()
    expect(cards(page).first).to_contain_text("<i>tiny</i> & new")
    broken = page.locator(".zoo-broken")
    expect(broken.filter(has_text="bolts:bolts")).to_contain_text(
        "RuntimeError: out of <b>bolts</b>"
    )
    expect(broken.filter(has_text="damaged-lm, a model of acme:acme")).to_contain_text("README")
    expect(broken).to_have_count(2)
    for name, folder in (
        ("aaa-lm", models / "aaa-lm"),
        ("alibi-lm", zoo.info("alibi-lm").folder),
    ):
        example = zoo.info(folder).example
        pieces: Any = zoo.load(folder)(example, stream=True, **WRITING)
        page.goto(space.url)
        page.get_by_role("link", name=name, exact=True).click()
        expect(page.get_by_role("textbox", name="Prompt")).to_have_value(str(example))
        page.get_by_role("button", name="Write").click()
        written = page.get_by_role("textbox", name="What it writes")
        expect(written).to_have_value("".join(pieces))


def html_of(demo: gr.Blocks, page: str) -> str:
    """All texts of one page's configuration."""
    config = demo.get_config_file()
    ids = set(config["page"][page]["components"])  # type: ignore[typeddict-item]
    return " ".join(
        str(part["props"].get("value")) for part in config["components"] if part["id"] in ids
    )


def test_a_page_that_cannot_be_built_is_a_red_card(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = model_page.page

    def page(gallery: Gallery, card: Card) -> None:
        if card.name == "rope-lm":
            gr.Textbox("half a page")
            raise RuntimeError("no <b>page</b>")
        whole(gallery, card)

    async def built() -> gr.Blocks:
        return build(Gallery())

    monkeypatch.setattr(model_page, "page", page)
    # without a running loop Gradio makes some that it never closes; this thread may have one
    with ThreadPoolExecutor(1) as apart:
        demo = apart.submit(asyncio.run, built()).result()
    said = "This page is broken:</strong> RuntimeError: no &lt;b&gt;page&lt;/b&gt;"
    assert said in html_of(demo, "rope-lm")
    assert html_of(demo, "").count(said) == 1
    assert "broken" not in html_of(demo, "alibi-lm")
    hidden = [
        part for part in demo.get_config_file()["components"] if "half a page" in str(part["props"])
    ]
    assert len(hidden) == 1


def test_a_model_named_like_a_page_makes_room(tmp_path: Path) -> None:
    made = {"train": "train-model", "ask": "ask-model", "assets": "assets-model", "my-lm": "my-lm"}
    for name, path in made.items():
        card = Card(data={"txzoo": {"name": name}}, text="", path=tmp_path / name / "README.md")
        assert index.path(card) == path


def test_the_face_of_the_plugin_is_light() -> None:
    script = "import sys, zoo_gallery; print(*{name.split('.')[0] for name in sys.modules})"
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert not {"torch", "gradio", "matplotlib", "click"} & set(ran.stdout.split())


@pytest.mark.parametrize("missing", ["gradio", "matplotlib"])
def test_a_missing_extra_says_the_pip_line(
    missing: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        "zoo_gallery.command.find_spec", lambda name: None if name == missing else 1
    )
    assert main(["gallery", "--no-open"]) == 1
    assert "pip install 'txzoo[gallery]'" in capsys.readouterr().err


# Gradio leaves the socket that found no free port to the garbage collector
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_port_that_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["gallery", "--no-open", "--port", str(port)]) == 2
    said = f"txzoo: Cannot listen on port {port} of 127.0.0.1: choose another with --port\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("arguments", [["--port", "0"], ["--max-new-tokens", "0"], ["--hots", "x"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gallery", *arguments]) == 2
    assert arguments[0] in capsys.readouterr().err


def test_only_the_latest_visitors_are_remembered() -> None:
    subprocess.run([sys.executable, "-c", VISITS], check=True, timeout=300)


def test_a_gallery_that_nobody_uses_rests(app: App) -> None:
    tasks = Path(f"/proc/{app.pid}/task")
    if not tasks.exists():
        pytest.skip("this system does not say how often a process wakes up")

    def woken() -> int:
        found = (
            re.search(r"^voluntary.*:\s(\d+)", path.read_text(), re.M)
            for path in tasks.glob("*/status")
        )
        return sum(int(match[1]) for match in found if match)

    before = woken()
    time.sleep(1)
    assert woken() - before < 300
