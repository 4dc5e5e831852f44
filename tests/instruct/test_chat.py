"""Talking to a model: history, window, what is read anew, and the verb."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from torch import nn

import zoo
from zoo.chat import Chat
from zoo.cli import main
from zoo.cli.chat import chat
from zoo.conversation import Template, prompt
from zoo.errors import ContextLengthError, FolderError, InputError
from zoo.generation import GenerationOptions, generate
from zoo.model import Model
from zoo.tokenization import build_tokenizer

TEXT = "the river runs by a hill and the sea is near it , user assistant system\n" * 4
DECODERS: dict[str, dict[str, Any]] = {
    "decoder": {},
    "gpt2": {},
    "rope-decoder": {"n_kv_heads": 2},
    "alibi-decoder": {},
    "relative-decoder": {},
}


def talker(name: str = "rope-decoder", window: int = 256) -> Model:
    """A random decoder that writes words, the same each time."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(TEXT, {"kind": "word"})
    tokenizer.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    module = zoo.create(
        name,
        vocab_size=tokenizer.get_vocab_size(),
        max_seq_len=window,
        d_model=16,
        n_layers=2,
        n_heads=4,
        d_ff=16,
        **DECODERS[name],
    ).eval()
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.5)
    module.requires_grad_(False)
    return Model(
        name="talker",
        module=module,
        config=module.config,
        tokenizer=tokenizer,
        pipeline="text-generation",
        card=None,
    )


def anew(talk: Chat, new: int) -> str:
    """The answer to a conversation that is read from its first token, without a cache."""
    assert talk.model.tokenizer is not None
    ids = prompt(talk.template, talk.tokenizer, talk.messages[:-1])
    options = GenerationOptions(max_new_tokens=new, do_sample=False)
    (found,) = generate(talk.model.module, [ids], options, end_id=talk.end_id, use_cache=False).ids
    whole = talk.tokenizer.decode(ids[-1:] + found)
    return whole[len(talk.tokenizer.decode(ids[-1:])) :].strip()


@pytest.mark.parametrize("name", DECODERS)
def test_answers_are_the_same_and_only_what_is_new_is_read(name: str) -> None:
    talk = Chat(talker(name), system="the sea", template="chatml", max_new_tokens=12)
    lengths: list[int] = []
    wholes: list[int] = []
    for text in ("the river", "a hill", "is it near ?", "the sea"):
        before = talk.read
        answer = talk.say(text)
        assert talk.messages[-2:] == [
            {"role": "user", "content": text},
            {"role": "assistant", "content": answer},
        ]
        assert answer == anew(talk, 12)
        whole = len(prompt(talk.template, talk.tokenizer, talk.messages[:-1]))
        lengths.append(talk.read - before)
        wholes.append(whole + len(talk.tokenizer.encode(answer).ids))
    assert all(new < whole for new, whole in zip(lengths[1:], wholes[1:], strict=True))
    assert sum(lengths) < 0.6 * sum(wholes)
    assert sum(lengths) == talk.read


def test_sampling_is_the_same_with_the_kept_cache() -> None:
    options: dict[str, Any] = {"temperature": 1.0, "top_k": 8, "seed": 3, "max_new_tokens": 10}
    talk = Chat(talker(), template="chatml", **options)
    talk.say("the river")
    answer = talk.say("a hill")
    ids = prompt(talk.template, talk.tokenizer, talk.messages[:-1])
    (found,) = generate(
        talk.model.module, [ids], GenerationOptions(**options), end_id=talk.end_id
    ).ids
    text = talk.tokenizer.decode(ids[-1:] + found)[len(talk.tokenizer.decode(ids[-1:])) :]
    assert text.strip() == answer


def test_retry_undo_clear() -> None:
    talk = Chat(talker(), system="the sea", template="chatml", seed=1, temperature=1.5)
    first = talk.say("the river")
    second = talk.say("a hill")
    again = "".join(talk.retry()).strip()
    assert again != second  # drawn anew
    assert [one["content"] for one in talk.messages[3:]] == ["a hill", again]
    assert talk.undo() == "a hill"
    assert [one["content"] for one in talk.messages] == ["the sea", "the river", first]
    assert talk.say("a hill") == second  # as if it had not been said before
    talk.clear()
    assert talk.messages == [{"role": "system", "content": "the sea"}]
    for action in (talk.undo, talk.retry):
        with pytest.raises(InputError, match="Nothing was said yet"):
            action()
    assert talk.say("the river") == first


