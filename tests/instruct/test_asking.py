"""A model that has learned to answer is asked, wherever a text is typed."""

import json
from pathlib import Path

import pytest
from zoo_gallery.compare import writing, written
from zoo_gallery.snippets import python_snippet

import zoo
from zoo.batch import run_file
from zoo.cli import main
from zoo.conversation import Template, asked
from zoo.demo import answer
from zoo.errors import InputError
from zoo.generation import GenerationOptions
from zoo.model import Model

TEXTS = ("Convert 5 kilometers to meters.", "Change to the past tense: I walk home.")
SHORT = {"max_new_tokens": 12}


@pytest.fixture(scope="module")
def model() -> Model:
    return zoo.load("instruct-lm")


def message(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def said(model: Model, text: str) -> str:
    """What a conversation of its own gives."""
    return zoo.Chat(model, **SHORT).say(text)


@pytest.mark.parametrize("text", TEXTS)
def test_a_conversation_is_answered_as_in_a_chat(model: Model, text: str) -> None:
    expected = said(model, text)
    assert expected
    assert model(message(text), **SHORT).strip() == expected
    assert "".join(model(message(text), stream=True, **SHORT)).strip() == expected
    assert model(text, **SHORT).startswith(text)  # a text is gone on from


def test_a_conversation_of_several_turns_has_all_of_them_read(model: Model) -> None:
    talk = zoo.Chat(model, **SHORT)
    talk.say(TEXTS[0])
    second = talk.say(TEXTS[1])
    assert model(talk.messages[:-1], **SHORT).strip() == second


def test_conversations_in_a_batch_are_answered_as_each_alone(model: Model) -> None:
    found = model([message(text) for text in TEXTS], **SHORT)
    assert [one.strip() for one in found] == [said(model, text) for text in TEXTS]
    several = model(message(TEXTS[0]), num_beams=2, num_return_sequences=2, **SHORT)
    assert len(several) == len(set(several)) == 2


def test_an_answer_ends_where_its_template_says(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(end: str) -> str:
        model = zoo.load("instruct-lm")
        monkeypatch.setattr(Model, "template", Template.called("alpaca", {"eos_token": end}))
        assert model.called.read(message(TEXTS[1]), ["@"]).stop == ("@", end)
        whole = model(message(TEXTS[1]), **SHORT)
        assert "".join(model(message(TEXTS[1]), stream=True, **SHORT)) == whole
        return str(whole)

    whole = answers("~~~")
    end = whole[len(whole) // 2 :].split()[0][:-1] + "~"  # what it does not write, but nearly
    assert answers(end) == whole
    end = whole[len(whole) // 3 : len(whole) // 3 + 9].strip()
    assert answers(end) == whole[: whole.index(end)]


def test_a_model_without_a_template_refuses_messages() -> None:
    plain = zoo.load("rope-lm")
    with pytest.raises(InputError, match=r"rope-lm has no chat template.*zoo\.Chat"):
        plain(message("hello"))
    assert asked(plain, "hello") == "hello"


def test_what_is_no_conversation_is_refused(model: Model) -> None:
    with pytest.raises(InputError, match="unknown role 'oracle'"):
        model([{"role": "oracle", "content": "hello"}])
    with pytest.raises(InputError, match="Message 2"):
        model([*message("hello"), "and"])
    with pytest.raises(InputError, match="a list of one kind"):
        model(["a text", message("hello")])


def test_the_command_asks(model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = said(model, TEXTS[0])
    arguments = ["run", "instruct-lm", TEXTS[0], "--max-new-tokens", "12"]
    assert main(arguments) == 0
    assert capsys.readouterr().out.strip() == expected
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["generated_text"].strip() == expected
    (tmp_path / "in.jsonl").write_text(json.dumps(TEXTS[0]) + "\n")
    run_file(model, tmp_path / "in.jsonl", tmp_path / "out.jsonl", **SHORT)
    assert json.loads((tmp_path / "out.jsonl").read_text())["result"].strip() == expected


def test_demo_and_gallery_ask(model: Model) -> None:
    assert answer(model, TEXTS[0]).startswith(" → ")
    assert "[{'role': 'user', 'content': " in python_snippet(zoo.info("instruct-lm"))
    parts = writing(model, TEXTS[0], GenerationOptions(max_new_tokens=12, do_sample=False))
    assert "".join(piece for piece, _ in written(parts)).strip() == said(model, TEXTS[0])
    assert answer(zoo.load("rope-lm"), "The river").startswith(" ")
