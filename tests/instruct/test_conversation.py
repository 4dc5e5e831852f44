"""Conversations and templates, against `apply_chat_template` of `transformers`."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer

from zoo.conversation import (
    BUILT_IN,
    Template,
    check,
    encode,
    prompt,
    read,
    template_of,
    write,
)
from zoo.errors import FolderError, InputError, UnknownNameError
from zoo.tokenization import build_tokenizer

TEXT = "Convert 45 kilometers to meters.\nWhat is the opposite of hot? It is cold.\n" * 9
ASK = {"role": "user", "content": "What is the opposite of hot?"}
ANSWER = {"role": "assistant", "content": "It is cold."}
MORE = {"role": "user", "content": "And of cold?"}
LAST = {"role": "assistant", "content": "Hot."}
SYSTEM = {"role": "system", "content": "Be brief."}
CONVERSATIONS = {
    "asked": [ASK],
    "answered": [ASK, ANSWER],
    "system": [SYSTEM, ASK, ANSWER],
    "turns": [SYSTEM, ASK, ANSWER, MORE, LAST],
    "asked again": [ASK, ANSWER, MORE],
}
LLAMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}\
{% set system = messages[0]['content'] | trim + '\n' %}{% set messages = messages[1:] %}\
{% else %}{% set system = '' %}{% endif %}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Conversation roles must alternate') }}
    {%- endif %}
    {%- if message['role'] == 'user' %}
        {{- '[INST] ' + (system if loop.first else '') + message['content'] | trim + ' [/INST]' }}
    {%- else %}
        {%- generation %}{{- ' ' + message['content'] | trim + eos_token }}{% endgeneration %}
    {%- endif %}
{%- endfor %}
{%- set state = namespace(seen=messages | length) -%}
"""


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    made = build_tokenizer(TEXT, {"kind": "byte-pair", "vocab_size": 330})
    made.add_special_tokens(["<s>", "<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return made


def templates() -> dict[str, Template]:
    own = Template("llama-like", LLAMA, {"bos_token": "<s>", "eos_token": "<|endoftext|>"})
    return {name: Template.called(name) for name in BUILT_IN} | {"llama": own}


def theirs(folder: Path, tokenizer: Tokenizer, template: Template) -> Any:
    """The tokenizer of transformers, from a folder with our template in it."""
    transformers = pytest.importorskip("transformers", reason="needs txzoo[hf]")
    tokenizer.save(str(folder / "tokenizer.json"))
    write(folder, template)
    return transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.reference
@pytest.mark.parametrize("name", templates())
def test_text_and_tokens_are_those_of_transformers(
    name: str, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    template = templates()[name]
    other = theirs(tmp_path, tokenizer, template)
    for messages in CONVERSATIONS.values():
        for begun in (False, True):
            text = template.render(messages, add_generation_prompt=begun)
            options = {"add_generation_prompt": begun}
            assert text == other.apply_chat_template(messages, tokenize=False, **options)
        ids = other.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert prompt(template, tokenizer, messages) == ids
        if messages[-1]["role"] == "assistant":
            ids = other.apply_chat_template(messages, return_dict=False)
            assert encode(template, tokenizer, messages)[0] == ids
    assert read(tmp_path) == Template(f"of {tmp_path.name}", template.source, template.tokens)


@pytest.mark.reference
def test_responses_are_those_that_generation_blocks_mark(
    tokenizer: Tokenizer, tmp_path: Path
) -> None:
    template = templates()["llama"]
    other = theirs(tmp_path, tokenizer, template)
    for name in ("answered", "system", "turns"):
        messages = CONVERSATIONS[name]
        found = other.apply_chat_template(
            messages, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, response = encode(template, tokenizer, messages)
        assert (ids, response) == (found["input_ids"], [bool(m) for m in found["assistant_masks"]])


def test_alpaca_by_hand() -> None:
    alpaca = Template.called("alpaca")
    assert alpaca.render([ASK, ANSWER, MORE]) == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nWhat is the opposite of hot?\n\n"
        "### Response:\nIt is cold.<|endoftext|>\n\n### Instruction:\nAnd of cold?\n\n"
        "### Response:\n"
    )
    assert alpaca.render([SYSTEM, ASK]) == (
        "Be brief.\n\n### Instruction:\nWhat is the opposite of hot?\n\n### Response:\n"
    )
    assert alpaca.ending() == "<|endoftext|>"


def test_chatml_by_hand(tokenizer: Tokenizer) -> None:
    chatml = Template.called("chatml")
    text = chatml.render([SYSTEM, ASK], add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is the opposite of hot?"
        "<|im_end|>\n<|im_start|>assistant\n"
    )
    assert chatml.ending() == "<|im_end|>\n"
    ids, response = encode(chatml, tokenizer, CONVERSATIONS["turns"])
    answers = [token for token, answers in zip(ids, response, strict=True) if answers]
    wanted = "It is cold.<|im_end|>\nHot.<|im_end|>\n"
    assert tokenizer.decode(answers, skip_special_tokens=False) == wanted


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        ([], "is empty"),
        ("hello", "got str"),
        ([{"role": "user"}], "Message 1 must have a role and a content"),
        ([ASK, {"role": "human", "content": "x"}], "'human'; roles: system, user, assistant"),
        ([ASK, SYSTEM], "Message 2: a system message must be the first"),
        ([{"role": "user", "content": [{"type": "image"}]}], "must be a text, got list"),
    ],
)
def test_what_is_no_conversation(messages: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        check(messages)


def test_a_template_may_refuse(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match="alpaca refuses this: .*take turns"):
        Template.called("alpaca").render([ASK, MORE])
    assert Template.called("chatml").render([ASK, MORE]).count("<|im_end|>") == 2
    with pytest.raises(InputError, match="no message of the assistant"):
        encode(Template.called("chatml"), tokenizer, [ASK])
    with pytest.raises(UnknownNameError, match="alpaca"):
        Template.called("alpacca")


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{{ messages[0]['content'] }}", "no place for a response"),  # an answer shows nowhere
        ("{{ messages | length }} {{ messages[-1]['content'] }}", "no place for a response"),
        ("{% for m in messages %}", "not valid Jinja, line 1"),
        ("{{ messages[0]['content'] + 1 }}", "fails: TypeError"),
        ("{{ ''.__class__.__mro__ }}", "refuses this: .*unsafe"),
        ("{% set n = namespace(__class__=1) %}", "refuses this: .*__class__"),
        ("{{ messages.append(1) }}", "refuses this: .*append.*is unsafe"),
        ("{% for i in range(99999) %}{{ 'x' * 99 }}{% endfor %}", "more than 4,194,304"),
    ],
)
def test_a_template_that_cannot_be_used(source: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        Template("mine", source).ending()


def test_a_response_that_shares_a_token_is_refused(tokenizer: Tokenizer) -> None:
    glued = Template("glued", "{% for m in messages %}{{ m['content'] }}{% endfor %}")
    tokens = tokenizer.encode(" kilometers").tokens
    assert len(tokens) == 1  # so that a part of it is no beginning in tokens
    halves = [{"role": "user", "content": " kilo"}, {"role": "assistant", "content": "meters"}]
    with pytest.raises(InputError, match="shares a token"):
        encode(glued, tokenizer, halves)


def test_where_a_folder_says_its_template(tmp_path: Path) -> None:
    assert read(tmp_path) is None
    several = [{"name": "rag", "template": "R"}, {"name": "default", "template": "D"}]
    config = {"chat_template": several, "eos_token": {"content": "</s>"}, "bos_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": "<pad>"}))
    found = read(tmp_path)
    assert found is not None
    assert (found.source, found.tokens) == ("D", {"eos_token": "</s>", "pad_token": "<pad>"})
    (tmp_path / "chat_template.jinja").write_text("J")
    found = read(tmp_path)
    assert found is not None and found.source == "J"
    base = SimpleNamespace(folder=tmp_path, files={})
    adapter = SimpleNamespace(folder=tmp_path / "elsewhere", files={})
    model: Any = SimpleNamespace(cards=[adapter, base])
    assert template_of(model) == found
    base.files = {"tokenizer.json": "0" * 64}  # the card vouches for files, and for no template
    with pytest.warns(UserWarning, match=r"chat_template.jinja is not on the card: no template"):
        assert template_of(model) is None
    base.files |= dict.fromkeys(
        ("chat_template.jinja", "tokenizer_config.json", "special_tokens_map.json"), "0" * 64
    )
    assert template_of(model) == found
    (tmp_path / "chat_template.jinja").unlink()
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(FolderError, match="not valid JSON"):
        read(tmp_path)