def test_an_answer_that_is_stopped_stays_as_far_as_it_is() -> None:
    talk = Chat(talker(), template="chatml", max_new_tokens=20)
    pieces = talk.stream("the river")
    begun = next(pieces) + next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert talk.messages[-1] == {"role": "assistant", "content": begun.strip()}
    assert talk.say("a hill") == anew(talk, 20)
    count = len(talk.messages)
    talk.stream("never read").close()  # type: ignore[attr-defined]
    assert len(talk.messages) == count


def test_oldest_turns_leave_the_window_whole() -> None:
    talk = Chat(talker(window=64), system="the sea", template="chatml", max_new_tokens=8)
    for text in ("the river", "a hill", "near it", "by the sea"):
        talk.say(text)
    assert len(talk.messages) == 9
    assert talk.left_out and talk.left_out % 2 == 0
    seen = [talk.messages[0], *talk.messages[1 + talk.left_out : -1]]
    assert seen[1]["role"] == "user"
    ids = prompt(talk.template, talk.tokenizer, seen)
    assert len(ids) + 8 <= 64
    more = [talk.messages[0], *talk.messages[1 + talk.left_out - 2 : -1]]
    assert len(prompt(talk.template, talk.tokenizer, more)) + 8 > 64  # one turn more did not fit
    options = GenerationOptions(max_new_tokens=8, do_sample=False)
    (found,) = generate(talk.model.module, [ids], options, end_id=talk.end_id).ids
    assert talk.tokenizer.decode(found).split()[-1] in talk.messages[-1]["content"]


def test_what_does_not_fit() -> None:
    model = talker(window=40)
    with pytest.raises(ContextLengthError, match=r"has 60 tokens, \d+ with .* the window 40,"):
        Chat(model, system="the sea " * 30, template="chatml")
    talk = Chat(model, template="chatml")
    with pytest.raises(ContextLengthError, match=r"takes \d+ tokens .*the window is 40"):
        talk.say("the sea " * 30)
    for text in ("", " \n"):
        with pytest.raises(InputError, match="message is empty"):
            talk.stream(text)
    assert talk.messages == []
    for options, words in (
        ({"num_beams": 2}, "num_beams is not of a chat"),
        ({"temprature": 1}, "Did you mean 'temperature'"),
        ({"window": 1}, "window must be from 2"),
        ({"template": "chatlm"}, "Did you mean 'chatml'"),
        ({"template": "alpaca"}, "cannot spell"),  # a word tokenizer without such an end
    ):
        with pytest.raises((InputError, zoo.ZooError), match=words):
            Chat(model, **{"template": "chatml", **options})


def test_a_system_message_leaves_room_for_a_message_and_an_answer() -> None:
    """As long as it may be, a word can be said and one token answered; a word more is refused."""
    model = talker(window=40)
    longest = None
    for words in range(1, 41):
        try:
            longest = Chat(model, system="sea " * words, template="chatml")
        except ContextLengthError:
            break
    assert longest is not None and 1 < words < 40
    with pytest.raises(ContextLengthError):
        Chat(model, system="sea " * (words + 1), template="chatml")
    assert longest.say("sea") is not None
    assert longest.read <= 40 and 39 <= longest.read
    with pytest.raises(ContextLengthError, match=rf"the system message \({words - 1} tokens\)"):
        longest.say("the sea")


def test_a_conversation_is_saved_and_loaded(tmp_path: Path) -> None:
    model = talker()
    talk = Chat(model, system="the sea", template="chatml", max_new_tokens=9)
    talk.say("the river")
    path = talk.save(tmp_path / "talk.json")
    assert json.loads(path.read_text())["messages"] == talk.messages
    other = Chat(model, template="chatml", max_new_tokens=3, temperature=1.5)
    other.load(path)
    assert other.options == {"max_new_tokens": 9}  # the settings are those of the file
    assert other.say("a hill") == talk.say("a hill")
    with pytest.raises(InputError, match="The conversation is empty"):
        Chat(model, template="chatml").save(tmp_path / "empty.json")
    before = (talk.messages, talk.options)
    with pytest.raises(FolderError, match="no file"):
        talk.load(tmp_path / "none.json")
    for values, words in (
        ({"messages": [{"role": "user", "content": "x"}]}, "the answer be last"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "unknown role 'narrator'"),
        ({}, "holds no conversation"),
        ({"messages": []}, "talk.json: The conversation is empty"),
        ({"messages": talk.messages, "options": [1]}, "options must be an object"),
        ({"messages": talk.messages, "options": {"stop": "."}}, "stop is not of a chat"),
        ({"messages": talk.messages, "options": {"top_k": -1}}, "top_k must be a whole number"),
    ):
        path.write_text(json.dumps(values))
        with pytest.raises(InputError, match=words):
            talk.load(path)
    assert (talk.messages, talk.options) == before
    path.write_text(json.dumps({"messages": talk.messages}))
    other.load(path)
    assert other.options == {"max_new_tokens": 9}  # a file without settings leaves them


