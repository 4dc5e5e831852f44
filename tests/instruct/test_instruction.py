"""Instruction tuning: what is learned, how it is packed, and what is measured."""

import gzip
import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import nn

import zoo
from zoo.conversation import Messages, Template
from zoo.errors import DataNotFoundError, InputError, RecipeError, TrainingError
from zoo.model import Model
from zoo.nn import Cache
from zoo.nn.loss import IGNORED
from zoo.nn.packing import NotPackable, Packed
from zoo.tasks import InstructionTuning
from zoo.tasks.conversation_file import (
    conversation_of,
    conversations_of,
    read_conversations,
    rows_of,
)
from zoo.tasks.instruction import Example, batch_of, pack, plain, read_packed, wilson
from zoo.tokenization import build_tokenizer

V, LENGTH = 37, 24
CLOSE = {"rtol": 0, "atol": 1e-5}
SIZES = {"d_model": 24, "n_layers": 2, "n_heads": 3, "d_ff": 20}
DECODERS = {
    "decoder": {},
    "gpt2": {},
    "rope-decoder": {"n_kv_heads": 1},
    "alibi-decoder": {},
    "relative-decoder": {},
}
OPPOSITES = {"hot": "cold", "big": "small", "up": "down", "old": "new", "wet": "dry", "in": "out"}


def ask(word: str) -> Messages:
    return [{"role": "user", "content": f"opposite of {word}"}]


def told(word: str, answer: str) -> Messages:
    return [*ask(word), {"role": "assistant", "content": answer}]


class Opposites(InstructionTuning):
    """Six words and their opposites, both ways; what is learned is what is measured."""

    splits = ("train", "test")

    def conversations(self, split: str) -> Sequence[Messages]:
        pairs = [*OPPOSITES.items(), *((b, a) for a, b in OPPOSITES.items())]
        return [told(*pair) for pair in pairs] * (4 if split == "train" else 1)

    def closed(self, split: str) -> Sequence[Messages]:
        return self.conversations("test")


@pytest.fixture(scope="module")
def _opposites(offer: Callable[..., None]) -> None:
    offer("opposites", Opposites, "perplexity_of_responses", "exact_match")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    text = "opposite of hot cold big small up down old new wet dry in out\n" * 5
    made = build_tokenizer(text, {"kind": "byte-pair", "vocab_size": 300})
    made.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    return made


def module_of(name: str) -> nn.Module:
    made = zoo.create(name, vocab_size=V, max_seq_len=LENGTH, **SIZES, **DECODERS[name]).eval()
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.4)
    return made


def example(length: int) -> Example:
    """So many tokens, of which some are responses."""
    ids = torch.randint(V, (length + 1,))
    response = torch.rand(length) < 0.6
    return Example(ids[:-1].numpy(), torch.where(response, ids[1:], IGNORED).numpy())


# what is learned


@pytest.mark.parametrize("name", ["alpaca", "chatml"])
def test_targets_are_the_responses_token_by_token(name: str, tokenizer: Tokenizer) -> None:
    template = Template.called(name)
    messages = [*told("hot", "cold"), *told("up", "down")]
    found = Example.of(template, tokenizer, messages)
    text = template.render(messages)
    whole = tokenizer.encode(text, add_special_tokens=False)
    end = {"alpaca": "<|endoftext|>", "chatml": "<|im_end|>\n"}[name]
    answers = [f"cold{end}", f"down{end}"]
    inside = set()
    for answer in answers:  # by hand: where they stand in the text
        start = text.index(answer)
        inside |= set(range(start, start + len(answer)))
    assert len(found) == len(whole.ids) - 1
    for place, (token, target) in enumerate(zip(found.ids, found.targets, strict=True)):
        assert token == whole.ids[place]
        start, stop = whole.offsets[place + 1]
        if set(range(start, stop)) <= inside:
            assert target == whole.ids[place + 1]
        else:
            assert not set(range(start, stop)) & inside
            assert target == IGNORED
    learned = [int(token) for token in found.targets if token != IGNORED]
    assert tokenizer.decode(learned, skip_special_tokens=False) == "".join(answers)


