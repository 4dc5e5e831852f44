"""A model of pictures in a browser and for programs: labels, what it looked at, what is refused."""

import base64
import io
import re
import shlex
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr
import matplotlib
import numpy as np
import pytest
import torch
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from playwright.sync_api import Page, expect
from zoo_gallery.snippets import (
    PICTURE,
    example_labels,
    http_snippet,
    python_snippet,
    shell_snippet,
)
from zoo_gallery.state import Gallery
from zoo_gallery.views import image_classification, zero_shot
from zoo_gallery.views.image_to_text import drawings, shower
from zoo_gallery.views.pictures import DRAWINGS, laid_over
from zoo_scenes.captions import SceneCaptions

import zoo
from zoo.attention import gaze, seen
from zoo.drawings import DRAWN, SIDE, drawing
from zoo.errors import InputError
from zoo.model import Model
from zoo.tasks.translation import end_id_of
from zoo.tokenization import build_tokenizer, end_texts, pad_id_of

if TYPE_CHECKING:
    from conftest import App, Flaws

MODEL = "drawn-cct"


@pytest.fixture
def frog(tmp_path: Path) -> Path:
    drawing("frog").save(tmp_path / "picture.png")
    return tmp_path / "picture.png"


def choose_drawing(page: Page, name: str) -> None:
    """Choose one below the picture, and wait until the picture is this one."""
    picture = page.get_by_role("img", name="The picture that is read")
    old = str(picture.get_attribute("src"))
    page.get_by_role("radio", name=name).check()
    expect(picture).not_to_have_attribute("src", old)


@pytest.mark.browser
def test_a_picture_is_classified_and_what_it_looked_at_is_laid_over_it(
    space: "App", models: Path, page: Page, flaws: "Flaws"
) -> None:
    model = zoo.load(models / MODEL)
    page.goto(f"{space.url}/{MODEL}")
    expect(page.get_by_role("img", name="The picture that is read")).to_be_visible()

    def classify(expected: Any) -> None:
        page.get_by_role("button", name="Classify").click()
        best, *_ = found = model(expected, top_k=None)
        expect(page.get_by_test_id("label-output-value")).to_have_text(best["label"])
        shown = [(entry["label"], round(100 * entry["score"])) for entry in found]
        rows = page.locator("[data-testid$='confidence-set'], .confidence-set")
        expect(rows).to_have_text([re.compile(rf"^\s*{name}\s*{n}%\s*$") for name, n in shown])

    classify(drawing("ship"))
    over = page.get_by_role("img", name=re.compile("^What it looked at.*laid over it"))
    expect(over).to_be_visible()
    before = over.get_attribute("src")
    choose_drawing(page, "Frog")
    classify(drawing("frog"))
    expect(over).not_to_have_attribute("src", str(before))
    page.get_by_role("button", name="What it looked at, as a table").click()
    table = page.get_by_role("region", name="Percent of each patch")
    expected = (100 * seen(model, drawing("frog"))).flatten().tolist()
    expect(table.locator("td")).to_have_count(len(expected))
    cells = [float(cell) for cell in table.locator("td").all_inner_texts()]
    assert cells == pytest.approx(expected, abs=0.006)
    assert flaws(page) == []


@pytest.mark.browser
def test_a_file_is_uploaded_and_what_is_no_picture_is_said(
    space: "App", models: Path, frog: Path, page: Page
) -> None:
    page.goto(f"{space.url}/{MODEL}")
    classify = page.get_by_role("button", name="Classify")
    clear = page.get_by_label("Remove Image")
    clear.click()
    classify.click()
    expect(page.get_by_text("There is no picture: upload one")).to_be_visible()
    frog.with_name("cut.png").write_bytes(frog.read_bytes()[:400])
    upload = page.locator("input[type=file]:not([webkitdirectory])").first
    upload.set_input_files(frog.with_name("cut.png"))
    expect(clear).to_be_visible()
    classify.click()
    expect(page.get_by_text("is damaged")).to_be_visible()
    clear.click()
    upload.set_input_files(frog)
    expect(clear).to_be_visible()
    classify.click()
    best = zoo.load(models / MODEL)(frog)
    expect(page.get_by_test_id("label-output-value")).to_have_text(best["label"])


