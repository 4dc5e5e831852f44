"""The Chat page: it goes on as `zoo.chat.Chat` does; what is said is taken back, and kept."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from gradio_client import Client
from gradio_client.exceptions import AppError
from playwright.sync_api import Page, expect
from zoo_gallery import views
from zoo_gallery.chat import (
    Session,
    opened,
    positions,
    saved,
    settings,
    talkers,
    tell_left_out,
)
from zoo_gallery.state import Gallery, Limits

import zoo
from zoo.chat import Chat
from zoo.conversation import Template, read_conversation, write
from zoo.errors import InputError, ZooError

if TYPE_CHECKING:
    from conftest import App, Flaws

NAME = "alibi-lm"
# model, system, temperature, top-p, top-k, repetition penalty, tokens, seed
GIVEN = (NAME, "Be brief.", 0.7, 0.9, 50, 1.2, 12, 3)
OPTIONS: Any = {"temperature": 0.7, "top_p": 0.9, "top_k": 50, "repetition_penalty": 1.2}
OPTIONS |= {"max_new_tokens": 12, "seed": 3}


@pytest.fixture(scope="module")
def gallery() -> Gallery:
    return Gallery(limits=Limits(prompt_characters=300))


def say(gallery: Gallery, session: Session, text: str, *given: Any) -> Any:
    chat = session.chat(gallery, *settings(*(given or GIVEN)))
    return list(session.follow(chat, chat.stream(text), text))


def test_it_goes_on_as_a_chat_does(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(views, "BETWEEN", 0.0)
    session, chat = Session(), Chat(zoo.load(NAME), system="Be brief.", **OPTIONS)
    for text in ("Who was it ?", "And when ?"):
        shown = say(gallery, session, text)
        chat.say(text)
        assert shown[-1] == session.messages == chat.messages[1:]
        assert len(shown) > 4  # streamed
        for earlier, later in zip(shown, shown[1:], strict=False):
            assert later[-1]["content"].startswith(earlier[-1]["content"])
    assert gallery.readings.of(session.key, NAME).read == chat.read  # nothing was read twice


def test_another_model_reads_from_the_beginning(gallery: Gallery) -> None:
    session = Session()
    say(gallery, session, "Who was it ?")
    other = ("rope-lm", *GIVEN[1:])
    say(gallery, session, "And when ?", *other)
    assert gallery.readings.of(session.key, NAME) is not gallery.readings.of(session.key, "rope-lm")
    chat = Chat(zoo.load("rope-lm"), system="Be brief.", **OPTIONS)
    chat.messages += session.messages[:2]
    assert session.messages[-1]["content"] == chat.say("And when ?")


def test_only_the_latest_readings_are_held() -> None:
    small = Gallery(limits=Limits(conversations=2))
    first, second, third = (small.readings.of(key, NAME) for key in "abc")
    assert small.readings.of("c", NAME) is third and small.readings.of("b", NAME) is second
    assert small.readings.of("a", NAME) is not first


def test_what_is_stopped_stays_as_far_as_it_came(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(views, "BETWEEN", 0.0)
    session = Session()
    chat = session.chat(gallery, *settings(*GIVEN))
    writing = session.follow(chat, chat.stream("Who was it ?"), "Who was it ?")
    seen = [next(writing) for _ in range(4)][-1]
    writing.close()  # type: ignore[attr-defined]
    assert session.messages == seen
    assert 0 < len(seen[-1]["content"])


def test_what_is_too_long_is_said(gallery: Gallery) -> None:
    with pytest.raises(InputError, match="takes 300 at most"):
        Session().chat(gallery, *settings(NAME, "a" * 301, *GIVEN[2:]))


def test_a_conversation_is_saved_and_goes_on(gallery: Gallery, tmp_path: Path) -> None:
    session = Session()
    say(gallery, session, "Who was <b>it</b> ?")
    file = tmp_path / "talk.json"
    file.write_text(saved(session, *settings(*GIVEN)))
    assert json.loads(file.read_text())["model"] == NAME
    assert read_conversation(file)[0][1:] == session.messages
    other = Session()
    assert opened(str(file), other) == ("Be brief.", OPTIONS)
    assert other.messages == session.messages
    chat = Chat(zoo.load(NAME))
    chat.load(file)
    assert chat.options == OPTIONS  # the program goes on as the page would
    assert say(gallery, other, "And when ?") and len(other.messages) == 4
    said = json.dumps(session.messages)
    for text in (
        "no JSON",
        '{"messages": [{"role": "user", "content": "Hello"}]}',
        "{}",
        '{"messages": []}',
        f'{{"messages": {said}, "options": {{"top_p": 3}}}}',
        f'{{"messages": {said}, "options": {{"num_beams": 3}}}}',
    ):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(ZooError):
            opened(str(tmp_path / "bad.json"), session)
    assert session.messages[0]["content"] == "Who was <b>it</b> ?"
    with pytest.raises(InputError, match="conversation is empty"):
        saved(Session(), NAME, "", {})


def test_sliders_stand_where_the_settings_are() -> None:
    assert positions(OPTIONS, 200) == list(GIVEN[2:])
    assert positions({}, 200) == [0, 1, 0, 1, 100, None]  # what zoo.Chat does without any: greedy
    assert positions({"top_k": 3}, 50) == [1, 1, 3, 1, 50, None]
    far = {"temperature": 5.0, "top_p": 0.01, "top_k": 999, "repetition_penalty": 0.5}
    assert positions({**far, "max_new_tokens": 900}, 200) == [2, 0.05, 200, 1, 200, None]


def test_what_is_left_out_is_said(gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr("gradio.Info", told.append)
    session = Session()
    long = "the river runs by the hill and the sea " * 5
    while len(session.messages) < 20 and not told:
        chat = session.chat(gallery, *settings(*GIVEN))
        pieces = chat.stream(long)
        tell_left_out(chat)
        list(session.follow(chat, pieces, long))
        assert bool(told) == bool(chat.left_out)
    assert told and told[0].startswith(f"{chat.left_out} older messages are out of the window")


def test_an_empty_message_is_refused(gallery: Gallery) -> None:
    session = Session()
    with pytest.raises(InputError, match="message is empty"):
        say(gallery, session, "  ")
    assert session.messages == []


def test_models_that_have_learned_to_answer_come_first(
    gallery: Gallery, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned, others = talkers(gallery)
    assert {card.pipeline for card in (*tuned, *others)} == {"text-generation"}
    card = others[-1]
    write(tmp_path, Template.called("alpaca"))
    path = tmp_path / "README.md"
    taught = type(card)(card.data, card.text, path)
    monkeypatch.setattr(Gallery, "cards", [*others[:-1], taught])
    assert [one.name for one in talkers(gallery)[0]] == [card.name]


def test_programs_can_talk(app: "App") -> None:
    client = Client(app.url, verbose=False)
    said = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day ."}]
    options = {"model": NAME, "system": "Be brief.", **OPTIONS}
    found = client.predict("Who was it ?", said, api_name="/chat", **options)
    with pytest.raises(AppError, match="unknown role 'robot'"):
        client.predict("Hello", [{"role": "robot", "content": "."}], api_name="/chat", **options)
    with pytest.raises(AppError, match="A conversation is a list of messages"):
        client.predict("Hello", "before", api_name="/chat", **options)
    client.close()
    chat = Chat(zoo.load(NAME), system="Be brief.", **OPTIONS)
    chat.messages += said
    assert found == chat.say("Who was it ?")


@pytest.mark.browser
def test_the_page(app: "App", page: Page, flaws: "Flaws", tmp_path: Path) -> None:
    page.goto(f"{app.url}/chat")
    message = page.get_by_role("textbox", name="Message", exact=True)
    log = page.get_by_role("log")
    page.get_by_role("spinbutton", name="Temperature").fill("0")
    page.get_by_role("spinbutton", name="Length").fill("8")
    message.fill("Who was <b>it</b> ?")
    page.get_by_role("button", name="Send").click()
    expect(message).to_have_value("")
    tuned, _ = talkers(Gallery())  # the page begins with one that has learned to answer
    options: Any = {"temperature": 0, "top_p": 0.9, "top_k": 0, "repetition_penalty": 1}
    chat = Chat(zoo.load(tuned[0].name), max_new_tokens=8, seed=1, **options)
    answer = chat.say("Who was <b>it</b> ?")
    expect(log).to_contain_text(answer.split("\n")[0])
    expect(log).to_contain_text("Who was <b>it</b> ?")  # as it was typed
    assert flaws(page) == []
    with page.expect_download() as download:
        page.get_by_role("button", name="Save").click()
    download.value.save_as(tmp_path / "talk.json")
    assert read_conversation(tmp_path / "talk.json") == (chat.messages, chat.options)
    page.get_by_role("button", name="Undo").click()
    expect(message).to_have_value("Who was <b>it</b> ?")
    expect(page.get_by_text(answer.split("\n")[0])).to_have_count(0)
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_text("Nothing was said yet")).to_be_visible()
    page.locator("input[type=file]").set_input_files(tmp_path / "talk.json")
    expect(log).to_contain_text(answer.split("\n")[0])
    expect(page.get_by_role("spinbutton", name="Length")).to_have_value("8")
    page.get_by_role("button", name="Clear", exact=True).first.click()
    expect(page.get_by_text(answer.split("\n")[0])).to_have_count(0)
