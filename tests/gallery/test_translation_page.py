"""A translator in a browser: what came close, where it looks, and beside another one."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from gradio_client import Client
from playwright.sync_api import Locator, Page, expect
from zoo_gallery.snippets import http_snippet

import zoo
from zoo.attention import alignment

if TYPE_CHECKING:
    from conftest import App, Flaws

TEXT, GERMAN = "three one four", "drei eins vier"
LONG = "three one four\ntwo\nthree one four\none two three\nfive"
LONG_GERMAN = f"{GERMAN} zwei {GERMAN} eins zwei drei fünf"
DID_NOT_FIT = "The text did not fit into the 12 tokens that numerals-lm reads: read as 5 sentences"


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).locator("visible=true").click()


def rows(table: Locator) -> list[list[str]]:
    return [row.locator("th, td").all_inner_texts() for row in table.locator("tr").all()]


@pytest.mark.browser
def test_the_best_translation_what_came_close_and_where_it_looks(
    space: "App", models: Path, page: Page, flaws: "Flaws"
) -> None:
    model = zoo.load(models / "numerals-lm")
    page.goto(f"{space.url}/numerals-lm")
    expect(page.get_by_text("BLEU", exact=True).locator("visible=true")).to_be_visible()
    page.get_by_role("button", name="Translate").click()
    written = page.get_by_role("textbox", name="What it writes")
    expect(written).to_have_value(GERMAN)
    table = page.get_by_role("region", name="All answers, best first")
    found = model(TEXT, num_beams=4, num_return_sequences=4, return_scores=True)
    texts = list(dict.fromkeys(answer["text"] for answer in found))
    expect(table.locator("tr")).to_have_count(1 + len(texts))
    assert [row[0] for row in rows(table)[1:]] == texts
    assert rows(table)[1] == [GERMAN, f"{found[0]['score']:.3f}"]
    assert flaws(page) == []

    page.get_by_label("number input for Beams").fill("1")
    page.get_by_label("Source").fill(LONG)
    page.get_by_role("button", name="Translate").click()
    expect(page.get_by_text(DID_NOT_FIT)).to_be_visible()
    expect(written).to_have_value(LONG_GERMAN)
    expect(table).to_have_count(0)
    page.get_by_test_id("toast-close").click()

    open_tab(page, "Attention")
    page.get_by_role("button", name="The numbers as a table").locator("visible=true").click()
    table = page.get_by_role("region", name="Attention weights, numerals-lm, layer 1, head 1")
    aligned = alignment(model, TEXT)
    expect(table.get_by_role("row")).to_have_count(1 + len(aligned.target))
    words = [f"{place} {word}" for place, word in enumerate(aligned.source, start=1)]
    assert rows(table)[0] == ["The word that is written", *words]
    weights = [[f"{weight:.2f}" for weight in row] for row in aligned.layers[0][0].tolist()]
    assert [row[1:] for row in rows(table)[1:]] == weights
    drawing = page.locator(".zoo-figure svg:visible")
    for text in (*TEXT.split(), *GERMAN.split(), "the word that is written"):
        expect(drawing.get_by_text(text, exact=True)).to_have_count(1)
    assert flaws(page) == []


@pytest.mark.browser
def test_translators_stand_beside_others(space: "App", page: Page) -> None:
    page.goto(f"{space.url}/compare")
    names = ["aaa-lm", "numerals-lm"]
    expect(page.get_by_role("checkbox", checked=True)).not_to_have_count(0)
    for box in page.get_by_role("checkbox").all():
        box.set_checked(box.locator("..").inner_text().strip() in names)
    page.get_by_role("textbox", name="Prompt").fill(LONG)
    page.get_by_label("number input for Temperature").fill("0")
    page.get_by_role("button", name="Compare", exact=True).click()
    expect(page.get_by_text(DID_NOT_FIT)).to_be_visible()
    label = re.compile(r"^numerals-lm · 11 tokens in \d+\.\d\d s · \d+ tokens")
    expect(page.get_by_role("textbox", name=label)).to_have_value(LONG_GERMAN)
    expect(page.get_by_role("textbox", name=re.compile("^aaa-lm · "))).not_to_have_value("")


def test_programs_get_the_translation(
    space: "App", models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = http_snippet(zoo.info(models / "numerals-lm"), space.url)
    exec(compile(code, "snippet", "exec"), used := {})
    used["client"].close()
    assert capsys.readouterr().out.splitlines()[-1] == GERMAN
    client: Any = Client(space.url, verbose=False)
    found = client.predict(TEXT, 1, 1, api_name="/numerals-lm_attention")
    client.close()
    assert (found["tokens"], found["source"]) == ([*GERMAN.split(), "end"], [*TEXT.split(), "end"])