def test_the_loss_is_that_of_the_responses_alone() -> None:
    module = module_of("rope-decoder")
    rows = [[example(9), example(7)], [example(11)]]
    total, count = 0.0, 0
    for one in (one for row in rows for one in row):
        with torch.no_grad():
            chances = module(torch.from_numpy(one.ids)[None])[0].log_softmax(-1)
        for place, target in enumerate(one.targets):
            if target != IGNORED:
                total, count = total - chances[place, target].item(), count + 1
    loss = Opposites().loss(module, batch_of(rows))
    assert loss.item() == pytest.approx(total / count, abs=1e-5)


# packing


@pytest.mark.parametrize("name", DECODERS)
@torch.no_grad()
def test_packed_conversations_do_not_see_each_other(name: str) -> None:
    module = module_of(name)
    rows = [[example(9), example(1), example(7)], [example(12)], [example(3), example(4)]]
    logits, targets = read_packed(module, batch_of(rows))
    alone = [module(torch.from_numpy(one.ids)[None])[0] for row in rows for one in row]
    if len(logits) == len(rows):  # packed indeed
        found = torch.cat([logits[place, : sum(map(len, row))] for place, row in enumerate(rows)])
    else:  # its cache was asked for no mask: a row each
        assert len(logits) == 6
        found = torch.cat([row[: len(one)] for row, one in zip(logits, alone, strict=True)])
    torch.testing.assert_close(found, torch.cat(alone), **CLOSE)
    assert (targets != IGNORED).sum() == sum(
        int((one.targets != IGNORED).sum()) for row in rows for one in row
    )


@torch.no_grad()
def test_without_the_mask_they_would() -> None:
    module = module_of("rope-decoder")
    batch = batch_of([[example(9), example(7)]])
    whole = module(batch["ids"])[0, 9:]
    packed = module(batch["ids"], Packed(batch["segments"]))[0, 9:]
    assert (whole - packed).abs().max() > 0.1


@pytest.mark.parametrize("name", ["decoder", "gpt2", "rope-decoder"])
def test_these_read_packed_rows(name: str) -> None:
    batch = batch_of([[example(9), example(7)]])
    assert module_of(name)(batch["ids"], Packed(batch["segments"])).shape == (1, 16, V)


def test_who_asks_for_padding_would_mix_them() -> None:
    segments = torch.tensor([[1, 1, 2, 2, 2, 0]])
    packed = Packed(segments)
    assert packed.positions(6).tolist() == [[0, 1, 0, 1, 2, 0]]
    seen = packed.mask(6)[0, 0].int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
        [0, 0, 1, 1, 0, 0],
        [0, 0, 1, 1, 1, 0],
        [0, 0, 0, 0, 0, 1],
    ]
    with pytest.raises(NotPackable, match="asks for padding"):
        _ = packed.padding
    assert {name for name in dir(Cache) if not name.startswith("_")} - {"of", "reorder"} <= {
        *dir(packed)
    }


def test_pack_fills_rows_and_forgets_nothing() -> None:
    lengths = torch.randint(1, 20, (200,)).tolist()
    rows = pack(lengths, 24)
    assert Counter(place for row in rows for place in row) == Counter(range(200))
    sums = [sum(lengths[place] for place in row) for row in rows]
    assert max(sums) <= 24
    assert len(rows) <= math.ceil(sum(lengths) / 24 * 1.1)  # a tenth is lost at most
    again = pack([lengths[place] for place in torch.randperm(200)], 24)
    assert len(again) == len(rows)  # which is how every epoch has as many


