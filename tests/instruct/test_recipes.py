"""The plugin's data and its chain of recipes, small."""

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from zoo_instruct import task as data

import zoo
from zoo.errors import DataNotFoundError, FolderError
from zoo.tasks.conversation_file import question_of
from zoo.training import Recipe

CHAIN = ("instruct-base-lm", "instruct-sft-lm", "instruct-lm")
WORDS = "hot big up old wet in near long rich hard fast high light early".split()
SMALL = {"d_model": 24, "n_layers": 1, "n_heads": 2, "n_kv_heads": 1, "d_ff": 24}
needs_data = pytest.mark.skipif(
    "TXZOO_DATA" not in os.environ, reason="needs TXZOO_DATA, a folder of data sets"
)


def forget() -> None:
    for read in (data.read, data.read_pairs, data.wikipedia, data.reviews, data.said):
        read.cache_clear()


@pytest.fixture
def _tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each file with a few rows in it."""
    torch.set_num_threads(1)
    folder = tmp_path / "data" / "instruct"
    folder.mkdir(parents=True)
    rows: list[dict[str, Any]] = [
        {"instruction": f"What is the opposite of {w}?", "input": "", "output": f"Not {w}."}
        for w in WORDS
    ]
    pairs = [{**row, "chosen": row["output"], "rejected": "Stupid question."} for row in rows]
    (folder / data.RASBT).write_text(json.dumps(rows))
    (folder / data.PAIRS).write_text(json.dumps(pairs))
    (folder / data.ROLES).write_text(
        json.dumps([{"instruction": f"You are {w}.", "input": "", "response": w} for w in WORDS])
    )
    nested = [
        {"instruction": f"Say {w}.", "instances": [{"input": "once", "output": w}]} for w in WORDS
    ]
    for name in (data.SEEDS, data.USERS):
        (folder / name).write_text("\n".join(map(json.dumps, nested)))
    prompts = [{"prompt": f"Is it {w}?\n", "completion": "yes<|endoftext|>"} for w in WORDS]
    prompts.append({"prompt": "x" * 2000, "completion": "too long"})
    (folder / data.T0).write_bytes(gzip.compress("\n".join(map(json.dumps, prompts)).encode()))
    wiki = tmp_path / "data" / "wikitext-2"
    wiki.mkdir()
    for split in ("train", "valid", "test"):
        (wiki / f"{split}.txt").write_text(" = Museum = \n The museum is near the river . \n" * 20)
    monkeypatch.setenv("TXZOO_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(data, "DRILLS", 0)
    forget()
    yield
    forget()


@pytest.mark.usefixtures("_tiny")
def test_the_chain_of_recipes_trains(tmp_path: Path) -> None:
    base, scores = "", {}
    for name in CHAIN:
        card = zoo.info(name)
        recipe = Recipe.read(card.folder / "recipe.toml")
        assert (recipe.name, recipe.architecture, recipe.task) == (
            name,
            card.architecture,
            card.task,
        )
        changes: dict[str, Any] = {"steps": 3, "batch_tokens": 400, "evaluate_every": 0}
        if base:
            assert recipe.base == base  # the one before it
            changes |= {"base": str(tmp_path / base)}
        else:
            changes |= {**SMALL, "tokenizer": {"kind": "byte-pair", "vocab_size": 300}}
            changes["max_seq_len"] = 96
        model = zoo.train(recipe, out=tmp_path / name, **changes)
        assert model.card is not None and model.adapter is None
        scores[name] = [score.name for score in model.card.scores]
        base = name
    assert scores["instruct-sft-lm"] == ["perplexity of responses", "exact match"]
    assert scores["instruct-lm"] == ["preference accuracy", "preference margin"]
    last = zoo.load(tmp_path / "instruct-lm")
    assert last.template is not None and last.template.ending() == "<|im_end|>\n"
    for name in CHAIN[:2]:  # before and after are measured alike
        assert "exact_match" in zoo.evaluate(str(tmp_path / name), "instruct", limit=3)
        assert "preference_accuracy" in zoo.evaluate(str(tmp_path / name), "preferences", limit=3)


@pytest.mark.usefixtures("_tiny")
def test_a_base_without_weights_is_named_and_what_to_do(tmp_path: Path) -> None:
    wanted = r"instruct-sft-lm has no weights yet: .* makes them\. base= or --base names another"
    with pytest.raises(FolderError, match=wanted):
        zoo.train("instruct-lm", out=tmp_path / "it")
    assert not (tmp_path / "it").exists()


@pytest.mark.usefixtures("_tiny")
def test_what_is_in_the_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    task = data.Instruct()
    parts = {split: task.conversations(split) for split in task.splits}
    questions = {split: {question_of(m) for m in told} for split, told in parts.items()}
    assert not questions["train"] & questions["test"]
    assert sum(map(len, parts.values())) == 5 * len(WORDS)
    assert "Say hot.\n\nonce" in set().union(*questions.values())
    assert not any("x" * 100 in question for question in questions["train"])
    t0 = [m for m in parts["train"] if question_of(m).startswith("Is it")]
    assert len(t0) == len(WORDS) and t0[0][1]["content"] == "yes"
    learned = task.learned()  # what is not T0's more often
    assert len(learned) == 2 * (len(parts["train"]) - len(t0)) + len(t0)
    assert {question_of(m) for m in learned} == questions["train"]
    monkeypatch.setattr(data, "DRILLS", 30)
    assert len(task.learned()) == len(learned) + 30
    assert not {question_of(m) for m in task.learned()} & questions["test"]
    assert sum(question_of(m).startswith("Is it") for m in learned) == len(t0)
    small = data.InstructSmall()
    assert small.learned() == small.conversations("train")
    asked = {question_of(one.asked) for one in data.Preferences().preferences("test")}
    assert asked and asked <= questions["test"]
    assert {question_of(m) for m in task.closed("test")} == asked
    text = data.InstructText().text("train")
    assert text.startswith("= Museum =\n") and text.count("<|endoftext|>") == len(parts["train"])


@pytest.mark.usefixtures("_tiny")
def test_text_in_pieces_has_the_same_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    task = data.InstructText()
    tokenizer = task.build_tokenizer({"kind": "byte-pair", "vocab_size": 300})
    whole = torch.tensor(tokenizer.encode(task.start + task.text("train")).ids)
    for lines in (1, 7, 100_000):
        monkeypatch.setattr(data, "LINES", lines)
        made = task.batches(tokenizer, length=16, batch_tokens=64, seed=1)
        assert torch.equal(made.ids, whole)


@pytest.mark.parametrize(
    ("instruction", "closed"),
    [
        ("What is the opposite of 'thin'?", True),
        ("What is an antonym of 'soft'?", True),
        ("Convert 4 liters to milliliters.", True),
        ("Identify the correct spelling of the word.", True),
        ("Rewrite the following sentence using passive voice.", True),
        ("What is the past tense of 'build'?", True),
        ("Edit the following sentence for grammar.", True),
        ("Transform the following sentence into a question.", True),
        ("What is a synonym for 'enormous'?", False),
        ("Rewrite the sentence using a simile.", False),
        ("Generate a question based on the statement.", False),
        ("Explain the water cycle in simple terms.", False),
        ("Create a sentence in the past tense.", False),
    ],
)
def test_which_instructions_have_one_answer(instruction: str, closed: bool) -> None:
    assert data.is_closed([{"role": "user", "content": f"{instruction}\n\nAn input."}]) == closed


@needs_data
def test_counts_of_the_real_files() -> None:
    """Of 1,100 instructions 1,075 differ; a fifth is held out."""
    forget()
    told = {split: data.InstructSmall().conversations(split) for split in ("train", "test")}
    assert (len(told["train"]), len(told["test"])) == (799, 217)
    assert len(data.Preferences().preferences("test")) <= 217
    assert len(data.read(data.USERS)) == 252
    assert len(data.InstructSmall().closed("test")) > 60


def test_without_the_files_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TXZOO_DATA", str(tmp_path))
    forget()
    with pytest.raises(DataNotFoundError, match="instruct/rasbt_instruction-data.json"):
        data.InstructSmall().conversations("train")
