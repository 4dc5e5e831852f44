"""A model's page in a browser: text streams, sliders matter, attention redraws, snippets run."""

import contextlib
import io
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from playwright.sync_api import Locator, Page, expect
from zoo_gallery.snippets import elsewhere_snippet

import zoo
from zoo.charts import losses, read_curve
from zoo.cli import cli

Flaws = Callable[..., list[str]]

pytestmark = pytest.mark.browser
TABS = ["Try", "Attention", "Training", "Card", "Use it"]
MODEL = "speech-alibi"


def visit(page: Page, url: str, model: str = MODEL, tab: str = "Try") -> None:
    page.goto(f"{url}/{model}")
    open_tab(page, tab)


def open_tab(page: Page, name: str) -> None:
    # Gradio keeps a hidden copy of the tabs, to measure them
    tab = page.get_by_role("tab", name=name, exact=True).locator("visible=true")
    tab.click()
    expect(tab).to_have_attribute("aria-selected", "true")


def number(page: Page, label: str, value: float) -> None:
    field = page.get_by_label(f"number input for {label}")
    field.fill(str(value))
    field.press("Tab")


def output(page: Page) -> Locator:
    return page.get_by_label("What it writes")


def write(page: Page) -> str:
    """Press Write, wait for the end, give the text."""
    with page.expect_response(lambda answer: "queue/join" in answer.url):
        page.get_by_role("button", name="Write").click()
    texts = [""]
    while len(texts) < 5 or texts[-1] != texts[-5] or not texts[-1]:
        page.wait_for_timeout(200)
        texts.append(output(page).input_value())
        assert len(texts) < 200, "it never ends"
    return texts[-1]


def writes(page: Page, text: str) -> str:
    """Press Write and wait for a text, which is given back."""
    page.get_by_role("button", name="Write").click()
    expect(output(page)).to_have_value(text)
    return text


def test_the_page_says_what_the_model_is(app: Any, page: Page) -> None:
    visit(page, app.url)
    card = zoo.info(MODEL)
    expect(page.get_by_role("heading", level=1)).to_have_text(MODEL)
    expect(page).to_have_title(re.compile(MODEL))
    for text in (card.summary, card.architecture, card.task, card.license):
        expect(page.get_by_text(text, exact=True).first).to_be_visible()
    tabs = page.get_by_role("tab").locator("visible=true")
    expect(tabs).to_have_text(TABS)


def test_text_streams_and_is_what_the_model_writes(slow_app: Any, page: Page) -> None:
    visit(page, slow_app.url)
    number(page, "Length", 200)
    page.evaluate(
        """() => {
            const area = document.querySelector('textarea[disabled], textarea[readonly]');
            window.seen = [];
            setInterval(() => seen.push(area.value), 10);
        }"""
    )
    text = write(page)
    seen = list(dict.fromkeys(page.evaluate("window.seen")))
    assert len([part for part in seen if part]) > 2  # at once there would be one
    assert all(text.startswith(part) for part in seen)
    options = {"temperature": 0.8, "top_p": 0.9, "seed": 1, "max_new_tokens": 200}
    assert text == zoo.load(MODEL)(zoo.info(MODEL).example, **options)


def test_every_slider_changes_the_outcome(app: Any, page: Page) -> None:
    visit(page, app.url)
    number(page, "Length", 20)
    first = write(page)
    assert write(page) == first  # the seed holds
    model, prompt = zoo.load(MODEL), zoo.info(MODEL).example
    options = {"temperature": 0.8, "top_p": 0.9, "top_k": 0, "max_new_tokens": 20, "seed": 1}
    changes = {
        "Temperature": ("temperature", 1.9),
        "Top-k": ("top_k", 3),
        "Top-p": ("top_p", 0.05),
        "Length": ("max_new_tokens", 8),
    }
    texts = [first]
    for label, (option, value) in changes.items():
        number(page, label, value)
        options[option] = value
        texts.append(writes(page, model(prompt, **options)))
    assert len(set(texts)) == len(texts)
    number(page, "Top-p", 1)
    page.get_by_label("Seed").fill("77")
    options |= {"top_p": 1, "seed": 77}
    writes(page, model(prompt, **options))


def test_the_example_comes_back(app: Any, page: Page) -> None:
    visit(page, app.url)
    page.get_by_label("Prompt").fill("something else")
    page.get_by_role("button", name="Example").click()
    expect(page.get_by_label("Prompt")).to_have_value(zoo.info(MODEL).example)