def test_batches_are_a_function_of_seed_and_step(tokenizer: Tokenizer) -> None:
    def made(seed: int) -> Any:
        task = Opposites()
        task.template = Template.called("chatml")
        return task.batches(tokenizer, length=60, batch_tokens=120, seed=seed)

    one, again, other = made(1), made(1), made(2)
    assert one.rows == 2 and one.per_epoch > 2
    for step in (0, 3, one.per_epoch, one.per_epoch * 2 + 1, 0):
        for key, tensor in one(step).items():
            assert torch.equal(tensor, again(step)[key])
    assert not torch.equal(one(0)["ids"], other(0)["ids"])
    seen: Counter[int] = Counter()
    for step in range(one.per_epoch):
        batch = one(step)
        assert batch["ids"].shape[1] <= 60
        seen += Counter(int(row.max()) for row in batch["segments"])
    assert sum(count * texts for texts, count in seen.items()) >= 48 - 2 * 60 // 20


def test_what_does_not_fit_is_left_out_and_counted(tokenizer: Tokenizer) -> None:
    class Long(Opposites):
        def conversations(self, split: str) -> Sequence[Messages]:
            return [*super().conversations(split), told("x " * 50, "y")]

    class Twice(Opposites):
        def conversations(self, split: str) -> Sequence[Messages]:
            return [told("up", "down"), [*ask("up"), *told("up", "down")]]

    twice = Twice()
    twice.template = Template.called("alpaca")
    with pytest.raises(InputError, match="training conversation 2: .*take turns"):
        twice.batches(tokenizer, length=99, batch_tokens=60, seed=1)
    task = Long()
    task.template = Template.called("chatml")
    with pytest.warns(UserWarning, match="1 of 49 training conversations have more than 60 tokens"):
        batches = task.batches(tokenizer, length=60, batch_tokens=60, seed=1)
    assert (len(batches.examples), batches.left_out) == (48, 1)
    with pytest.warns(UserWarning), pytest.raises(TrainingError, match="raise max_seq_len"):
        task.batches(tokenizer, length=3, batch_tokens=60, seed=1)


# what is measured


def test_answers_are_compared_without_what_does_not_matter() -> None:
    assert plain("The  opposite of 'Hot' is “cold”.") == "the opposite of hot is cold"
    assert plain("-3.5") != plain("3.5")


def test_wilson_by_the_roots_of_its_quadratic() -> None:
    """p is inside exactly if (share - p)^2 <= z^2 p (1 - p) / n."""
    for right, n in ((0, 10), (3, 10), (50, 76), (76, 76)):
        z2, share = 1.959964**2, right / n
        a, b, c = 1 + z2 / n, -(2 * share + z2 / n), share * share
        root = math.sqrt(b * b - 4 * a * c)
        expected = ((-b - root) / (2 * a), (-b + root) / (2 * a))
        assert wilson(right, n) == pytest.approx(expected, abs=1e-9)


RECIPE = """
architecture = "decoder"
task = "opposites"
[tokenizer]
kind = "word"
[config]
max_seq_len = 72
d_model = 32
n_layers = 1
n_heads = 4
positions = "learned"
d_ff = 64
[objective]
template = "chatml"
[training]
steps = 240
batch_tokens = 288
learning_rate = 1e-2
warmup_steps = 5
final_learning_rate = 0.2
storage = "float32"
"""


