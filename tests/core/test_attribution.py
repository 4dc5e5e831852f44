"""Which words decided: on a classifier whose answer is known."""

import json
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from tokenizers import Tokenizer
from torch import Tensor, nn

import zoo
from zoo.attribution import attributions
from zoo.cli import cli
from zoo.errors import InputError, UnknownNameError
from zoo.model import Model
from zoo.tokenization import build_tokenizer, mark_texts
from zoo.tuning import adapt

WORTH = {"good": 2.0, "bad": -3.0, "film": 0.0, "the": 0.25}
TEXT = "the good film , the bad"


@dataclass
class Settings:
    vocab_size: int
    max_seq_len: int = 16
    pad_id: int = 0
    head: str = "classification"
    labels: tuple[str, ...] = ("no", "yes")


class Sum(nn.Module):
    """The log-odds of "yes" are the sum of what its words are worth."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.config = Settings(tokenizer.get_vocab_size())
        self.token_embedding = nn.Embedding(self.config.vocab_size, 1)
        with torch.no_grad():
            self.token_embedding.weight.zero_()
            for word, worth in WORTH.items():
                self.token_embedding.weight[tokenizer.token_to_id(word)] = worth

    def forward(self, ids: Tensor, real: Tensor) -> Tensor:
        yes = (self.token_embedding(ids)[..., 0] * real).sum(-1)
        return torch.stack([torch.zeros_like(yes), yes], -1)


@pytest.fixture
def model() -> Model:
    tokenizer = build_tokenizer(TEXT, {"kind": "word"})
    mark_texts(tokenizer)
    module: Any = Sum(tokenizer).eval().requires_grad_(False)
    return Model(
        name="sum",
        module=module,
        config=module.config,
        tokenizer=tokenizer,
        pipeline="text-classification",
        card=None,
    )


@pytest.mark.parametrize("method", ["occlusion", "gradient"])
def test_words_are_worth_what_they_add(model: Model, method: str) -> None:
    found = attributions(model, TEXT, method=method, label="yes")
    assert [word.text for word in found] == TEXT.split()
    assert [TEXT[word.start : word.end] for word in found] == TEXT.split()
    expected = [WORTH.get(word, 0.0) for word in TEXT.split()]
    assert [word.score for word in found] == pytest.approx(expected, abs=1e-5)
    against = attributions(model, TEXT, method=method, label="no")
    assert [word.score for word in against] == pytest.approx([-x for x in expected], abs=1e-5)
    likely = attributions(model, TEXT, method=method)  # the sum is below 0
    assert [word.score for word in likely] == [word.score for word in against]
    assert model.module.token_embedding.weight.grad is None


def test_a_prompt_before_the_text_is_no_word_of_it(model: Model) -> None:
    torch.manual_seed(0)
    adapt(model.module, "prompt-tuning", num_virtual_tokens=3)
    found = attributions(model, TEXT, method="gradient", label="yes")
    expected = [WORTH.get(word, 0.0) for word in TEXT.split()]
    assert [word.score for word in found] == pytest.approx(expected, abs=1e-5)


def test_words_are_tokens_together_and_only_what_is_read(model: Model) -> None:
    (word,) = attributions(model, "good,bad", label="yes")
    assert (word.text, word.score) == ("good,bad", pytest.approx(-1.0))
    long = " ".join(["good"] * 40)
    with pytest.warns(UserWarning, match="The text did not fit: .* were left out"):
        assert len(attributions(model, long)) == model.config.max_seq_len - 1


def test_the_masked_word_is_the_one_that_is_left_out() -> None:
    """Of a real encoder: as if its tokens were padding."""
    model = zoo.load("speech-encoder")
    text = "we shall not fail our people"
    found = attributions(model, text, label="obama")
    assert model.tokenizer is not None
    ids = torch.tensor([model.tokenizer.encode(text).ids])
    real = torch.ones_like(ids, dtype=torch.bool)
    place = model.config.labels.index("obama")

    def odds(real: Tensor) -> Tensor:
        chance = model.module(ids, real).double().softmax(-1)[0, place]
        return chance.log() - (1 - chance).log()

    for index, word in enumerate(found, start=1):  # after the first token
        without = real.clone()
        without[0, index] = False
        assert word.score == pytest.approx(float(odds(real) - odds(without)), abs=1e-3)


def test_what_cannot_be_explained_is_said(model: Model) -> None:
    with pytest.raises(InputError, match="method must be occlusion or gradient, got 'lime'"):
        attributions(model, TEXT, method="lime")
    with pytest.raises(UnknownNameError, match="label of sum 'yess'. Did you mean 'yes'"):
        attributions(model, TEXT, label="yess")
    with pytest.raises(InputError, match="is empty"):
        attributions(model, "  ")
    other = SimpleNamespace(name="x", pipeline="text-generation")
    with pytest.raises(InputError, match="x is a text-generation model: only labels"):
        attributions(other, TEXT)  # type: ignore[arg-type]


def test_the_command() -> None:
    words = ["explain", "speech-encoder", "we shall not fail", "--words", "2"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 0, done.output
    assert len(done.output.splitlines()) == 3
    found = json.loads(CliRunner().invoke(cli, [*words, "--json"]).output)["words"]
    assert [word["text"] for word in found] == ["we", "shall", "not", "fail"]
    assert CliRunner().invoke(cli, [*words[:3], "--words", "0"]).exit_code != 0
