"""The Compare page: each column is its own model's, and the chart is what the cards say."""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import pytest
from playwright.sync_api import Locator, Page, expect
from zoo_gallery import views
from zoo_gallery.compare import Column, compared, lengths_part
from zoo_gallery.state import Gallery, Limits

import zoo
from zoo.card import Card
from zoo.charts import lengths_of
from zoo.errors import InputError
from zoo.numbers import with_error

if TYPE_CHECKING:
    from conftest import App, Flaws

NAMES = ["speech-alibi", "speech-decoder", "synthetic-decoder"]
SETTINGS = (12, 0.8, 0.9, 7)  # tokens, temperature, top-p, seed


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    return Gallery(limits=Limits(models=2, new_tokens=20))


def test_each_column_holds_what_its_model_writes(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "BETWEEN", 0.0)
    seen = [
        [replace(column) for column in columns]
        for columns in compared(gallery, NAMES, "we will", *SETTINGS)
    ]
    for index, name in enumerate(NAMES):
        options: Any = {"max_new_tokens": 12, "temperature": 0.8, "top_p": 0.9, "seed": 7}
        expected = zoo.load(name)("we will", return_full_text=False, **options)
        column = seen[-1][index]
        assert (column.name, column.text) == (name, expected)
        assert re.fullmatch(rf"{name} · 12 tokens in \d+\.\d\d s · \d+ tokens/s", column.label)
        growing = [columns[index].text for columns in seen]
        assert all(
            later.startswith(text) for text, later in zip(growing, growing[1:], strict=False)
        )
        assert len(set(growing)) > 6  # streamed
        assert expected.startswith(growing[len(growing) // 2])
    counts = [[column.tokens for column in columns] for columns in seen]
    assert all(max(row) - min(row) <= 1 for row in counts)  # in turn
    assert [column.state for column in seen[0]] == ["loading its weights", "waiting", "waiting"]
    assert seen[0][0].label == "speech-alibi · loading its weights"


def test_a_model_that_fails_leaves_the_others_alone(gallery: Gallery, tmp_path: Path) -> None:
    gallery.models.add("gone", tmp_path / "nowhere")
    text = "we " * 30  # more than speech-decoder has positions for
    *_, columns = compared(gallery, ["gone", "speech-decoder", "speech-alibi"], text, *SETTINGS)
    gone, short, fine = columns
    assert gone.label == "gone · no answer"
    assert str(tmp_path / "nowhere") in gone.text
    assert short.label == "speech-decoder · no answer"
    assert "positions" in short.text
    assert fine.label.startswith("speech-alibi · 12 tokens")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": []}, "Choose one to 4 models, not 0"),
        ({"names": ["alibi-lm"] * 5}, "Choose one to 4 models, not 5"),
        ({"prompt": "x" * 4001}, "4,001 characters"),
        ({"temperature": -1.0}, "temperature must be"),
        ({"top_p": 0.0}, "top_p must be"),
    ],
)
def test_what_cannot_be_compared(gallery: Gallery, changes: dict[str, Any], message: str) -> None:
    asked = {"names": NAMES, "prompt": "we", "tokens": 5, "temperature": 0.5, "top_p": 0.9}
    with pytest.raises(InputError, match=message):
        next(compared(gallery, **{**asked, "seed": 1, **changes}))


def test_an_answer_is_no_longer_than_allowed(gallery: Gallery) -> None:
    *_, (column,) = compared(gallery, NAMES[2:], "count 3 7", 10_000, 0, 0.9, 1)
    assert column.tokens == 20


def test_nothing_is_said_of_a_speed_that_is_not_known() -> None:
    assert Column("one").label == "one · waiting"


Measured = Callable[..., Card]