@pytest.fixture(scope="module")
def follower(tmp_path_factory: pytest.TempPathFactory, _opposites: None) -> Path:
    """A model that knows the six opposites."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("follower")
    (folder / "follower.toml").write_text(RECIPE)
    zoo.train(folder / "follower.toml", out=folder / "follower")
    return folder / "follower"


@pytest.mark.usefixtures("_opposites")
def test_a_recipe_learns_to_follow(follower: Path) -> None:
    model = zoo.load(follower)
    assert model.card is not None
    scores = {score.name: score.value for score in model.card.scores}
    assert scores["exact match"] == 1
    assert scores["perplexity of responses"] < 1.2
    found = zoo.evaluate(model)
    assert found["exact_match_low"] < 1 == found["exact_match_high"] == found["exact_match"]
    by_hand = 0.0, 0
    template = Template.called("chatml")
    assert model.tokenizer is not None
    for messages in Opposites().conversations("test"):
        one = Example.of(template, model.tokenizer, messages)
        chances = model.module(torch.from_numpy(one.ids)[None])[0].log_softmax(-1)
        right = one.targets != IGNORED
        places = torch.from_numpy(right).nonzero()[:, 0]
        nats = -chances[places, torch.from_numpy(one.targets[right])].sum().item()
        by_hand = by_hand[0] + nats, by_hand[1] + int(right.sum())
    expected = math.exp(by_hand[0] / by_hand[1])
    assert found["perplexity_of_responses"] == pytest.approx(expected, rel=1e-5)
    lines = (follower / "tokenizer_config.json").read_text()
    assert json.loads(lines)["chat_template"] == template.source
    assert "tokenizer_config.json" in model.card.files
    assert model.template is not None and model.template.source == template.source
    again = zoo.load(model.save_pretrained(follower.parent / "again"))
    assert again.template is not None and again.template.source == template.source
    assert again.card is not None and "tokenizer_config.json" in again.card.files


def test_what_leaves_no_room_is_left_out_of_the_scores_and_counted(follower: Path) -> None:
    """A question is not answered wrong because the answer has no room."""
    model = zoo.load(follower)
    usual = Opposites().evaluate(model, "test")
    assert "left_out" not in usual and "exact_match_left_out" not in usual

    class Longer(Opposites):
        more = (told("hot " * 70, "cold"), told("hot " * 30, "cold"))

        def conversations(self, split: str) -> Sequence[Messages]:
            return [*super().conversations(split), self.more[0]]

        def closed(self, split: str) -> Sequence[Messages]:
            return [*self.more, *super().conversations(split)]

    with pytest.warns(UserWarning) as told_of:
        found = Longer().evaluate(model, "test")
    assert [str(one.message) for one in told_of] == [
        "1 of 13 test conversations have more than 72 tokens: left out",
        "2 of 14 questions with one right answer leave no room for 48 tokens of it in 72: left out",
    ]
    assert (found.pop("left_out"), found.pop("exact_match_left_out")) == (1, 2)
    assert found == pytest.approx(usual)

    class TooLong(Longer):
        def closed(self, split: str) -> Sequence[Messages]:
            return self.more

    with pytest.warns(UserWarning):
        found = TooLong().evaluate(model, "test")
    assert math.isnan(found["exact_match"]) and found["exact_match_left_out"] == 2


@pytest.mark.filterwarnings("ignore:.* leave no room")  # beside a prefix
@pytest.mark.usefixtures("_opposites")
def test_any_tuning_of_a_base_keeps_its_template(follower: Path, tmp_path: Path) -> None:
    options = {"steps": 2, "batch_tokens": 200, "learning_rate": 1e-3, "task": "opposites"}
    for method in ("lora", "prefix-tuning", "full"):
        model = zoo.train(
            follower / "recipe.toml",
            out=tmp_path / method,
            base=str(follower),
            tuning=method,
            objective={},
            **options,
        )
        own = model.template
        assert own is not None and own.source == Template.called("chatml").source
        assert model.card is not None
        measured = [score.key for score in model.card.scores]
        if method == "prefix-tuning":  # 16 positions fewer: a card says what was measured alone
            assert measured == ["perplexity_of_responses"]
            assert model.card.training["exact_match_left_out"] == {"test": 12}
        else:
            assert measured == ["perplexity_of_responses", "exact_match"]


@pytest.mark.usefixtures("_opposites")
def test_what_a_recipe_may_not_say(follower: Path, tmp_path: Path) -> None:
    for objective, words in (
        ({"tamplate": "x"}, "no key 'tamplate' for this task. Keys: template"),
        ({"template": 3}, "template must be a text, got 3"),
    ):
        with pytest.raises(RecipeError, match=words):
            zoo.train(follower / "recipe.toml", out=tmp_path / "x", objective=objective)


# files


SHAPES: list[dict[str, Any]] = [
    {"instruction": "Name it.", "input": "a dog", "output": "Dog."},
    {"instruction": "Name it.\n\na dog", "response": "Dog."},
    {"prompt": "Name it.\n\na dog", "completion": "Dog.<|endoftext|>"},
    {
        "messages": [
            {"role": "user", "content": "Name it.\n\na dog"},
            {"role": "assistant", "content": "Dog."},
        ]
    },
    {
        "conversations": [
            {"from": "human", "value": "Name it.\n\na dog"},
            {"from": "gpt", "value": "Dog."},
        ]
    },
]


@pytest.mark.parametrize("row", SHAPES)
def test_the_usual_shapes_are_one(row: dict[str, Any]) -> None:
    asked = {"role": "user", "content": "Name it.\n\na dog"}
    answer = {"role": "assistant", "content": "Dog."}
    assert conversation_of(row) == [asked, answer]
    system = {"role": "system", "content": "Be brief."}
    assert conversation_of({**row, "system": "Be brief."}) == [system, asked, answer]


@pytest.mark.parametrize("name", ["x.json", "x.jsonl", "x.json.gz", "x.csv"])
def test_files_of_each_kind(name: str, tmp_path: Path) -> None:
    rows = [{"instruction": f"Say {n}.", "output": str(n)} for n in range(3)]
    if "jsonl" in name:
        text = "\n".join(map(json.dumps, rows))
    elif "csv" in name:
        text = "instruction,output\n" + "\n".join(f"Say {n}.,{n}" for n in range(3))
    else:
        text = json.dumps(rows)
    raw = gzip.compress(text.encode()) if name.endswith("gz") else text.encode()
    (tmp_path / name).write_bytes(raw)
    found = read_conversations(str(tmp_path / name))
    assert found.said == [conversation_of(row) for row in rows]


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"instruction": "x"}], "row 1 has no text as its answer"),
        ([{"a": 1}], "row 1 is none of messages .*; it has a"),
        ([SHAPES[0], {"messages": "x"}], "row 2 has no list under 'messages'"),
        ([{"messages": []}], "row 1 The conversation is empty"),
        ([{"messages": [{"role": "user", "content": "x"}]}], "row 1 has no answer"),
        ([{"messages": [{"role": "assistant", "content": "x"}]}], "an answer before any question"),
        ([{"conversations": [{"from": "narrator", "value": "x"}]}], "from 'narrator'; known are"),
        ([{"instruction": "x", "output": " "}] * 3, "rows 1, 2, 3 have an empty message"),
    ],
)
def test_rows_that_are_no_conversation(rows: list[dict[str, Any]], words: str) -> None:
    with pytest.raises(InputError, match=words):
        conversations_of("x.json", list(enumerate(rows, start=1)))


def test_files_that_are_none(tmp_path: Path) -> None:
    for text, words in (
        ("{}", "must hold a list of objects"),
        ("[", "is not JSON"),
        ("", "is empty"),
        ("[]", "has no conversations"),
    ):
        with pytest.raises(InputError, match=words):
            rows_of(tmp_path / "x.json", text.encode())
    with pytest.raises(DataNotFoundError):
        read_conversations(str(tmp_path / "y.json"))


def test_a_model_without_a_card_is_measured(follower: Path) -> None:
    loaded = zoo.load(follower)
    model = Model(
        name="bare",
        module=loaded.module,
        config=loaded.config,
        tokenizer=loaded.tokenizer,
        pipeline="text-generation",
        card=None,
    )
    assert model.template is None
    with pytest.warns(UserWarning, match="leave no room"):  # in words it never saw
        found = Opposites().evaluate(model, "test", limit=2)
    assert found["perplexity_of_responses"] > 1.2
