"""The pipelines of encoders, on tiny ones whose answers are known or computed another way."""

import json
import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from tokenizers import Tokenizer
from zoo_encoder.model import Encoder, EncoderConfig

import zoo
from zoo.cli import cli
from zoo.errors import ConfigError, InputError
from zoo.model import Model
from zoo.pipelines.reading import Reader, by_length, last_tokens, pad
from zoo.tokenization import build_tokenizer, mark_texts, pad_id_of
from zoo.tuning import adapt

WORDS = "a joy from start to end and a bore in between"
PIPELINES = {
    "classification": "text-classification",
    "token-classification": "token-classification",
    "masked-language": "fill-mask",
    "none": "feature-extraction",
}


def make(head: str, tokenizer: Tokenizer | None = None, **changes: Any) -> Model:
    """A random encoder, of a word tokenizer unless given, in the pipeline of its head."""
    tokenizer = tokenizer or build_tokenizer(WORDS, {"kind": "word"})
    mark_texts(tokenizer)
    torch.manual_seed(1)
    values = {
        "vocab_size": tokenizer.get_vocab_size(),
        "max_seq_len": 8,
        "d_model": 12,
        "n_layers": 2,
        "n_heads": 3,
        "d_ff": 16,
        "pad_id": pad_id_of(tokenizer),
        "head": head,
        "labels": ("bad", "mixed", "good") if head.endswith("classification") else (),
    }
    module = Encoder(EncoderConfig(**{**values, **changes})).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape))
    return Model(
        name=f"tiny-{head}",
        module=module,
        config=module.config,
        tokenizer=tokenizer,
        pipeline=PIPELINES[head],
        card=None,
    )


def logits_of(model: Model, text: str) -> torch.Tensor:
    """The module on one text alone, unpadded."""
    assert model.tokenizer is not None
    ids = torch.tensor([model.tokenizer.encode(text).ids])
    with torch.no_grad():
        result: torch.Tensor = model.module(ids, torch.ones_like(ids, dtype=torch.bool))[0]
    return result


TEXTS = ["a joy", "a bore from start to end", "joy", "an unknown word", "to end and"]


def test_a_label_for_each_text_in_the_order_they_came() -> None:
    model = make("classification")
    answers = model(TEXTS)
    for text, answer in zip(TEXTS, answers, strict=True):
        chances = logits_of(model, text).softmax(-1)
        assert answer["label"] == ("bad", "mixed", "good")[int(chances.argmax())]
        assert answer["score"] == pytest.approx(chances.max().item(), abs=1e-5)
        assert model(text)["label"] == answer["label"]
    assert model([]) == []


def test_more_labels_best_first() -> None:
    model = make("classification")
    every = model("a joy", top_k=None)
    assert [entry["score"] for entry in every] == sorted((e["score"] for e in every), reverse=True)
    assert sum(entry["score"] for entry in every) == pytest.approx(1)
    assert model("a joy", top_k=2) == every[:2] and model("a joy") == every[0]


def test_a_label_for_each_token() -> None:
    model = make("token-classification")
    text = "joy  to bore"
    found = model(text)
    assert [(e["word"], e["start"], e["end"]) for e in found] == [
        ("joy", 0, 3), ("to", 5, 7), ("bore", 8, 12),
    ]  # fmt: skip
    chances = logits_of(model, text)[1:].softmax(-1)
    assert [e["entity"] for e in found] == [("bad", "mixed", "good")[i] for i in chances.argmax(-1)]
    batch = model([text, "a joy from start to end"])
    assert [entry["word"] for entry in batch[0]] == [entry["word"] for entry in found]
    for one, other in zip(batch[0], found, strict=True):
        assert one["score"] == pytest.approx(other["score"], abs=1e-5)


def test_the_token_that_a_mask_hides() -> None:
    model = make("masked-language")
    found = model("a <mask> to end", top_k=3)
    expected = logits_of(model, "a <mask> to end")[2].softmax(-1).topk(3)
    assert [entry["token"] for entry in found] == expected.indices.tolist()
    assert [entry["score"] for entry in found] == pytest.approx(expected.values.tolist())
    for entry in found:
        assert entry["sequence"] == f"a {entry['token_str']} to end"
    assert len(model("a <mask>")) == 5
    for text, count in (("a joy", 0), ("<mask> <mask>", 2)):
        with pytest.raises(InputError, match=f"must have <mask> once, it has {count}"):
            model(text)


def test_a_mask_hides_a_word_with_the_space_before_it() -> None:
    """As masks are drawn in training: a space of its own says that a word's end is hidden."""
    tokenizer = build_tokenizer(20 * f"{WORDS} ", {"kind": "byte-pair", "vocab_size": 300})
    mark_texts(tokenizer)
    hidden = tokenizer.token_to_id("<mask>")
    whole = tokenizer.encode("a joy from start").ids
    for word, place in (("a", 1), (" joy", 2), (" start", 4)):
        text = "a joy from start".replace(word, word.replace(word.strip(), "<mask>"), 1)
        assert tokenizer.encode(text).ids == whole[:place] + [hidden] + whole[place + 1 :]
    model = make("masked-language", tokenizer)
    for text in ("a <mask> to end", "<mask> joy", "a j<mask> to end"):
        for found in model(text):
            assert found["sequence"] == text.replace("<mask>", found["token_str"])