@pytest.fixture
def measured(tmp_path: Path) -> Measured:
    """Make the card of a model: its scores by context, None for the training length."""

    def make(
        name: str, scores: dict[int | None, float], task: str = "some-text", positions: str = ""
    ) -> Card:
        folder = tmp_path / name
        folder.mkdir()
        config = f'{{"architecture": "decoder", "max_seq_len": 256, "positions": "{positions}"}}'
        (folder / "config.json").write_text(config)
        names = {c: "perplexity per word" + (f" at {c} tokens" if c else "") for c in scores}
        metrics = [
            {"type": "perplexity", "name": names[context], "value": value}
            | ({"args": {"context": context}} if context else {})
            for context, value in scores.items()
        ]
        dataset = {"name": task, "type": task, "split": "test"}
        result = {"task": {"type": "x"}, "dataset": dataset, "metrics": metrics}
        errors = {names[context]: value / 100 for context, value in scores.items()}
        ours = {"architecture": "decoder", "task": task, "standard_error": {"test": errors}}
        data = {
            "license": "apache-2.0",
            "pipeline_tag": "text-generation",
            "model-index": [{"name": name, "results": [result]}],
            "txzoo": ours,
        }
        Card(data=data, text="", path=folder / "README.md").write(folder)
        return Card.read(folder)

    return make


def test_chart_and_table_are_what_the_cards_say(measured: Measured) -> None:
    scores: dict[str, dict[int | None, float]] = {
        "far-lm": {None: 172.0, 512: 166.0, 1024: 163.0},
        "lost-lm": {None: 240.0, 512: 900.0, 1024: 4100.0},
    }
    cards = [measured(name, values) for name, values in scores.items()]
    cards.append(measured("ends-lm", {None: 239.0}, positions="learned"))
    cards.append(measured("plain-lm", {None: 300.0}))
    cards.append(measured("else-lm", {None: 5.0}, task="other-text"))
    html = lengths_part(cards)

    rows = [re.findall(r">([^<]*)</t[hd]>", row) for row in re.findall(r"<tr>.*?</tr>", html)]
    assert rows == [
        ["Model", "256 tokens", "512 tokens", "1,024 tokens"],
        ["far-lm", "172.0 ± 1.7", "166.0 ± 1.7", "163.0 ± 1.6"],
        ["lost-lm", "240.0 ± 2.4", "900.0 ± 9.0", "4100 ± 41"],
    ]
    note = "ends-lm (its learned positions end at 256 tokens); plain-lm."
    assert f"Not measured at other lengths: {note}" in html
    assert "else-lm" not in html

    contexts, values, x, y = [], [], [], []
    for color, own in zip(("#0072B2", "#D55E00"), scores.values(), strict=True):
        places = polyline(html, color, len(own))
        x += [place[0] for place in places]
        y += [place[1] for place in places]
        contexts += [math.log2(context or 256) for context in own]
        values += [math.log(value) for value in own.values()]
    for quantity, place, sign in ((contexts, x, 1), (values, y, -1)):  # y grows downwards
        slope, start = np.polyfit(quantity, place, 1)
        assert slope * sign > 0
        np.testing.assert_allclose(np.polyval([slope, start], quantity), place, atol=0.5)


def polyline(html: str, color: str, count: int) -> list[tuple[float, float]]:
    """The corners of the line that a chart draws in a colour."""
    drawing = html[html.index("<svg") : html.index("</svg>") + len("</svg>")]
    for path in ElementTree.fromstring(drawing).iter("{http://www.w3.org/2000/svg}path"):
        corners = re.findall(r"[ML] ([\d.]+) ([\d.]+)", path.attrib["d"])
        if f"stroke: {color.lower()}" in path.attrib.get("style", "") and len(corners) == count:
            return [(float(x), float(y)) for x, y in corners]
    raise AssertionError(f"no line of {count} points in {color}")


def test_nothing_to_draw_is_said(measured: Measured) -> None:
    html = lengths_part([measured("only-lm", {None: 200.0})])
    assert "No card of an installed model holds scores at other lengths" in html
    assert "<svg" not in html