@pytest.mark.browser
def test_a_picture_is_put_into_words(
    space: "App", models: Path, page: Page, flaws: "Flaws"
) -> None:
    model = zoo.load(models / "paints")
    options = {"num_beams": 4, "num_return_sequences": 4, "return_scores": True}
    page.goto(f"{space.url}/paints")
    written = page.get_by_role("textbox", name="What it writes")
    page.get_by_role("button", name="Describe").click()
    found = model(drawing("ship"), max_new_tokens=10, **options)
    expect(written).to_have_value(found[0]["text"])
    table = page.get_by_role("region", name="All answers, best first")
    texts = list(dict.fromkeys(answer["text"] for answer in found))
    expect(table.locator("tbody th")).to_have_text(texts)
    words = gaze(model, drawing("ship"), found[0]["text"]).words
    looks = page.locator(".zoo-seens figcaption")
    expect(looks).to_have_text(words)
    assert flaws(page) == []
    page.get_by_label("number input for Beams").fill("1")
    choose_drawing(page, "Frog")
    page.get_by_role("button", name="Describe").click()
    greedy = model(drawing("frog"), max_new_tokens=10)
    expect(written).to_have_value(greedy)
    expect(looks).to_have_text(gaze(model, drawing("frog"), greedy).words)
    expect(table).to_have_count(0)