def test_a_vector_for_each_text() -> None:
    model = make("none")
    vectors = torch.stack(model(TEXTS))
    assert torch.allclose(vectors.norm(dim=-1), torch.ones(len(TEXTS)))
    assert model.tokenizer is not None
    for text, vector in zip(TEXTS, vectors, strict=True):
        ids = torch.tensor([model.tokenizer.encode(text).ids])
        with torch.no_grad():
            mean = model.module.hidden(ids, torch.ones_like(ids) > 0)[0].mean(0)
        assert torch.allclose(vector, mean / mean.norm(), atol=1e-5)


def test_too_long_is_cut_and_says_how_much() -> None:
    model = make("classification")
    long = "bore " * 5 + "joy " * 95
    with pytest.warns(UserWarning, match=r"reads 8 tokens, 93 of 101 were left out \(92%\)"):
        answer = model(long)
    ids = torch.tensor([model.tokenizer.encode("bore joy joy joy joy joy joy").ids])  # type: ignore[union-attr]
    assert ids.shape[1] == 8  # the first two, <cls> among them, and the last six
    with torch.no_grad():
        expected = model.module(ids).softmax(-1).max().item()
    assert answer["score"] == pytest.approx(expected, abs=1e-5)
    with pytest.warns(UserWarning, match="1 of 2 texts did not fit"):
        model([long, "joy"])
    with pytest.warns(UserWarning, match="100,001|99,993"):
        model("joy " * 100_000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model("joy " * 7)


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("", {}, "is empty: give at least one word"),
        (" \n\t ", {}, "is empty"),
        (["a joy", ""], {}, "is empty"),
        (3, {}, "must be a text, got int"),
        ("\ud800", {}, "not valid UTF-8"),
        ("a joy", {"top_k": 0}, "top_k must be a whole number from 1 on, got 0"),
        ("a joy", {"top_k": "all"}, "top_k must be"),
        ("a joy", {"temperature": 1.0}, "text-classification has no option 'temperature'"),
    ],
)
def test_bad_input(text: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make("classification")(text, **options)


def test_another_head_is_refused() -> None:
    model = make("none")
    model.pipeline = "text-classification"
    with pytest.raises(InputError, match="needs a model with the head classification, tiny-none"):
        model("a joy")


def test_batches_hold_like_lengths_and_every_text_once() -> None:
    lengths = [3, 900, 5, 40, 40, 2, 1000]
    batches = list(by_length(lengths, tokens=1000))
    assert sorted(place for batch in batches for place in batch) == list(range(7))
    assert all(max(lengths[p] for p in batch) * len(batch) <= 1000 for batch in batches)
    assert batches[:2] == [[6], [1]] and len(batches) == 3


def test_what_is_cut_keeps_what_marks_the_ends() -> None:
    from tokenizers import processors

    tokenizer = build_tokenizer(WORDS, {"kind": "word"})
    tokenizer.add_special_tokens(["[CLS]", "[SEP]"])
    marks = [(m, tokenizer.token_to_id(m)) for m in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=marks
    )
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=50)
    for last in (0, last_tokens(5)):
        row = Reader(tokenizer, 5, last)(["a joy from start to end"])[0]
        assert row.ids[0] == marks[0][1] and row.ids[-1] == marks[1][1] and row.left_out == 3
        words = [row.text[start:end] for start, end in row.offsets]
        middle = ["a", "to", "end"] if last else ["a", "joy", "from"]
        assert words == ["", *middle, ""]


def test_padding_is_on_the_right() -> None:
    ids, real = pad([[4, 5, 6], [7]], 9)
    assert ids.tolist() == [[4, 5, 6], [7, 9, 9]]
    assert real.tolist() == [[True, True, True], [True, False, False]]


DATA = os.environ.get("TXZOO_DATA")
MINILM = Path(DATA).parent / "weights" / "all-MiniLM-L6-v2" if DATA else None


@pytest.mark.skipif(
    MINILM is None or not MINILM.is_dir(), reason="needs ../weights beside TXZOO_DATA"
)
def test_sentences_that_mean_the_same_are_near() -> None:
    model = zoo.load(str(MINILM))
    assert model.pipeline == "feature-extraction"
    a, b, c = model(["A man plays a guitar.", "Someone makes music.", "The bank raised its rates."])
    assert len(a) == 384 and a @ b > 0.4 > 0.2 > a @ c


@pytest.mark.parametrize("method", ["prefix-tuning", "prompt-tuning"])
def test_vectors_of_a_text_after_a_learned_prompt_are_refused(method: str) -> None:
    model = make("none")
    adapt(model.module, method, num_virtual_tokens=2)
    with pytest.raises(ConfigError, match="model without its adapter"):
        model("good film")


@pytest.mark.skipif(
    MINILM is None or not MINILM.is_dir(), reason="needs ../weights beside TXZOO_DATA"
)
def test_the_command_shows_a_vector() -> None:
    done = CliRunner().invoke(cli, ["run", str(MINILM), "--json", "A guitar."])
    assert done.exit_code == 0, done.output
    vector = json.loads(done.output)["result"]
    assert sum(x * x for x in vector) == pytest.approx(1, abs=1e-5)