FAR = ["alibi-lm", "speech-alibi"]  # any number of tokens, and each its own words


def ask(page: Page, app: "App", names: list[str], tokens: int) -> list[Locator]:
    """Open the page and have some models write; returns their columns."""
    page.goto(f"{app.url}/compare")
    # a page that is being built takes choices back; it has its title once all of it stands
    expect(page).to_have_title("Compare · txzoo gallery")
    for box in page.get_by_role("checkbox").all():
        box.set_checked(box.locator("..").inner_text().strip() in names)
    expect(page.get_by_role("checkbox", checked=True)).to_have_count(len(names))
    page.get_by_role("textbox", name="Prompt").fill("we will")
    page.get_by_label("New tokens").first.fill(str(tokens))
    page.get_by_role("button", name="Compare", exact=True).click()
    return [page.get_by_role("textbox", name=re.compile(rf"^{name} · ")) for name in names]


@pytest.mark.browser
def test_the_page_streams_side_by_side(slow_app: "App", page: Page) -> None:
    columns = ask(page, slow_app, FAR, 150)
    early = []
    for column in columns:
        expect(column).not_to_have_value("")
        early.append(column.input_value())
    options: Any = {"max_new_tokens": 150, "temperature": 0.8, "top_p": 0.9, "seed": 1}
    for name, column, begun in zip(FAR, columns, early, strict=True):
        text = zoo.load(name)("we will", return_full_text=False, **options)
        expect(column).to_have_value(text)
        assert text.startswith(begun)
        assert len(begun) < len(text)
        label = page.get_by_role("textbox", name=re.compile(rf"^{name} · 150 tokens in .* s · "))
        expect(label).to_have_value(text)
    expect(page.get_by_role("textbox", name=re.compile(" · "))).to_have_count(len(FAR))


@pytest.mark.browser
def test_stop_stops_all_columns(slow_app: "App", page: Page) -> None:
    names = [*FAR, "relative-lm", "rope-lm"]
    columns = ask(page, slow_app, names, 200)
    expect(columns[0]).not_to_have_value("")
    with page.expect_response(lambda answer: answer.url.endswith("/cancel")):
        page.get_by_role("button", name="Stop").click()
    page.evaluate("() => new Promise(requestAnimationFrame)")  # what came before is drawn
    texts = [column.input_value() for column in columns]
    whole = zoo.load(FAR[0])("we will", max_new_tokens=200, temperature=0.8, top_p=0.9, seed=1)
    assert len(texts[0]) < len(whole) - len("we will")
    assert [column.input_value() for column in columns] == texts  # they stand still meanwhile
    page.get_by_label("New tokens").first.fill("5")
    page.get_by_role("button", name="Compare", exact=True).click()
    for name in names:
        done = page.get_by_role("textbox", name=re.compile(rf"^{name} · 5 tokens"))
        expect(done).not_to_have_value("")


@pytest.mark.browser
def test_the_chart_of_the_page_is_that_of_the_cards(app: "App", page: Page) -> None:
    page.goto(f"{app.url}/compare")
    cards = [zoo.info(name) for name in zoo.list_models()]
    if measured := {n: p for n, p in lengths_of(cards).items() if len(p) > 1}:
        chart = page.get_by_role("img", name=re.compile("over the number of tokens read at once"))
        expect(chart).to_be_visible()
        for name, points in measured.items():
            row = page.get_by_role("row", name=name)
            for _, value, error in points:
                expect(row).to_contain_text(with_error(value, error))
    else:
        expect(page.get_by_text("holds scores at other lengths")).to_be_visible()


@pytest.mark.browser
def test_everybody_can_use_the_page(app: "App", page: Page, flaws: "Flaws") -> None:
    columns = ask(page, app, FAR, 5)
    for column in columns:
        expect(column).not_to_have_value("")
    assert flaws(page) == []
