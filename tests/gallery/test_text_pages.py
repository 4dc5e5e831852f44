"""Pages of encoders: spans of a text by label, and texts by how near they are."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import pytest
import torch
from gradio_client import Client
from gradio_client.exceptions import AppError
from playwright.sync_api import Page, expect
from torch.nn.functional import cosine_similarity
from zoo_gallery.snippets import http_snippet
from zoo_gallery.state import Gallery, Limits
from zoo_gallery.views import feature_extraction, token_classification
from zoo_gallery.views.token_classification import shown, spans_of

import zoo

if TYPE_CHECKING:
    from conftest import App, Flaws

TEXT = "Ada Lovelace wrote the first program in London for Charles Babbage"
LONG = f"{TEXT} in the first program <b>"
LINES = ["Ada wrote the program", "Charles wrote the program", "London", "for the first in <b>"]


@pytest.fixture(scope="module")
def client(space: "App") -> Iterator[Client]:
    connected = Client(space.url, verbose=False)
    yield connected
    connected.close()


def token(entity: str, start: int, end: int, score: float = 0.5) -> dict[str, Any]:
    return {"entity": entity, "score": score, "word": "?", "start": start, "end": end}


@pytest.mark.browser
@pytest.mark.filterwarnings("ignore:The text did not fit")
def test_spans_stand_in_the_text_with_label_and_probability(
    space: "App", models: Path, page: Page, flaws: "Flaws"
) -> None:
    page.goto(f"{space.url}/tagger")
    expect(page.get_by_role("textbox", name="Text")).to_have_value(TEXT)
    page.get_by_label("Text", exact=True).first.fill(LONG)
    page.get_by_role("button", name="Label").click()
    expect(page.get_by_text("tagger reads 12 tokens")).to_be_visible()
    tokens = zoo.load(models / "tagger")(LONG)
    words = page.get_by_role("group", name="Spans")
    spans = spans_of(tokens)
    assert 2 < len(spans) <= len(tokens)
    expect(words.locator("mark")).to_have_text([LONG[one.start : one.end] for one in spans])
    named = [f"{one.label} {round(100 * one.score)}%" for one in spans]
    expect(words.locator("small")).to_have_text(named)
    expect(words.locator(".zoo-unread")).to_have_text(LONG[tokens[-1]["end"] :])
    legend = page.get_by_role("list", name="Legend")
    expect(legend.get_by_role("listitem")).to_have_count(len({one.label for one in spans}) + 1)
    page.get_by_role("button", name="The tokens as a table").click()
    rows = page.get_by_role("region", name="Tokens").locator("tbody tr")
    expect(rows).to_have_count(len(tokens))
    cells = [row.locator("th, td").all_inner_texts() for row in rows.all()]
    assert cells == [[t["word"], t["entity"], f"{t['score']:.3f}"] for t in tokens]
    page.get_by_test_id("toast-close").click()
    assert flaws(page) == []


def test_spans_are_those_of_transformers() -> None:
    """Every sequence of four labels, so every way in which two can meet."""
    transformers = pytest.importorskip("transformers", reason="needs txzoo[hf]")
    theirs = transformers.TokenClassificationPipeline.__new__(
        transformers.TokenClassificationPipeline
    )
    theirs.tokenizer = type("Joins", (), {"convert_tokens_to_string": staticmethod(" ".join)})
    labels = ["O", "B-X", "I-X", "I-Y", "Z"]
    for number in range(len(labels) ** 4):
        entities = [labels[number // len(labels) ** place % len(labels)] for place in range(4)]
        tokens = [token(one, 2 * n, 2 * n + 1, 0.2 * (n + 1)) for n, one in enumerate(entities)]
        groups = theirs.group_entities([dict(one) for one in tokens])
        expected = [
            (one["entity_group"], pytest.approx(one["score"]), one["start"], one["end"])
            for one in groups
            if one["entity_group"] != "O"
        ]
        found = [(one.label, one.score, one.start, one.end) for one in spans_of(tokens)]
        assert found == expected, entities


def test_a_label_has_its_colour_in_every_text_and_html_is_text() -> None:
    labels = ["O", "B-<i>", "I-<i>", "LOC"]

    def hues(tokens: list[dict[str, Any]]) -> dict[str, str]:
        html = shown("<b> & c", tokens, labels)
        assert "<b>" not in html and "<i>" not in html
        return {name: hue for hue, name in re.findall(r"<li><mark[^>]*(#\w+)\W*>([^<]*)<", html)}

    both = hues([token("B-<i>", 0, 3), token("LOC", 4, 5)])
    assert len(set(both.values())) == 2
    assert hues([token("LOC", 4, 5)]) == {"LOC": both["LOC"]}
    outside = shown("a b", [token("O", 0, 1), token("O", 2, 3)], labels)
    assert "there is no span" in outside and "<mark" not in outside and "not read" not in outside
    assert "not read" in shown("a b", [token("O", 0, 1)], labels)
    twice = shown("é", [token("LOC", 0, 1), token("B-<i>", 0, 1)], labels)
    assert twice.count("é") == 1  # one letter of two tokens


def test_programs_get_the_labels_that_the_library_gives(
    space: "App", models: Path, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = zoo.load(models / "tagger")(TEXT)
    exec(
        compile(http_snippet(zoo.info(models / "tagger"), space.url), "snippet", "exec"), used := {}
    )
    used["client"].close()  # type: ignore[attr-defined]
    assert "'entity'" in capsys.readouterr().out
    found = client.predict(TEXT, api_name="/tagger_run")
    assert [one.pop("score") for one in found] == pytest.approx([o.pop("score") for o in expected])
    assert found == expected
    for text, said in (("", "is empty: give at least one word"), ("a " * 2001, "4,002 characters")):
        with pytest.raises(AppError, match=said):
            client.predict(text, api_name="/tagger_run")


@pytest.mark.browser
def test_near_texts_come_first_and_every_cosine_is_shown(
    space: "App", models: Path, page: Page, flaws: "Flaws"
) -> None:
    model = zoo.load(models / "embedder")
    page.goto(f"{space.url}/embedder")
    texts = page.get_by_label("Texts")
    expect(texts).to_have_value(re.compile(f"^{TEXT}\n(.*\n)*.*music"))
    texts.fill("London\n\n")
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_text("There is one text alone")).to_be_visible()
    page.get_by_test_id("toast-close").click()
    texts.fill("\n".join(LINES))
    page.get_by_role("button", name="Compare").click()
    table = page.get_by_role("region", name="Cosines of the texts")
    vectors = [model(line) for line in LINES]
    assert model.config.d_model == 12
    expect(page.get_by_text("12 numbers, a vector of length 1")).to_be_visible()
    expected = [[cosine_similarity(a, b, dim=0).item() for b in vectors] for a in vectors]
    rows = table.locator("tbody tr")
    expect(rows.locator("th")).to_have_text([f"{n} {line}" for n, line in enumerate(LINES, 1)])
    for place, row in enumerate(rows.all()):
        cells = row.locator("td").all_inner_texts()
        shown = [float(cell.removeprefix("● ")) for cell in cells]
        assert shown == pytest.approx(expected[place], abs=0.0006)
        others = [-2.0 if n == place else cosine for n, cosine in enumerate(expected[place])]
        marked = [n for n, cell in enumerate(cells) if cell.startswith("●")]
        assert marked == [others.index(max(others))]
    near = page.get_by_role("region", name=f"Nearest to: {LINES[0]}").locator("tbody th")
    order = sorted(range(1, len(LINES)), key=lambda place: -expected[0][place])
    expect(near).to_have_text([LINES[place] for place in order])
    assert flaws(page) == []


def test_programs_get_vectors_and_cosines(models: Path, client: Client) -> None:
    model = zoo.load(models / "embedder")
    found = client.predict("\n".join(LINES), api_name="/embedder_run")
    vectors = torch.stack([model(line) for line in LINES])
    assert found["texts"] == LINES
    assert torch.tensor(found["vectors"]) == pytest.approx(vectors, abs=1e-5)
    expected = cosine_similarity(vectors[:, None], vectors[None], dim=-1)
    assert torch.tensor(found["cosines"]) == pytest.approx(expected, abs=1e-5)
    assert len(client.predict(TEXT, api_name="/embedder_run")["vectors"]) == 1  # as on its card
    for texts, said in (
        (" \n ", "There are no texts: give one a line"),
        ("a\n" * 25, "There are 25 texts; this page takes 24 at most"),
        ("a" * 4001, "4,001 characters"),
    ):
        with pytest.raises(AppError, match=said):
            client.predict(texts, api_name="/embedder_run")


def test_the_limits_are_the_gallery_s(models: Path) -> None:
    gallery = Gallery(limits=Limits(texts=2, prompt_characters=20))
    embed = feature_extraction.embedder(gallery, zoo.info(models / "embedder"))
    look = token_classification.labeller(gallery, zoo.info(models / "tagger"))
    assert embed("Ada\nLondon")["texts"] == ["Ada", "London"]
    for call, text, said in (
        (embed, "Ada\nin\nLondon", "There are 3 texts; this page takes 2 at most"),
        (look, TEXT, "takes 20 at most"),
    ):
        with pytest.raises(gr.Error, match=said):
            call(text)