def cells(page: Page) -> list[list[str]]:
    return page.locator(".zoo-table:visible tbody tr").evaluate_all(
        "rows => rows.map(row => [...row.cells].map(cell => cell.innerText))"
    )


def test_attention_follows_text_layer_and_head(app: Any, page: Page) -> None:
    visit(page, app.url, "alibi-lm", "Attention")
    drawing = page.locator(".zoo-figure svg:visible")
    expect(drawing).to_have_accessible_name("Attention of alibi-lm, layer 1, head 1")
    page.get_by_role("button", name="The numbers as a table").locator("visible=true").click()
    model = zoo.load("alibi-lm")

    def check(text: str, layer: int, head: int) -> None:
        title = f"alibi-lm, layer {layer}, head {head}"
        expect(drawing).to_have_accessible_name(f"Attention of {title}")
        expect(page.locator(".zoo-table:visible caption")).to_have_text(
            f"Attention weights, {title}"
        )
        weights = model.attention(text)[layer - 1][head - 1].tolist()
        seen = [
            f"{weight:.2f}" if column <= row else ""
            for row, each in enumerate(weights)
            for column, weight in enumerate(each)
        ]
        # waits for them: a text that was not typed to its end may have as many tokens
        expect(page.locator(".zoo-table:visible tbody td")).to_have_text(seen)

    check(zoo.info("alibi-lm").example, 1, 1)
    before = drawing.inner_html()
    page.locator("fieldset:visible", has_text="Layer").get_by_label("3").check()
    check(zoo.info("alibi-lm").example, 3, 1)
    page.locator("fieldset:visible", has_text="Head").get_by_label("4").check()
    check(zoo.info("alibi-lm").example, 3, 4)
    assert drawing.inner_html() != before
    page.get_by_label("Text", exact=True).fill("")
    page.get_by_label("Text", exact=True).press_sequentially("The river flows north")
    check("The river flows north", 3, 4)


def test_training_shows_curve_and_numbers(app: Any, page: Page) -> None:
    visit(page, app.url, "alibi-lm", "Training")
    expect(page.locator(".zoo-figure svg:visible")).to_have_accessible_name(
        "Training of alibi-lm: loss over steps"
    )
    page.get_by_role("button", name="The numbers as a table").locator("visible=true").click()
    expect(page.locator(".zoo-table:visible")).to_be_visible()
    rows = read_curve(zoo.info("alibi-lm").folder)
    curve = dict(losses(rows))
    shown = {int(row[0].replace(",", "")): row[1:] for row in cells(page)}
    assert 15 < len(shown) < 40
    assert {min(curve), max(curve)} <= set(shown)
    assert all(row[0] == f"{curve[step]:.3f}" for step, row in shown.items() if step in curve)
    validated = {row["step"] for row in rows if row.get("validation") and "step" in row}
    assert validated and validated <= {step for step, row in shown.items() if row[1]}
    page.get_by_role("button", name="The recipe").click()
    expect(page.locator(".zoo-code")).to_contain_text('architecture = "alibi-decoder"')


def test_the_card_is_the_card(app: Any, page: Page) -> None:
    visit(page, app.url, tab="Card")
    card = zoo.info(MODEL)
    expect(page.locator(".zoo-table:visible tbody tr")).to_have_count(len(card.scores))
    assert [row[0] for row in cells(page)] == [score.name for score in card.scores]
    headings = re.findall(r"^## (.+)$", card.text, re.M)
    for heading in headings:
        expect(page.get_by_role("heading", name=heading, level=2)).to_be_visible()
    assert headings
    expect(page.get_by_role("heading", level=1)).to_have_count(1)


def test_what_the_page_says_to_type_runs(
    app: Any, page: Page, capsys: pytest.CaptureFixture[str]
) -> None:
    visit(page, app.url, tab="Use it")
    expect(page.get_by_label("HTTP", exact=True)).to_have_value(re.compile(re.escape(app.url)))
    snippets = {
        name: page.get_by_label(name, exact=True).input_value()
        for name in ("Python", "Shell", "HTTP")
    }
    exec(compile(snippets["Python"], "python", "exec"), {})
    written = capsys.readouterr().out
    shell = CliRunner().invoke(cli, shlex.split(snippets["Shell"])[1:], catch_exceptions=False)
    assert shell.stdout == written != ""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        exec(compile(snippets["HTTP"], "http", "exec"), space := {})
    space["client"].close()
    answer = re.sub(r"^Loaded as API: \S+( ✔)?\n", "", shown.getvalue()).strip()
    assert len(answer.split()) > 20
    assert written.startswith(answer[:80])  # the page's answers are shorter