def test_programs_get_words_and_where_it_looked(
    space: "App", models: Path, frog: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    model = zoo.load(models / "paints")
    monkeypatch.chdir(frog.parent)
    code = http_snippet(zoo.info(models / "paints"), space.url)
    exec(compile(code, "snippet", "exec"), used := {})
    best = model(frog, num_beams=4, max_new_tokens=10)
    client: Any = used["client"]
    assert capsys.readouterr().out.splitlines()[-1] == best
    found = client.predict(handle_file(frog), "", api_name="/paints_attention")
    client.close()
    expected = gaze(model, frog)
    assert found["words"] == expected.words
    assert torch.tensor(found["weights"]) == pytest.approx(expected.layers[-1].mean(0))


def test_a_task_that_draws_gives_its_drawings() -> None:
    """Those of the splits that a card's scores are of, as the task draws them."""
    card = zoo.info("tiny-captioner")
    found = drawings(Gallery(), card)
    assert list(found) == [f"test {n}" for n in (1, 2, 3)] + [f"test seen {n}" for n in (1, 2, 3)]
    expected = SceneCaptions().pictures("test_seen")([1], SIDE)[0].permute(1, 2, 0).numpy()
    assert (np.asarray(found["test seen 2"]()) == expected).all()
    assert drawings(Gallery(), zoo.info("vit-cifar10")) is DRAWINGS


def test_programs_get_labels_and_shares_of_patches(
    space: "App", models: Path, frog: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    model = zoo.load(models / MODEL)
    card = zoo.info(models / MODEL)
    monkeypatch.chdir(frog.parent)
    exec(compile(http_snippet(card, space.url), "snippet", "exec"), used := {})
    assert model(frog)["label"] in capsys.readouterr().out
    exec(compile(python_snippet(card), "snippet", "exec"), {})
    assert str(model(frog, top_k=3)) in capsys.readouterr().out
    client: Any = used["client"]
    answer = client.predict(handle_file(frog), api_name=f"/{MODEL}_run")
    found = {entry["label"]: entry["confidence"] for entry in answer["confidences"]}
    assert found == pytest.approx({e["label"]: e["score"] for e in model(frog, top_k=None)})
    weights = client.predict(handle_file(frog), api_name=f"/{MODEL}_attention")["weights"]
    assert torch.tensor(weights) == pytest.approx(seen(model, frog))
    bad = {
        "cut.png": (frog.read_bytes()[:400], "is damaged"),
        "empty.png": (b"", "is empty"),
        "text.png": (b"no picture", "none that Pillow can read"),
        "bomb.tif": (bomb(), "more than 100,000,000"),
    }
    for name, (data, said) in bad.items():
        (frog.parent / name).write_bytes(data)
        with pytest.raises(AppError, match=said):
            client.predict(handle_file(frog.parent / name), api_name=f"/{MODEL}_run")
    client.close()


def bomb() -> bytes:
    file = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(file, "TIFF", compression="group4")
    return file.getvalue()


def test_the_map_goes_from_the_least_to_the_greatest() -> None:
    """A white picture below matplotlib's own colours, mixed by hand."""
    white = Image.new("RGB", (8, 8), "white")
    html = laid_over(white, [[0.1, 0.2], [0.3, 0.2]], "<b>")
    assert "<b>" not in html and 'alt="&lt;b&gt;, laid over it"' in html
    data = base64.b64decode(html.partition("base64,")[2].partition('"')[0])
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    assert pixels.shape == (256, 256, 3)
    for row, column, value in ((0, 0, 0.0), (0, 255, 0.5), (255, 0, 1.0), (200, 200, 0.5)):
        colour = np.array(matplotlib.colormaps["inferno"](value)[:3])
        assert pixels[row, column] == pytest.approx((0.4 + 0.6 * colour) * 255, abs=1)
    for alike in ([[0.5, 0.5]], [[0.501, 0.499]]):  # no difference is made of nothing
        html = laid_over(white, alike, "all alike")
        data = base64.b64decode(html.partition("base64,")[2].partition('"')[0])
        middle = np.array(matplotlib.colormaps["inferno"](0.5)[:3])
        pixels = np.asarray(Image.open(io.BytesIO(data)))
        assert pixels == pytest.approx(np.full((256, 256, 3), 255 * (0.4 + 0.6 * middle)), abs=4)


def test_the_drawings_are_ours_and_differ() -> None:
    pixels = [np.asarray(drawing(name)) for name in DRAWN]
    assert all(found.shape == (SIDE, SIDE, 3) for found in pixels)
    assert len({found.tobytes() for found in pixels}) == len(DRAWN)


def test_labels_and_prompts_are_those_of_the_library(
    frog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("open_clip", reason="needs txzoo[clip]")
    words = "a drawing of photo red blue circle star nothing"
    tokenizer = build_tokenizer(words, {"kind": "word"})
    end_texts(tokenizer)
    torch.manual_seed(1)
    module = zoo.create(
        "open-clip",
        vocab_size=tokenizer.get_vocab_size(),
        max_seq_len=8,
        image_size=16,
        d_embed=16,
        pad_id=pad_id_of(tokenizer),
        end_id=end_id_of(tokenizer),
        vision={"layers": 1, "width": 24, "head_width": 8, "mlp_ratio": 1.0, "patch_size": 4},
        text={"layers": 1, "width": 24, "heads": 3, "mlp_ratio": 1.0},
    ).eval()
    model = Model(
        name="small",
        module=module,
        config=module.config,
        tokenizer=tokenizer,
        pipeline="zero-shot-image-classification",
        card=None,
    )
    gallery, card = Gallery(), zoo.info("tiny-clip")
    monkeypatch.setattr(gallery.models, "get", lambda *_: model)
    classify = zero_shot.classifier(gallery, card)
    templates = "a {}\n\n a drawing of a {} \n"
    scores, table = classify(str(frog), "red circle, blue star,", templates, "nothing")
    expected = model(
        frog,
        labels=["red circle", "blue star"],
        templates=["a {}", "a drawing of a {}"],
        negative_labels=["nothing"],
    )
    assert scores == pytest.approx({one["label"]: one["score"] for one in expected})
    assert 0 < sum(scores.values()) < 1
    assert all(f"{one['similarity']:.3f}" in table for one in expected)
    for labels, template, said in (
        ("", "a {}", "labels is empty"),
        ("red, red", "a {}", "twice"),
        ("red", "a", "has 0 places"),
        ("red " * 2000, "a {}", "8,000 characters"),
    ):
        with pytest.raises(gr.Error, match=said):
            classify(str(frog), labels, template)
    weights = image_classification.looker(gallery, card)(str(frog))["weights"]
    assert torch.tensor(weights) == pytest.approx(seen(model, frog))
    examples = {name: partial(drawing, name) for name in ("frog", "ship")}
    prompts, pictures = ["a red star", "a circle"], ["frog", "ship"]
    compare = zero_shot.comparer(gallery, card, examples)
    html = compare(None, "a red star\na circle\n")
    pixels = module.read_pictures([drawing(name) for name in pictures])
    cosines = (
        module.encode_image(pixels) @ module.encode_text(module.read_texts(tokenizer, prompts)).T
    )
    cells = re.findall(r"([●▲ ]*)(-?\d\.\d{3})</span>", html)
    values = [float(value) for _, value in cells]
    assert values == pytest.approx(cosines.flatten().tolist(), abs=0.0006)
    for row, line in enumerate(cosines):
        for column, value in enumerate(line):
            signs = cells[2 * row + column][0]
            assert ("●" in signs) == (value == line.max())
            assert ("▲" in signs) == (value == cosines[:, column].max())
    for line in cosines:
        first, second = line.argsort(descending=True).tolist()
        best = f"<td>{prompts[first]} ({line[first]:.3f})</td><td>{prompts[second]} ("
        assert best in html
    assert "<b>" not in zero_shot.matrix(["<b>"], ["<b>"], [[0.1]])
    assert "test seen 3" in zero_shot.drawings(gallery) and "Ship" in zero_shot.drawings(gallery)


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    folder.mkdir()
    for name in ("ship", "frog", "cat"):
        drawing(name).resize((300, 200)).save(folder / f"{name}.png")
    return folder


@pytest.mark.browser
def test_uploaded_pictures_are_ranked_by_a_text(
    app: "App", album: Path, page: Page, flaws: "Flaws"
) -> None:
    pytest.importorskip("open_clip", reason="needs txzoo[clip]")
    page.goto(f"{app.url}/tiny-clip")
    page.get_by_role("tab", name="Search").locator("visible=true").click()
    search = page.get_by_role("button", name="Search", exact=True)
    found = page.get_by_role("group", name="Pictures found")
    captions = found.locator("figcaption")
    search.click()  # the drawings
    expect(captions).to_have_count(len(zero_shot.drawings(Gallery())))
    files = [*album.glob("*.png")]
    page.locator("input[type=file][multiple]").set_input_files(files)
    chosen = page.get_by_role("status").filter(has_text="Searched: ")
    expect(chosen).to_have_text(f"Searched: {', '.join(file.name for file in files)}")
    page.get_by_label("What to look for").fill("a drawing of a ship")
    search.click()
    expect(captions).to_have_count(len(files))
    best = zoo.load("tiny-clip").called.search("a drawing of a ship", album)
    expect(captions).to_have_text(
        [
            f"{place}. {Path(one['file']).name}: {one['similarity']:.3f}"
            for place, one in enumerate(best, start=1)
        ]
    )
    names = [Path(one["file"]).name for one in best]
    expect(found.get_by_role("img")).to_have_count(len(names))
    for place, name in enumerate(names):
        expect(found.get_by_role("img").nth(place)).to_have_attribute("alt", name)
    page.get_by_label("Texts").fill("a drawing of a ship\na drawing of a cat")
    page.get_by_role("button", name="Compare").click()
    table = page.get_by_role("region", name="Cosines of pictures and texts")
    expect(table.locator("tbody th")).to_have_text([file.name for file in files])
    expect(page.get_by_role("region", name="The best texts of each picture")).to_be_visible()
    assert flaws(page) == []
    page.get_by_role("button", name="Take the drawings").click()
    expect(chosen).to_contain_text("the drawings")
    search.click()
    expect(captions).to_have_count(len(zero_shot.drawings(Gallery())))


def test_programs_search_pictures_and_what_is_wrong_is_said(app: "App", album: Path) -> None:
    pytest.importorskip("open_clip", reason="needs txzoo[clip]")
    client = Client(app.url, verbose=False)
    files = [handle_file(file) for file in sorted(album.glob("*.png"))]
    ask = {"api_name": "/tiny-clip_search"}
    found = client.predict(files, "a drawing of a cat", **ask)
    best = zoo.load("tiny-clip").called.search("a drawing of a cat", album)
    assert [one["picture"] for one in found] == [Path(one["file"]).name for one in best]
    cosines = [one["similarity"] for one in best]
    assert [one["similarity"] for one in found] == pytest.approx(cosines, abs=1e-5)
    (album / "cut.png").write_bytes((album / "cat.png").read_bytes()[:400])
    (album / "words.txt").write_text("no picture")
    for given, query, said in (
        (files, " ", "There is nothing to look for"),
        (files * 6, "a cat", "There are 18 pictures; this page takes 16 at most"),
        ([*files, handle_file(album / "cut.png")], "a cat", "cut.png.* is damaged"),
        ([handle_file(album / "words.txt")], "a cat", "Invalid file type"),
        (files, "a" * 4001, "4,001 characters"),
    ):
        with pytest.raises(AppError, match=said):
            client.predict(given, query, **ask)
    client.close()


def test_texts_against_pictures_have_limits() -> None:
    pytest.importorskip("open_clip", reason="needs txzoo[clip]")
    compare = zero_shot.comparer(Gallery(), zoo.info("tiny-clip"), DRAWINGS)
    for texts, said in (
        (" \n", "There are no texts"),
        ("a\n" * 25, "25 texts; this page takes 24"),
    ):
        with pytest.raises(gr.Error, match=said):
            compare(None, texts)


def test_a_model_that_is_told_labels_says_how() -> None:
    card = zoo.info("tiny-clip")
    labels = example_labels(card)
    assert "labels=[" in python_snippet(card)
    words = shlex.split(shell_snippet(card))
    assert words[words.index("--labels") + 1].split(",") == labels and words[-1] == PICTURE
    assert f'"{", ".join(labels)}"' in http_snippet(card, "http://127.0.0.1")


def test_where_nothing_can_be_seen_the_page_says_so(
    frog: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with BLIP, whose attention `transformers` computes."""
    show = shower(Gallery(), zoo.info("tiny-captioner"))
    assert "zoo-seens" in show(str(frog), "a red star")
    monkeypatch.setattr("zoo_gallery.views.image_to_text.gaze", unseen)
    assert "keeps no attention weights" in show(str(frog), "a red star")


def unseen(*_: object) -> None:
    raise InputError("blip keeps no attention weights: it does not use zoo.nn.attend")
