"""The Ask page: it finds and answers what `txzoo ask` does; uploads are read, told of, removed."""

import json
import os
import shlex
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Page, expect
from zoo_gallery import ask
from zoo_gallery.ask import (
    ASKED,
    EXAMPLE,
    NOBODY,
    answered,
    named,
    passages,
    python_snippet,
    read_uploads,
    remove,
    replies,
    said_of,
    shell_snippet,
)
from zoo_gallery.state import Gallery, Limits

import zoo
from zoo.cli import main
from zoo.errors import InputError, ZooError
from zoo.retrieval import Answer, Library, Passage

if TYPE_CHECKING:
    from conftest import App, Flaws, Serve

NAME = "instruct-lm"
BRIEF = """
import zoo_gallery.ask
from zoo_gallery.app import launch
zoo_gallery.ask.LINGER = 2.0
launch()
"""


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    return Gallery(limits=Limits(prompt_characters=300, texts=3, document_megabytes=1, passages=4))


@pytest.fixture(scope="module")
def example() -> Library:
    return Library.of(EXAMPLE)


@pytest.fixture
def uploads(tmp_path: Path) -> list[str]:
    """Two documents and two files that are none, one of them hostile by name and text."""
    texts = {
        "bees.md": "# Bees\n\nIn winter the bees eat honey.\n",
        "<b>trains.txt": "Honey is <i>sold</i> in the night train.\n",
        "empty.md": "",
        "photo.png": "no text",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    return [str(tmp_path / name) for name in texts]


def test_it_finds_and_answers_as_the_command_does(
    gallery: Gallery, example: Library, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["ask", "--docs", str(EXAMPLE), "--k", "4", "--json", ASKED]) == 0
    told = json.loads(capsys.readouterr().out)
    first, last = replies(gallery, example, ASKED, NAME, 4)
    assert len(told["passages"]) == 4 and told["passages"][0]["path"] == "opening.md"
    for number, one in enumerate(told["passages"], 1):
        assert f"[{number}] {one['place']}<" in first[0]
    assert first[0] == last[0] == passages(example.search(ASKED, 4))
    assert told["answer"] and told["answer"] in last[1] and "4.3M parameters" in last[1]
    for number, citation in enumerate(told["citations"], 1):
        assert f'<a href="#passage-{number}">{citation}</a>' in last[1]
        assert f'id="passage-{number}"' in last[0]
    assert told["model"] == NAME and "reads" in first[1]


def test_passages_alone_and_bounds(gallery: Gallery, example: Library) -> None:
    [(found, written, *_)] = replies(gallery, example, ASKED, NOBODY, 99)
    assert found.count("<li") == gallery.limits.passages and written == ""
    [(found, *_)] = replies(gallery, example, ASKED, NOBODY, 0)
    assert found.count("<li") == 1
    [(found, written, *_)] = replies(gallery, example, "Zanzibar?", NAME, 4)
    assert "It shares no word with the documents" in found and written == ""
    short = Gallery(limits=Limits(new_tokens=1))
    *_, (_, written, *_) = replies(short, example, ASKED, NAME, 1)
    [hit] = example.search(ASKED, 1)
    one = zoo.retrieval.answer(ASKED, [hit.passage], NAME, max_new_tokens=1)
    assert written == answered(one, f"{NAME}, 4.3M parameters")


@pytest.mark.parametrize(
    ("question", "name", "message"),
    [
        ("  ", NAME, "There is no question: ask one"),
        ("a " * 200, NAME, "The text has 400 characters; this page takes 300 at most"),
        (ASKED, "speech-encoder", "speech-encoder is a text-classification model"),
        (ASKED, "nobody-lm", "Unknown model 'nobody-lm'"),
    ],
)
def test_what_cannot_be_asked(
    gallery: Gallery, example: Library, question: str, name: str, message: str
) -> None:
    with pytest.raises(ZooError, match=message):
        list(replies(gallery, example, question, name, 3))
    with pytest.raises(InputError, match="There are no documents: upload some, or try the example"):
        list(replies(gallery, None, question, name, 3))


def test_uploads_are_read_and_the_others_named(gallery: Gallery, uploads: list[str]) -> None:
    library = read_uploads(uploads[1:], gallery.limits)
    assert list(library.documents) == ["<b>trains.txt"]
    html = said_of(library)
    assert "1 document read: &lt;b&gt;trains.txt (1 passage)." in html and "Left out: 2" in html
    assert "<strong>empty.md</strong>: empty" in html
    assert "<strong>photo.png</strong>: .png is not text, Markdown or HTML" in html
    [(found, *_)] = replies(gallery, library, "Where is honey sold?", NOBODY, 3)
    assert "[1] &lt;b&gt;trains.txt:1<" in found and "Honey is &lt;i&gt;sold&lt;/i&gt; in" in found
    assert "<b>" not in html + found and "<i>" not in found


def test_what_is_no_document_or_too_much(
    gallery: Gallery, uploads: list[str], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"left out: 2: empty\.md \(empty\), photo\.png") as told:
        read_uploads(uploads[2:], gallery.limits)
    assert str(tmp_path) not in str(told.value)  # nor is said where the server keeps them
    with pytest.raises(InputError, match="There are 4 documents; this page takes 3 at most"):
        read_uploads(uploads, gallery.limits)
    (tmp_path / "bees.md").write_text("bees " * 240_000)
    with pytest.raises(InputError, match=r"The documents have 1\.2 MB; this page takes 1 at most"):
        read_uploads(uploads[:1], gallery.limits)


def test_of_one_name_each_has_its_own() -> None:
    files = ["/a/notes.md", "/b/notes.md", "/c/notes (2).md", "/d/README"]
    assert named(files) == {
        "notes.md": files[0],
        "notes (2).md": files[1],
        "notes (2) (2).md": files[2],
        "README": files[3],
    }


def test_what_an_answer_left_out_is_said() -> None:
    place = Passage("<a>.md", 1, 2, "text")
    html = answered(Answer("", [place], "prompt", 2), "some-lm, 3 parameters")
    assert "(nothing)" in html and "2 passages did not fit" in html
    assert '<a href="#passage-1">[1] &lt;a&gt;.md:1-2</a>' in html


def test_only_what_nobody_needs_is_removed(
    uploads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    left, shown, *_ = uploads
    blocks = SimpleNamespace(blocks={1: SimpleNamespace(keep_in_cache={shown})})
    remove(uploads, blocks)  # somebody may have sent the same just now
    assert all(map(os.path.exists, uploads))
    monkeypatch.setattr(ask, "LINGER", -1.0)
    remove([*uploads, "gone.md"], blocks)
    assert [file for file in uploads if os.path.exists(file)] == [shown] and left != shown


@pytest.mark.parametrize("name", [NAME, NOBODY])
def test_the_snippets_do_the_same(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "documents").symlink_to(EXAMPLE)
    question = '--Who "built" the keeper\'s tower?'
    hits = Library.of(EXAMPLE).search(question, 2)
    words = shlex.split(shell_snippet(question, name, 2))
    assert words[0] == "txzoo" and main(words[1:]) == 0
    shell = capsys.readouterr().out
    exec(compile(python_snippet(question, name, 2), "snippet", "exec"), {})
    python = capsys.readouterr().out
    for number, hit in enumerate(hits, 1):
        assert f"[{number}] {hit.passage.place}\n" in shell
        assert f"{hit.passage.place} {hit.passage.text}\n" in python
    assert ("Written by instruct-lm" in shell) is (f"[1] {hits[0].passage.place}" in python)
    assert ("Written by instruct-lm" in shell) is (name == NAME)


def test_a_missing_extra_says_the_pip_line(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[str] = []
    monkeypatch.setattr(ask, "find_spec", lambda name: None)
    monkeypatch.setattr(ask.gr, "HTML", shown.append)
    ask.page(gallery)
    said = "needs packages that are not installed: pip install &#x27;txzoo[retrieval]&#x27;"
    assert said in shown[-1]


def upload(page: Page, files: Sequence[str]) -> None:
    page.locator("input[type=file]").set_input_files(files)


@pytest.mark.browser
def test_the_page(app: "App", page: Page, flaws: "Flaws", uploads: list[str]) -> None:
    page.goto(f"{app.url}/ask")
    button = page.get_by_role("button", name="Ask", exact=True)
    button.click()
    expect(page.get_by_text("There are no documents: upload some, or try")).to_be_visible()
    page.get_by_test_id("toast-close").click()
    page.get_by_role("button", name="Try the example").click()
    expect(page.get_by_label("Question")).to_have_value(ASKED)
    told = Library.of(EXAMPLE).ask(ASKED)
    expect(page.get_by_text(told.text, exact=True)).to_be_visible()
    for citation in told.citations:
        expect(page.get_by_role("link", name=citation)).to_be_visible()
    places = [hit.passage.place for hit in Library.of(EXAMPLE).search(ASKED)]
    shown = page.locator(".zoo-passages li strong")
    expect(shown).to_have_text([f"[{n}] {place}" for n, place in enumerate(places, 1)])
    assert flaws(page) == []
    upload(page, uploads[2:])  # what was read before stays
    expect(page.get_by_text("left out: 2: empty.md (empty)")).to_be_visible()
    page.get_by_test_id("toast-close").click()
    expect(page.get_by_text("3 documents read: history.html")).to_be_visible()
    upload(page, [uploads[0], *uploads[2:]])
    expect(page.get_by_text("1 document read: bees.md (1 passage).")).to_be_visible()
    expect(page.get_by_text("photo.png: .png is not text")).to_be_visible()
    page.get_by_label("Question").fill("Who eats <b>honey</b>?")
    page.get_by_label("Decoder").click()
    page.get_by_role("option", name="None: passages only").click()
    button.click()
    expect(shown).to_have_text(["[1] bees.md:1-3"])
    expect(page.get_by_role("heading", name="Answer")).to_have_count(0)
    page.get_by_role("button", name="The same in Python").click()
    code = page.get_by_role("textbox", name="Shell")
    expect(code).to_have_value(shell_snippet("Who eats <b>honey</b>?", NOBODY, 5).strip())
    assert flaws(page) == []
    other = page.context.new_page()  # another visitor, who has none of these documents
    other.goto(f"{app.url}/ask")
    other.get_by_label("Question").fill("Who eats honey?")
    other.get_by_role("button", name="Ask", exact=True).click()
    expect(other.get_by_text("There are no documents: upload some, or try")).to_be_visible()


UPLOAD = "Upload documents"  # the button


@pytest.mark.browser
def test_uploads_do_not_stay(serve: "Serve", page: Page, uploads: list[str]) -> None:
    with serve(BRIEF) as started:
        folder = started.log.with_suffix("")  # Gradio's for temporary files
        before = {path for path in folder.rglob("*") if path.is_file()}
        page.goto(f"{started.url}/ask")
        upload(page, [uploads[0]])
        expect(page.get_by_text("1 document read: bees.md")).to_be_visible()
        page.wait_for_timeout(4000)
        assert {path for path in folder.rglob("*") if path.is_file()} == before
        page.get_by_label("Question").fill("Who eats honey?")
        page.get_by_role("button", name="Ask", exact=True).click()
        expect(page.get_by_text("[1] bees.md:1-3").first).to_be_visible()
        page.close()


def test_no_other_file_is_read(app: "App", tmp_path: Path) -> None:
    """What the page sends when files were uploaded, with a path of the machine."""
    (tmp_path / "secret.md").write_text("the secret\n")
    with urllib.request.urlopen(f"{app.url}/config", timeout=20) as answer:
        config = json.load(answer)
    [button] = [c["id"] for c in config["components"] if c["props"].get("label") == UPLOAD]
    [event] = [e for e in config["dependencies"] if [button, "upload"] in map(list, e["targets"])]
    files = [{"path": str(tmp_path / "secret.md"), "meta": {"_type": "gradio.FileData"}}]
    body = {"data": [files, None], "fn_index": event["id"], "session_hash": "stranger"}
    head = {"Content-Type": "application/json"}
    url = f"{app.url}/gradio_api/queue"
    request = urllib.request.Request(f"{url}/join", json.dumps(body).encode(), head)
    urllib.request.urlopen(request, timeout=20).close()
    with urllib.request.urlopen(f"{url}/data?session_hash=stranger", timeout=60) as answer:
        said = answer.read().decode()
    assert '"success":false' in said.replace(" ", "") and "passage" not in said
    assert (tmp_path / "secret.md").exists()