def test_the_page_says_how_to_take_the_model_elsewhere(
    app: Any, page: Page, tmp_path: Path
) -> None:
    visit(page, app.url, tab="Use it")
    box = page.get_by_label("Elsewhere", exact=True)
    expect(box).to_have_value(re.compile("--format safetensors-int8"), timeout=60_000)
    lines = [shlex.split(line) for line in box.input_value().splitlines()]
    assert {words[1] for words in lines} == {"serve", "bench", "quantize", "export"}
    exported = next(words for words in lines if "safetensors-int8" in words)
    exported[-1] = str(tmp_path / "out")
    assert CliRunner().invoke(cli, exported[1:], catch_exceptions=False).exit_code == 0
    assert (tmp_path / "out" / "config.json").is_file()


def test_only_layouts_that_can_hold_a_model_are_offered() -> None:
    shown = elsewhere_snippet(zoo.info("vit-cifar10"))
    assert "--format onnx " in shown and "gguf" not in shown and "txzoo serve" not in shown
    assert "transformers" in elsewhere_snippet(zoo.info("alibi-lm"))
    # BLOOM has a norm that it lacks
    assert "transformers" not in elsewhere_snippet(zoo.info("speech-alibi"))


def test_a_snippet_is_copied(app: Any, page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit(page, app.url, tab="Use it")
    page.get_by_role("button", name="Copy Python").click()
    page.wait_for_function("async () => (await navigator.clipboard.readText()).length > 0")
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied == page.get_by_label("Python", exact=True).input_value()
    assert copied.startswith("import zoo")


def test_all_of_it_by_keyboard(app: Any, page: Page) -> None:
    """A tab is chosen, a prompt written, a slider moved and the button pressed by keys alone."""
    page.goto(f"{app.url}/{MODEL}")
    expect(page.get_by_label("Prompt")).to_be_visible()

    def reach(wanted: Locator) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            if wanted.evaluate("element => element === document.activeElement"):
                return
        pytest.fail(f"Tab never reaches {wanted}")

    reach(page.get_by_label("Prompt"))
    page.keyboard.press("Control+A")
    page.keyboard.type("We will")
    reach(page.get_by_role("button", name="Write"))
    page.keyboard.press("Enter")
    expect(output(page)).to_have_value(re.compile("^We will.{20}", re.S))
    slider = page.get_by_label("range slider for Temperature")
    reach(slider)
    page.keyboard.press("ArrowRight")
    assert slider.input_value() == "0.85"
    page.keyboard.press("Control+Home")
    reach(page.get_by_role("tab", name="Card").locator("visible=true"))
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=2).first).to_be_visible()


def test_every_tab_is_accessible_and_fits(app: Any, page: Page, flaws: Flaws) -> None:
    page.goto(f"{app.url}/{MODEL}")
    for tab in TABS:
        open_tab(page, tab)
        if tab == "Try":
            write(page)
        if tab in ("Attention", "Training"):
            expect(page.locator(".zoo-figure svg:visible")).to_be_visible()
            page.get_by_role("button", name="The numbers as a table").locator(
                "visible=true"
            ).click()
            expect(page.locator(".zoo-table:visible")).to_be_visible()
        assert flaws(page) == []


def test_the_words_that_decided_are_shown(app: Any, page: Page, flaws: Flaws) -> None:
    text = "We will not tire <b>and</b> we will not fail"
    page.goto(f"{app.url}/speech-encoder")
    open_tab(page, "Try")
    page.get_by_label("Text", exact=True).fill(text)
    page.get_by_role("button", name="Which words decided").click()
    page.get_by_role("button", name="Explain").click()
    words = page.get_by_role("group", name=re.compile("What each word did for"))
    expect(words).to_have_text(text)  # HTML in it is text
    expect(words.locator("span")).to_have_count(len(text.split()))
    rows = page.get_by_role("region", name=re.compile("What each word did")).get_by_role("row")
    expect(rows).to_have_count(1 + len(text.split()))
    strongest = rows.nth(1).get_by_role("cell").inner_text()
    scores = [abs(float(rows.nth(n).get_by_role("cell").inner_text())) for n in range(1, 5)]
    assert scores == sorted(scores, reverse=True)
    page.get_by_label("gradient").check()
    page.get_by_role("button", name="Explain").click()
    expect(rows.nth(1).get_by_role("cell")).not_to_have_text(strongest)
    assert flaws(page) == []
