"""A file of conversations from training to measuring, and templates that leave with an export."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from zoo.conversation import Template, write
from zoo.errors import InputError
from zoo.export import export
from zoo.tasks.conversation_file import conversation_of

RECIPE = """
architecture = "rope-decoder"
[data]
path = "my.jsonl"
[tokenizer]
kind = "word"
[config]
max_seq_len = 40
d_model = 16
n_layers = 1
n_heads = 2
n_kv_heads = 2
d_ff = 16
[objective]
template = "chatml"
[training]
steps = 5
batch_tokens = 160
learning_rate = 1e-2
storage = "float32"
"""
ROWS = [conversation_of({"prompt": f"say {w}", "output": f"{w} it is"}) for w in "abcdefghijklm"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("own")
    text = "\n".join(json.dumps({"messages": row}) for row in ROWS)
    (folder / "my.jsonl").write_text(text)
    (folder / "mine.toml").write_text(RECIPE)
    zoo.train(folder / "mine.toml", out=folder / "mine")
    return folder


def test_a_file_of_ones_own_is_trained_on(trained: Path) -> None:
    card = zoo.info(trained / "mine")
    facts = card.data["txzoo"]["data"]
    assert (facts["name"], facts["conversations"], facts["held_out"]) == ("my.jsonl", 13, 2)
    assert "13 conversations of `my.jsonl`" in card.text
    (score,) = card.scores
    assert score.name == "perplexity of responses" and score.standard_error is not None


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_a_base_is_tuned_on_it(tuning: str, trained: Path, tmp_path: Path) -> None:
    base, data = trained / "mine", trained / "my.jsonl"
    model = zoo.train(base, out=tmp_path / "out", tuning=tuning, data=str(data), steps=2)
    assert model.card is not None and model.card.data["txzoo"]["data"]["conversations"] == 13
    assert (model.adapter is None) == (tuning == "full")
    assert model.template is not None and "<|im_start|>" in model.template.source


def test_it_is_measured_on_what_was_held_out_and_on_others(trained: Path, tmp_path: Path) -> None:
    held_out = zoo.evaluate(str(trained / "mine"))
    same = zoo.evaluate(str(trained / "mine"), data=str(trained / "my.jsonl"))
    assert held_out["perplexity_of_responses"] == same["perplexity_of_responses"]
    other = tmp_path / "other.json"
    other.write_text(json.dumps([{"messages": row} for row in ROWS[:3]]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = zoo.evaluate(str(trained / "mine"), data=str(other))
    assert any("stand in my.jsonl" in str(one.message) for one in caught)
    assert found["perplexity_of_responses"] > 1
    with pytest.raises(InputError, match="a second file belongs to sentence pairs"):
        zoo.evaluate(str(trained / "mine"), data=[str(other), str(other)])
    with pytest.raises(InputError, match="text_column belongs to labelled texts"):
        zoo.evaluate(str(trained / "mine"), data=str(other), text_column="messages")


@pytest.mark.reference
@pytest.mark.parametrize("own", [False, True])
def test_an_export_makes_the_same_prompts(own: bool, trained: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="needs txzoo[hf]")
    model: Any = zoo.load(trained / "mine")
    if own:  # a template of somebody else's, kept on the way
        folder = model.save_pretrained(tmp_path / "other")
        path = folder / "tokenizer_config.json"
        card = (folder / "README.md").read_text()
        write(
            folder,
            Template(
                "own", "{{ messages[0]['content'] }}{{ eos_token }}", {"eos_token": "<|endoftext|>"}
            ),
        )
        from zoo.folder import FileRecord

        old, new = model.card.files[path.name], FileRecord.of(path)
        card = card.replace(old.sha256, new.sha256).replace(
            f"bytes: {old.bytes}", f"bytes: {new.bytes}"
        )
        (folder / "README.md").write_text(card)
        model = zoo.load(folder)
    tokenizer = transformers.AutoTokenizer.from_pretrained(export(model, tmp_path / "hf"))
    messages = list(ROWS[2])
    assert model.template is not None
    assert tokenizer.apply_chat_template(messages, tokenize=False) == model.template.render(
        messages
    )
    assert tokenizer.eos_token == "<|endoftext|>"


def test_the_class_is_public() -> None:
    from zoo.chat import Chat

    assert zoo.Chat is Chat


def test_too_few_to_hold_some_out(trained: Path, tmp_path: Path) -> None:
    few = tmp_path / "few.json"
    few.write_text(json.dumps([{"messages": row} for row in ROWS[:2]]))
    with pytest.raises(InputError, match="too few different questions"):
        zoo.train(trained / "mine.toml", out=tmp_path / "x", data=str(few))
    few.write_text(json.dumps([{"messages": ROWS[0]}]))
    with pytest.raises(InputError, match=r"too few conversations \(1\) for a standard error"):
        zoo.train(trained / "mine.toml", out=tmp_path / "x", test_data=str(few))
