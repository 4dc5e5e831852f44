"""A prefix such as "translate English to German: ": read before each source, trained or asked."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from encoder_decoders import answers_of, opened, widen
from tokenizers import Tokenizer
from toy_tasks import Numerals
from zoo_t5.model import T5, T5Config

import zoo
from zoo.attention import alignment
from zoo.errors import ContextLengthError, InputError
from zoo.model import Model
from zoo.pipelines.reading import Reader
from zoo.pipelines.text2text import Text2Text, Translation
from zoo.tasks.translation import target_nats
from zoo.tokenization import build_tokenizer, end_texts

PREFIX = "turn into german: "
TEXTS = ["one two three", "six", "five five one two"]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    sources, targets = Numerals().pairs("train")
    made = build_tokenizer("\n".join([PREFIX, *sources, *targets]), {"kind": "word"})
    end_texts(made)
    return made


def make(tokenizer: Tokenizer, prefix: str) -> Model:
    torch.manual_seed(3)
    pad = tokenizer.token_to_id("<pad>")
    config = T5Config(
        vocab_size=tokenizer.get_vocab_size(),
        max_seq_len=20,
        d_model=16,
        n_layers=2,
        n_encoder_layers=2,
        n_heads=2,
        d_head=8,
        d_ff=20,
        pad_id=pad,
        start_id=pad,
        end_id=tokenizer.token_to_id("<|endoftext|>"),
        prefix=prefix,
    )
    module = widen(T5(config), tables=0.8)
    with torch.no_grad():  # livelier, so that answers differ
        module.embedding.weight.mul_(0.1)
        for name, parameter in module.named_parameters():
            if parameter.dim() > 1 and "embedding" not in name:
                parameter.mul_(3 if "source_attention" in name else 1.5)
    return Model(
        name="tiny",
        module=module,
        config=config,
        tokenizer=tokenizer,
        pipeline="translation",
        card=None,
    )


@pytest.fixture
def plain(tokenizer: Tokenizer) -> Model:
    return make(tokenizer, "")


@pytest.fixture
def model(tokenizer: Tokenizer) -> Model:
    return make(tokenizer, PREFIX)


def test_it_is_asked_with_it(model: Model, plain: Model, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs txzoo[hf]")
    theirs, whole = opened(model.module, tmp_path), [PREFIX + text for text in TEXTS]
    assert theirs.config.prefix == PREFIX  # where older versions of transformers look for it
    for beams in (1, 3):
        expected = answers_of(theirs, plain.tokenizer, whole, num_beams=beams)
        assert len(set(expected)) > 1
        assert Text2Text(model)(TEXTS, max_new_tokens=10, num_beams=beams) == expected
        assert Text2Text(plain)(whole, max_new_tokens=10, num_beams=beams) == expected
        assert Text2Text(plain)(TEXTS, max_new_tokens=10, num_beams=beams) != expected
    one = Text2Text(model)(TEXTS[0], max_new_tokens=10)
    assert "".join(Text2Text(model)(TEXTS[0], max_new_tokens=10, stream=True)) == one
    config, tensors = model.module.to_transformers()
    assert T5.from_transformers(config, tensors).config.prefix == PREFIX


def test_parts_and_errors_are_of_the_users_own_words(model: Model) -> None:
    pipeline, longest = Translation(model), 10  # four words of the prefix, a colon, five of a text
    model.module.max_len = longest
    read = model.tokenizer.encode
    text = "one two. three four."
    with pytest.warns(UserWarning, match="did not fit into the 10 tokens .* read as 2 sentences"):
        (parts,) = pipeline.parts([text])
    assert parts == [read(f"{PREFIX}one two.").ids, read(f"{PREFIX}three four.").ids]
    for empty in ("", " "):
        with pytest.raises(InputError, match=rf"The text '{empty}' is empty"):
            pipeline(empty)
    with pytest.raises(ContextLengthError, match="12 tokens in one piece, tiny reads 10"):
        pipeline("one two three four five six one")


def test_a_row_knows_the_text_alone(tokenizer: Tokenizer) -> None:
    text = "one two"
    (row,) = Reader(tokenizer, 99, prefix=PREFIX)([text])
    (bare,) = Reader(tokenizer, 99)([text])
    assert row.text == text
    assert row.ids == tokenizer.encode(PREFIX + text).ids
    assert row.ids[-3:] == bare.ids and row.offsets[-3:-1] == bare.offsets[:-1]
    assert row.special == [1, 1, 1, 1, 0, 0, 1]
    assert [text[a:b] for a, b in row.offsets] == ["", "", "", "", "one", "two", ""]


def test_a_task_trains_and_scores_with_it(model: Model, plain: Model) -> None:
    task, tokenizer = Numerals(), model.tokenizer
    task.model_config = model.config
    batch = task.batches(tokenizer, length=20, batch_tokens=60, seed=1)(0)
    for source, target in zip(batch["source"], batch["targets"], strict=True):
        assert tokenizer.decode(source.tolist()).startswith("turn into german : ")
        assert "german" not in tokenizer.decode(target[target >= 0].tolist())
    sources, targets = (side[:8] for side in task.pairs("test"))
    found = target_nats(model, sources, targets)
    whole = target_nats(plain, [PREFIX + text for text in sources], targets)
    np.testing.assert_allclose(found, whole, rtol=1e-5)
    assert np.abs(found - target_nats(plain, sources, targets)).max() > 0.01
    with pytest.warns(UserWarning, match="have a side of more than 6 tokens"):
        assert len(target_nats(model, sources, targets, 6)) < 8  # the prefix is counted


def test_it_is_one_word_of_the_alignment(model: Model, plain: Model) -> None:
    found = alignment(model, TEXTS[0], "eins zwei")
    assert found.source == ["turn into german:", "one", "two", "three", "end"]
    assert found.target == ["eins", "zwei", "end"]
    whole = alignment(plain, PREFIX + TEXTS[0], "eins zwei")
    assert whole.source == ["turn", "into", "german", ":", "one", "two", "three", "end"]
    for one, other in zip(found.layers, whole.layers, strict=True):
        merged = torch.cat([other[..., :4].sum(-1, keepdim=True), other[..., 4:]], -1)
        torch.testing.assert_close(one, merged)
        torch.testing.assert_close(one.sum(-1), torch.ones(2, 3))


def test_a_model_of_the_hub_may_have_one(tmp_path: Path) -> None:
    """As `config.json` of older checkpoints says, for the models that transformers computes."""
    transformers = pytest.importorskip("transformers", reason="needs txzoo[hf]")
    sizes: dict[str, Any] = {"d_model": 16, "d_kv": 8, "d_ff": 20, "num_layers": 2, "num_heads": 2}
    config = transformers.MT5Config(
        **sizes, vocab_size=30, decoder_start_token_id=0, eos_token_id=1, prefix=PREFIX
    )
    transformers.MT5ForConditionalGeneration(config).save_pretrained(tmp_path / "theirs")
    model = zoo.load(tmp_path / "theirs")
    assert model.config.prefix == PREFIX
    assert "prefix" not in model.config.transformers
    assert zoo.load(model.save_pretrained(tmp_path / "ours")).config.prefix == PREFIX
    assert model.module.to_transformers()[0]["prefix"] == PREFIX
