"""What visitors should not do and do: a message on the page, and the app goes on."""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from playwright.sync_api import Browser, Locator, Page, expect

import zoo

DRAWN = "() => new Promise(requestAnimationFrame)"  # what came before is on the page
HOSTILE = "<script>window.taken = 1</script><img src=x onerror='window.taken = 1'>"


def visit(page: Page, url: str, model: str = "alibi-lm") -> None:
    page.goto(f"{url}/{model}")
    expect(page.get_by_role("button", name="Write")).to_be_visible()


def output(page: Page) -> Locator:
    return page.get_by_role("textbox", name="What it writes")


def write(page: Page, prompt: str | None = None, length: int | None = None) -> None:
    if prompt is not None:
        page.get_by_label("Prompt").fill(prompt)
    if length is not None:
        field = page.get_by_label("number input for Length")
        field.fill(str(length))
        field.press("Tab")
    page.get_by_role("button", name="Write").click()


def still_works(page: Page) -> None:
    write(page, "The museum was", 5)
    expect(output(page)).to_have_value(re.compile(r"^The museum was .*\w"))


@pytest.mark.browser
def test_a_prompt_of_100_000_characters(app: Any, page: Page) -> None:
    visit(page, app.url)
    write(page, "word " * 20_000)
    said = "The text has 100,000 characters; this page takes 4,000 at most: shorten it"
    expect(page.get_by_text(said)).to_be_visible()
    still_works(page)


@pytest.mark.browser
def test_an_empty_prompt(app: Any, page: Page) -> None:
    visit(page, app.url)
    write(page, "")
    expect(page.get_by_text("is empty: give at least one word")).to_be_visible()
    still_works(page)


@pytest.mark.browser
def test_html_and_control_characters_in_a_prompt_are_text(app: Any, page: Page) -> None:
    visit(page, app.url)
    prompt = f"{HOSTILE} \x00\x1b[31m\u202e\ud83e\udd93".encode("utf-16", "surrogatepass")
    write(page, text := prompt.decode("utf-16"), 5)
    expect(output(page)).to_have_value(re.compile("^" + re.escape(text[:30])))
    page.get_by_role("tab", name="Attention").locator("visible=true").click()
    page.get_by_role("button", name="The numbers as a table").locator("visible=true").click()
    page.get_by_label("Text", exact=True).fill(HOSTILE)
    expect(page.locator(".zoo-table:visible tbody tr").first).to_contain_text("<")
    expect(page.locator(".zoo-figure svg:visible")).to_be_visible()
    page.get_by_label("Text", exact=True).fill(f"{HOSTILE} " * 40)
    expect(page.get_by_text("a map of at most 48 is drawn")).to_be_visible()
    assert page.evaluate("window.taken") is None


@pytest.mark.browser
def test_two_tabs_at_once_and_one_that_is_closed(app: Any, page: Page) -> None:
    visit(page, app.url)
    other = page.context.new_page()
    visit(other, app.url, "rope-lm")
    write(page, "In 1914 ,", 40)
    write(other, "The river", 40)
    settings = {"temperature": 0.8, "top_p": 0.9, "seed": 1, "max_new_tokens": 40}
    expect(output(page)).to_have_value(zoo.load("alibi-lm")("In 1914 ,", **settings))
    expect(output(other)).to_have_value(zoo.load("rope-lm")("The river", **settings))
    write(other, "The river", 200)
    expect(output(other)).not_to_have_value("")
    other.close()  # in mid-stream: nobody waits for the rest
    still_works(page)


PATIENT = """
from zoo_gallery.app import launch
from zoo_gallery.state import Limits
launch(Limits(new_tokens=20_000, waiting=1))
"""


@pytest.fixture(scope="module")
def patient(serve: Callable[..., Any]) -> Iterator[Any]:
    """A gallery of answers that take minutes, where one visitor may wait."""
    with serve(PATIENT, slowly=True) as started:
        yield started