def test_an_end_that_takes_several_tokens_is_seen_in_the_text() -> None:
    """A byte-level tokenizer without special tokens can spell any end."""
    tokenizer = build_tokenizer(TEXT, {"kind": "byte-pair", "vocab_size": 280})

    class Says(nn.Module):
        """Writes a text, whatever it reads."""

        max_len = None

        def __init__(self, text: str) -> None:
            super().__init__()
            self.ids = tokenizer.encode(text).ids
            self.weight = nn.Parameter(torch.zeros(1))
            self.config = zoo.create(
                "rope-decoder",
                vocab_size=280,
                max_seq_len=400,
                d_model=8,
                n_layers=1,
                n_heads=2,
                n_kv_heads=2,
                d_ff=8,
            ).config
            self.said = -1

        def forward(self, ids: Any, cache: Any = None) -> Any:
            self.said = 0 if ids.shape[1] > 1 else self.said + 1
            logits = torch.zeros(*ids.shape, 280)
            logits[:, -1, self.ids[self.said]] = 1
            cache.advance(ids.shape[1])
            return logits

    module = Says("the sea is near<|im_end|>\n and never this")
    model = Model(
        name="says",
        module=module,
        config=module.config,
        tokenizer=tokenizer,
        pipeline="text-generation",
        card=None,
    )
    talk = Chat(model, template="chatml")
    assert (talk.end_id, talk.stop) == (None, "<|im_end|>")
    assert list(talk.stream("x"))[-1] and talk.messages[-1]["content"] == "the sea is near"
    assert talk.template.source == Template.called("chatml").source


# the verb


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    model = talker()
    monkeypatch.setattr(zoo, "load", lambda ref, **_: model)

    def call(lines: str, *options: str) -> Any:
        words = ["talker", "--template", "chatml", "--max-new-tokens", "6", *options]
        return CliRunner().invoke(chat, words, input=lines, catch_exceptions=False)

    return call


def test_the_verb_talks(run: Callable[..., Any], tmp_path: Path) -> None:
    talk = Chat(talker(), template="chatml", max_new_tokens=6)
    first, second = talk.say("the river"), talk.say("a hill")
    path = tmp_path / "talk.json"
    done = run(f"the river\n\na hill\n/undo\na hill\n/history\n/save {path}\n/quit\nnever\n")
    assert done.exit_code == 0
    shown = done.stdout
    assert shown.startswith(f"{first}\n{second}\n{second}\n")
    assert shown.endswith(
        f"user: the river\nassistant: {first}\nuser: a hill\nassistant: {second}\n"
    )
    assert "taken back: a hill" in done.stderr
    again = run("a hill\n", "--load", str(path))
    assert again.exit_code == 0
    assert again.stdout.strip() == talk.say("a hill")
    short = run("a hill\n", "--load", str(path), "--max-new-tokens", "2")
    assert again.stdout.startswith(short.stdout.strip()) and short.stdout != again.stdout


def test_the_verb_says_what_is_wrong_and_goes_on(run: Callable[..., Any]) -> None:
    done = run("/retry\n/nonsense\n/set temperature\n/set top_p=7\n/save\n/load x.json\nthe sea\n")
    assert done.exit_code == 0 and done.stdout.strip()
    for words in (
        "Nothing was said yet",
        "Unknown command /nonsense. There are: /retry",
        "/set takes KEY=VALUE",
        "top_p must be above 0",
        "Say which file",
        "no file x.json",
    ):
        assert words in done.stderr


def test_settings_hold_from_then_on(run: Callable[..., Any]) -> None:
    done = run("the river\n/set max_new_tokens=2\n/clear\nthe river\n/set max_new_tokens=\n")
    long, short = done.stdout.splitlines()
    assert long.startswith(short) and len(short) < len(long)


def test_ctrl_c_ends_the_answer_not_the_program(
    run: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo.pipelines import text_generation

    push = text_generation.Pieces.push
    calls = []

    def interrupted(self: Any, token: int) -> str:
        calls.append(token)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return push(self, token)

    monkeypatch.setattr(text_generation.Pieces, "push", interrupted)
    done = run("the river\n/history\na hill\n")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert len(lines) == 4 and lines[2] == f"assistant: {lines[0].strip()}"
    assert len(lines[0].split()) < len(lines[3].split())


def test_the_verb_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "--help"]) == 0
    assert "Talk to a model in the terminal" in capsys.readouterr().out
    assert main(["chat", "speech-encoder"]) == 2
    assert "only decoders answer" in capsys.readouterr().err
