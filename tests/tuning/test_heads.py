"""Another head on a trained encoder: trained, saved, loaded, merged, read by PEFT, refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import zoo
from zoo.errors import ConfigError, RecipeError, WeightsError, ZooError
from zoo.registry import registry
from zoo.tuning.heads import refit

ALONE = ("full", "gradual-unfreezing")
CACHED = ("prefix-tuning", "prompt-tuning")  # they need a cache, which encoders have not
METHODS = [name for name in registry().tunings.names() if name not in CACHED]
OPTIONS = {"steps": 60, "learning_rate": 0.02, "storage": "float32", "batch_tokens": 256}


@pytest.fixture
def base(encoder_recipe: Callable[..., Path], tmp_path: Path) -> Path:
    """An encoder that fills in words."""
    zoo.train(encoder_recipe("colours-mlm", steps=60), out=tmp_path / "base")
    return tmp_path / "base"


@pytest.mark.parametrize("method", METHODS)
def test_a_model_that_fills_in_words_learns_to_classify(
    method: str, base: Path, tmp_path: Path
) -> None:
    model = zoo.train(
        str(base),
        out=tmp_path / "out",
        task="colours",
        tuning=method,
        config={"pooling": "attention", "max_seq_len": 12},
        **OPTIONS,
    )
    assert model.pipeline == "text-classification"
    assert model.config.labels == ("red", "green", "blue")
    assert model.config.max_seq_len == 12
    assert model.card is not None
    scores = {score.key: score.value for score in model.card.scores}
    assert scores["accuracy"] > 0.6  # a third by chance
    assert model("the sea is blue")["label"] in model.config.labels
    again = zoo.load(str(tmp_path / "out"))
    ids = torch.arange(1, 9)[None]
    assert torch.equal(again.module(ids), model.module(ids))
    if method in ALONE:
        assert model.card.base is None
        return
    learned = load_file(tmp_path / "out" / "adapter_model.safetensors")
    assert {"base_model.model.head.weight", "base_model.model.pooling.query.weight"} < set(learned)
    assert again.set_adapter(None).pipeline == "fill-mask"
    assert again("the sea is <mask>")
    again.set_adapter(model.name)
    if method in ("houlsby", "pfeiffer"):
        return
    merged = again.merge()
    torch.testing.assert_close(merged.module(ids), model.module(ids), rtol=1e-5, atol=1e-6)
    merged.save_pretrained(tmp_path / "merged")
    text = "the sea is blue"
    assert zoo.load(str(tmp_path / "merged"))(text)["label"] == merged(text)["label"]


def test_peft_reads_a_new_head(base: Path, tmp_path: Path) -> None:
    peft = pytest.importorskip("peft", reason="needs txzoo[hf]")
    options = {**OPTIONS, "steps": 5}
    model = zoo.train(str(base), out=tmp_path / "out", task="colours", tuning="lora", **options)
    torch.manual_seed(5)  # another head than the one that was trained
    plain, fresh = refit(
        zoo.load(str(base)).module, {"head": "classification", "labels": ["r", "g", "b"]}
    )
    assert fresh == ["head"]
    ids = torch.arange(1, 9)[None]
    with pytest.warns(UserWarning, match="txzoo"), torch.no_grad():
        theirs = peft.PeftModel.from_pretrained(plain.eval(), tmp_path / "out")
        torch.testing.assert_close(theirs(ids), model.module(ids), rtol=1e-5, atol=1e-6)


def test_what_both_have_is_taken_over(base: Path) -> None:
    module = zoo.load(str(base)).module
    same, fresh = refit(module, {"max_seq_len": 16, "dropout": 0.0})
    assert same is module and fresh == []
    shorter, fresh = refit(module, {"max_seq_len": 5})
    assert fresh == []
    assert torch.equal(shorter.position_embedding.weight, module.position_embedding.weight[:5])
    ids = torch.arange(1, 6)[None]
    assert torch.equal(shorter(ids), module(ids))
    other, fresh = refit(module, {"head": "classification", "labels": ["a", "b"]})
    assert fresh == ["head"]
    assert torch.equal(other.hidden(ids), module.hidden(ids))
    again, fresh = refit(other, {"labels": ["c", "d"]})
    assert fresh == ["head"]  # as many, but others
    assert not torch.equal(again.head.weight, other.head.weight)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"max_seq_len": 17}, "max_seq_len=17: the trained model has 16, it cannot grow"),
        ({"vocab_size": 10**12}, "it cannot grow"),
        ({"d_model": 8}, r"d_model=8 asks for other weights .*: token_embedding"),
        ({"d_ff": 8}, "d_ff=8 asks for other weights than the trained model has: blocks"),
        ({"head": "classification", "labels": ["a"]}, "needs two labels or more"),
        ({"heads": 2}, "has no key 'heads'. Did you mean 'head'"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict, words: str, base: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        refit(zoo.load(str(base)).module, changes)


def test_a_decoder_has_no_other_head(
    tiny_model: Path, encoder_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(RecipeError, match="colours is a text-classification task, tiny is a text-"):
        zoo.train(str(tiny_model), out=tmp_path / "out", task="colours", tuning="full", steps=1)


@pytest.mark.parametrize(
    "change",
    [
        {"txzoo": {"head": "classification", "labels": ["x"] * 3}},
        {"txzoo": {"max_seq_len": 10**9}},
        {"txzoo": {"d_model": 8}},
        {"txzoo": []},
        {"txzoo": "head"},
        {"txzoo": {"nothing": 1}},
        {"modules_to_save": ["blocks.0"]},
    ],
    ids=str,
)
def test_files_that_claim_something_else_are_refused(
    change: dict, base: Path, tmp_path: Path
) -> None:
    options = {**OPTIONS, "steps": 1}
    zoo.train(str(base), out=tmp_path / "out", task="colours", tuning="lora", **options)
    shutil.copytree(tmp_path / "out", tmp_path / "theirs")
    (tmp_path / "theirs" / "README.md").unlink()
    path = tmp_path / "theirs" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    model = zoo.load(str(base))
    with pytest.raises((ConfigError, WeightsError)) as found:
        model.load_adapter(tmp_path / "theirs")
    assert isinstance(found.value, ZooError)
    assert model.adapter is None