@pytest.mark.browser
def test_a_full_queue_says_so(patient: Any, browser: Browser) -> None:
    client = Client(patient.url, verbose=False, analytics_enabled=False)
    ask = {"max_new_tokens": 20_000, "api_name": "/alibi-lm_run"}
    running = client.submit("The", **ask)
    next(running)  # it writes
    waiting = client.submit("A", **ask)
    with browser.new_context() as context:
        page = context.new_page()
        visit(page, patient.url, "rope-lm")
        write(page)
        expect(page.get_by_text(re.compile("busy", re.IGNORECASE)).first).to_be_visible()
        waiting.cancel()
        running.cancel()
        for _ in range(5):
            write(page)
            with suppress(AssertionError):
                expect(output(page)).to_have_value(re.compile(r"\w"), timeout=2000)
                break
        expect(output(page)).to_have_value(re.compile(r"\w"))
    client.close()


@pytest.mark.browser
def test_stop_stops_and_frees_the_queue(patient: Any, browser: Browser) -> None:
    with browser.new_context() as context:
        page, other = context.new_page(), context.new_page()
        visit(other, patient.url, "rope-lm")
        visit(page, patient.url)
        write(page, "The river", 20_000)
        expect(output(page)).to_have_value(re.compile(r"(\S+\s+){20}"))
        with page.expect_response(lambda answer: answer.url.endswith("/cancel")):
            page.get_by_role("button", name="Stop").click()
        page.evaluate(DRAWN)
        text = output(page).input_value()
        still_works(other)  # 20,000 tokens would keep it waiting for minutes
        assert output(page).input_value() == text
        write(page, "The river", 20_000)
        expect(output(page)).to_have_value(re.compile(r"(\S+\s+){20}"))
        page.close()  # a closed tab frees it too
        still_works(other)


@pytest.mark.browser
def test_a_hostile_card_and_weights_that_vanish(space: Any, models: Path, page: Page) -> None:
    hostile = zoo.info(models / "hostile-lm").summary
    assert hostile.startswith("<script>")
    page.goto(space.url)
    expect(page.locator(".zoo-card").filter(has_text=hostile)).to_have_count(1)
    visit(page, space.url, "hostile-lm")
    page.get_by_role("tab", name="Card").locator("visible=true").click()
    expect(page.get_by_text("Limits", exact=True).first).to_be_visible()
    assert page.locator("iframe").count() == 0
    assert page.locator("a[href^='javascript']").count() == 0
    assert page.evaluate("window.taken") is None
    (models / "hostile-lm/model.safetensors").unlink()
    page.get_by_role("tab", name="Try").locator("visible=true").click()
    write(page)
    expect(page.get_by_text("has no file model.safetensors")).to_be_visible()
    visit(page, space.url)
    still_works(page)


def post(url: str, body: bytes, kind: str) -> int:
    request = urllib.request.Request(url, body, {"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def test_files_that_nobody_asked_for(app: Any) -> None:
    def upload(data: bytes, name: str) -> int:
        head = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\n'
        body = head.encode() + data + b"\r\n--x--\r\n"
        return post(f"{app.url}/gradio_api/upload", body, "multipart/form-data; boundary=x")

    assert upload(b"0" * 9_000_000, "huge.bin") == 413
    for path in ("../../../../etc/passwd", "/etc/passwd", "model.safetensors"):
        upload(b"\x80\x04pickle", path)  # kept or refused, nothing ever reads it
    client = Client(app.url, verbose=False)
    try:
        answer = client.predict("The", api_name="/alibi-lm_run", max_new_tokens=3)
        assert answer.startswith("The ")
        with suppress(AppError):  # refused, or taken as the words that it is
            told = client.predict({"path": "/etc/passwd"}, api_name="/alibi-lm_run")
            assert "root:" not in told
        assert client.predict("The", api_name="/alibi-lm_run", max_new_tokens=3) == answer
    finally:
        client.close()


@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd", "model.safetensors"])
def test_no_file_of_the_machine_is_served(app: Any, path: str) -> None:
    request = urllib.request.Request(f"{app.url}/gradio_api/file={path}")
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=20)
    refused.value.close()
    assert refused.value.code in (403, 404)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"data": "The"}', b'{"data": [[], {}]}'])
def test_requests_that_make_no_sense(app: Any, body: bytes) -> None:
    status = post(f"{app.url}/gradio_api/call/alibi-lm_run", body, "application/json")
    assert status in (200, 400, 404, 422, 500)
    with urllib.request.urlopen(f"{app.url}/config", timeout=20) as answer:
        assert json.load(answer)["title"] == "txzoo gallery"
