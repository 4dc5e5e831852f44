"""Pairs of answers in a file of one's own: their shapes, and from training to measuring."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

import zoo
from zoo.errors import InputError, TrainingError
from zoo.tasks import conversation_file
from zoo.tasks.conversation_file import Conversations, each
from zoo.tasks.preference_file import Preferences, preference_of, read_told
from zoo.tasks.preferences import Preference
from zoo.training.loop import find_recipe

ASK = {"role": "user", "content": "Name it.\n\na dog"}
YES, NO = ({"role": "assistant", "content": text} for text in ("Dog.", "Cat."))
EARLIER = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Good day."}]
TEXTS = {"chosen": "Dog.", "rejected": "Cat.<|endoftext|>"}
SHAPES: list[dict[str, Any]] = [
    {"prompt": "Name it.\n\na dog", **TEXTS},
    {"instruction": "Name it.", "input": "a dog", **TEXTS},
    {"prompt": [ASK], **TEXTS},
    {"chosen": [ASK, YES], "rejected": [ASK, NO]},
    {"prompt": "Name it.", "chosen": [ASK, YES], "rejected": [ASK, NO]},  # stands in the messages
    {"prompt": [ASK], "chosen": [YES], "rejected": [NO]},
    {"prompt": "Name it.\n\na dog", "chosen": [YES], "rejected": [NO]},
]


@pytest.mark.parametrize("row", SHAPES)
def test_the_usual_shapes_are_one(row: dict[str, Any]) -> None:
    assert preference_of(row) == Preference([ASK], "Dog.", "Cat.")
    system = {"role": "system", "content": "Be brief."}
    found = preference_of({**row, "system": "Be brief."})
    assert found == Preference([system, ASK], "Dog.", "Cat.")


def test_earlier_turns_stand_before_both() -> None:
    row = {"chosen": [*EARLIER, ASK, YES], "rejected": [*EARLIER, ASK, NO]}
    expected = Preference([*EARLIER, ASK], "Dog.", "Cat.")
    assert preference_of(row) == expected
    assert preference_of({"prompt": [*EARLIER, ASK], "chosen": "Dog.", "rejected": "Cat."}) == (
        expected
    )


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"prompt": "x", "chosen": "y"}, "row 2 has no rejected answer"),
        ({"prompt": "x", "rejected": "y"}, "row 2 has no chosen answer"),
        (TEXTS, "row 2 has no text as its instruction or prompt"),
        ({"prompt": "x", "chosen": "y", "rejected": 3}, "no text as its rejected answer"),
        ({"prompt": "x", "chosen": "y", "rejected": " "}, "an empty message"),
        ({"prompt": "x", "chosen": [ASK, YES], "rejected": "y"}, "no text as its chosen answer"),
        ({"chosen": [ASK, YES], "rejected": [EARLIER[0], NO]}, "answer to different messages"),
        ({"chosen": [ASK, YES, ASK], "rejected": [ASK, YES, EARLIER[0]]}, "no answer of the assis"),
        ({"chosen": [ASK, {"role": "robot", "content": "x"}], "rejected": [ASK, NO]}, "'robot'"),
    ],
)
def test_rows_that_are_no_pair(row: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        each("x.json", list(enumerate([SHAPES[0], row], start=1)), preference_of)


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


WORDS = "red blue green black white brown pink grey gold teal plum rust sand".split()
ROWS = [{"prompt": f"name {w}", "chosen": f"{w} please", "rejected": f"{w} now"} for w in WORDS]
SAID = [{"prompt": f"say {w}", "completion": f"{w} now"} for w in WORDS]
BASE = """
architecture = "rope-decoder"
[data]
path = "said.jsonl"
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
steps = 3
batch_tokens = 160
learning_rate = 1e-2
storage = "float32"
"""
TUNED: dict[str, Any] = {"steps": 30, "batch_tokens": 200, "learning_rate": 1e-2}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("own")
    more = [{"prompt": "name", "completion": "please"}] * 9  # words that the base must know
    write(folder / "said.jsonl", [*SAID, *more])
    write(folder / "pairs.jsonl", ROWS)
    (folder / "base.toml").write_text(BASE)
    zoo.train(folder / "base.toml", out=folder / "base")
    return folder


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_base_is_tuned_on_it(method: str, base: Path, tmp_path: Path) -> None:
    data = str(base / "pairs.jsonl")
    before = zoo.evaluate(str(base / "base"), data=data)
    out = tmp_path / "out"
    objective = {"template": "chatml", "beta": 0.2}
    model = zoo.train(
        base / "base", out=out, tuning=method, data=data, objective=objective, **TUNED
    )
    assert model.card is not None
    facts = model.card.data["txzoo"]["data"]
    assert (facts["name"], facts["preferences"], facts["held_out"]) == ("pairs.jsonl", 13, 2)
    assert "13 preferences of `pairs.jsonl`" in model.card.text
    scores = {score.key: score.value for score in model.card.scores}
    assert set(scores) == {"preference_accuracy", "preference_margin"}
    held_out = zoo.evaluate(model)  # read again from where the card says that they lie
    assert held_out["preference_margin"] == zoo.evaluate(model, data=data)["preference_margin"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        after = zoo.evaluate(model, data=write(tmp_path / "some.jsonl", ROWS[:6]))
    assert any("stand in pairs.jsonl" in str(one.message) for one in caught)
    assert after["preference_accuracy"] == 1 and before["preference_accuracy"] < 1
    assert after["preference_margin"] > before["preference_margin"] + 0.5


def test_a_data_set_of_the_hub(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def rows(*args: Any, **named: Any) -> list[dict[str, Any]]:
        asked.append((args, named))
        return ROWS

    monkeypatch.setattr(conversation_file, "from_hub", rows)
    found = read_told("hf://datasets/someone/pairs/small@abc")
    assert isinstance(found, Preferences) and found.name == "someone/pairs"
    assert found.said == [preference_of(row) for row in ROWS]
    assert asked == [(("someone/pairs",), {"split": "train", "name": "small", "revision": "abc"})]
    local = read_told(str(base / "pairs.jsonl"))
    assert local.said == found.said and isinstance(local, Preferences)
    assert isinstance(read_told(str(base / "said.jsonl")), Conversations)
    scores = zoo.evaluate(str(base / "base"), data="hf://datasets/someone/pairs")
    assert scores == zoo.evaluate(str(base / "base"), data=str(base / "pairs.jsonl"))


def test_what_cannot_be(base: Path, tmp_path: Path) -> None:
    pairs, said = str(base / "pairs.jsonl"), str(base / "said.jsonl")
    with pytest.raises(TrainingError, match="learned by a trained model: give base"):
        zoo.train(base / "base.toml", out=tmp_path / "x", data=pairs)
    for data, test in ((pairs, said), (said, pairs)):
        with pytest.raises(InputError, match=r"pairs.jsonl has pairs of answers .* said.jsonl con"):
            zoo.train(
                base / "base",
                out=tmp_path / "x",
                tuning="lora",
                data=data,
                test_data=test,
                objective={},
            )
    few = write(tmp_path / "few.jsonl", ROWS[:2])
    with pytest.raises(InputError, match="give preferences to test on"):
        zoo.train(base / "base", out=tmp_path / "x", tuning="lora", data=few, objective={})


def test_of_a_recipe_for_pairs_what_is_usual_does_not_bind_other_data() -> None:
    """`beta` is not of conversations; one that somebody chose is kept, and so refused there."""
    recipe = find_recipe("instruct-lm")
    assert recipe.objective == {"template": "chatml", "beta": 0.1}
    own = recipe.with_changes(data="said.jsonl")
    assert own.objective == {"template": "chatml"}
    chosen = recipe.with_changes(objective={"template": "chatml", "beta": 0.4})
    assert chosen.with_changes(data="pairs.jsonl").objective == chosen.objective
