"""The encoder against BERT, both ways, and on the real weights of a sentence encoder."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from zoo_encoder.model import Encoder, EncoderConfig

import zoo
from zoo.errors import ConfigError, ContextLengthError, WeightsError

transformers = pytest.importorskip("transformers", reason="needs txzoo[hf]")
CLOSE = {"rtol": 1e-5, "atol": 2e-5}
DATA = os.environ.get("TXZOO_DATA")
MINILM = Path(DATA).parent / "weights" / "all-MiniLM-L6-v2" if DATA else None
SIZES = {
    "vocab_size": 61,
    "hidden_size": 15,
    "num_hidden_layers": 3,
    "num_attention_heads": 5,
    "intermediate_size": 22,
    "max_position_embeddings": 13,
    "layer_norm_eps": 3e-4,
}
KINDS = {
    "BertModel": {},
    "BertForSequenceClassification": {"num_labels": 3},
    "BertForTokenClassification": {"num_labels": 4},
    "BertForMaskedLM": {},
}


def wide(module: torch.nn.Module) -> torch.nn.Module:
    """Random weights large enough that every part shows."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return module.eval()


def batch(V: int = 61) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three rows of 11, 7 and 1 tokens, padded on the right; two segments."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(1, V, (3, 11), generator=generator)
    real = torch.arange(11) < torch.tensor([11, 7, 1])[:, None]
    segments = (torch.arange(11) > 4).long().expand(3, 11)
    return ids * real, real, segments


def theirs_of(module: torch.nn.Module, kind: str) -> torch.Tensor:
    ids, real, segments = batch()
    with torch.no_grad():
        out = module(input_ids=ids, attention_mask=real.long(), token_type_ids=segments)
    return out.pooler_output if kind == "BertModel" else out.logits


def ours_of(module: Encoder) -> torch.Tensor:
    with torch.no_grad():
        return module(*batch())


@pytest.mark.parametrize("kind", KINDS)
def test_bert_loads_and_computes_the_same(kind: str, tmp_path: Path) -> None:
    config = transformers.BertConfig(**SIZES, **KINDS[kind])
    theirs = wide(getattr(transformers, kind)(config))
    theirs.save_pretrained(tmp_path)
    ours = zoo.load(str(tmp_path)).module
    expected = theirs_of(theirs, kind)
    found = ours_of(ours)
    if found.dim() == 3:  # what stands at padding means nothing
        real = batch()[1]
        found, expected = found[real], expected[real]
    torch.testing.assert_close(found, expected, **CLOSE)
    assert ours.config.labels == (
        tuple(theirs.config.id2label.values()) if "Classification" in kind else ()
    )


@pytest.mark.parametrize("kind", ["BertForMaskedLM", "BertForTokenClassification"])
def test_what_pre_training_left_in_a_file_is_passed_over(kind: str, tmp_path: Path) -> None:
    """As in the first BERTs: a pooling layer, the next sentence, norms by their old names."""
    config = transformers.BertConfig(**SIZES, **KINDS[kind])
    theirs = wide(getattr(transformers, kind)(config))
    theirs.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    old = {
        name.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): tensor
        for name, tensor in load_file(path).items()
    }
    assert any(name.endswith("LayerNorm.gamma") for name in old)
    more = {"bert.pooler.dense": (15, 15), "cls.seq_relationship": (2, 15)}
    for name, shape in more.items():
        old |= {f"{name}.weight": torch.randn(shape), f"{name}.bias": torch.randn(shape[0])}
    save_file(old, path)
    found, real = ours_of(zoo.load(str(tmp_path)).module), batch()[1]
    torch.testing.assert_close(found[real], theirs_of(theirs, kind)[real], **CLOSE)
    save_file(old | {"bert.extra": torch.ones(1)}, path)
    with pytest.raises(WeightsError, match=r"left over \['extra'\]"):
        zoo.load(str(tmp_path))


def test_how_an_encoder_begins() -> None:
    torch.manual_seed(0)
    module = Encoder(config_of(d_model=96, d_ff=160, n_heads=4, init_std=0.1))
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:
            wanted = 0.02 if "embedding" in name else 0.1
            error = wanted / (2 * parameter.numel()) ** 0.5
            assert abs(parameter.std().item() - wanted) < 4 * error, name
        elif name.endswith("bias"):
            assert not parameter.any()


@pytest.mark.parametrize(
    "head", ["none", "classification", "token-classification", "masked-language"]
)
def test_ours_opens_as_bert(head: str, tmp_path: Path) -> None:
    labels = ("sad", "glad", "mad") if head.endswith("classification") else ()
    config = EncoderConfig(
        vocab_size=61,
        max_seq_len=13,
        d_model=15,
        n_layers=2,
        n_heads=3,
        d_ff=22,
        head=head,
        labels=labels,
    )
    ours = wide(Encoder(config))
    settings, tensors = ours.to_transformers()
    kind = settings["architectures"][0]
    theirs = getattr(transformers, kind)(transformers.BertConfig(**settings)).eval()
    result = theirs.load_state_dict(tensors, strict=False)
    assert not result.unexpected_keys
    assert all(
        name.endswith(("position_ids", "decoder.weight", "decoder.bias"))
        for name in result.missing_keys
    )
    theirs.tie_weights()
    real = batch()[1]
    found, expected = ours_of(ours), theirs_of(theirs, kind)
    if found.dim() == 3:
        found, expected = found[real], expected[real]
    torch.testing.assert_close(found, expected, **CLOSE)
    again = Encoder.from_transformers(settings, tensors).eval()
    torch.testing.assert_close(ours_of(again), ours_of(ours), rtol=0, atol=0)
    if labels:
        assert again.config.labels == labels


@pytest.mark.skipif(
    MINILM is None or not MINILM.is_dir(), reason="needs ../weights beside TXZOO_DATA"
)
def test_real_weights_give_what_transformers_gives() -> None:
    assert MINILM is not None
    theirs = transformers.BertModel.from_pretrained(MINILM, dtype=torch.float32).eval()
    model = zoo.load(str(MINILM))
    ours = model.module.float()
    texts = ["A joy from start to end.", "The plot is thin, and two hours are long."]
    encoded = [model.tokenizer.encode(text).ids for text in texts]
    ids = torch.zeros(2, max(map(len, encoded)), dtype=torch.long)
    for row, tokens in enumerate(encoded):
        ids[row, : len(tokens)] = torch.tensor(tokens)
    with torch.no_grad():
        expected = theirs(input_ids=ids, attention_mask=(ids != 0).long())
        hidden = ours.hidden(ids)
        pooled = ours(ids)
    real = ids != 0
    torch.testing.assert_close(hidden[real], expected.last_hidden_state[real], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(pooled, expected.pooler_output, rtol=1e-4, atol=1e-4)


def config_of(**changes: object) -> EncoderConfig:
    sizes = {
        "vocab_size": 9,
        "max_seq_len": 4,
        "d_model": 6,
        "n_layers": 1,
        "n_heads": 2,
        "d_ff": 8,
    }
    return EncoderConfig(**{**sizes, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "sandwich"}, "norm must be one of post, pre, got 'sandwich'"),
        ({"init_std": 0.0}, "init_std must be above 0, got 0.0"),
        ({"pooling": "max"}, "pooling must be one of first, mean, attention"),
        ({"head": "regression"}, "head must be one of none, classification"),
        ({"head": "classification", "labels": ["one"]}, "needs two labels or more"),
        ({"labels": "yes"}, "labels must be a list of names, got 'yes'"),
        ({"labels": [1, 2]}, "labels must be a list of names"),
    ],
)
def test_what_cannot_be(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(**changes)


def test_too_long_and_what_bert_cannot_be() -> None:
    with pytest.raises(ContextLengthError, match="has 5 tokens, this model has 4 positions"):
        Encoder(config_of())(torch.ones(1, 5, dtype=torch.long))
    with pytest.raises(ConfigError, match="norm='pre'"):
        Encoder(config_of(norm="pre")).to_transformers()
    with pytest.raises(ConfigError, match="T5Model is not read"):
        Encoder.from_transformers({"architectures": ["T5Model"]}, {})
    settings, tensors = Encoder(config_of()).to_transformers()
    del tensors["encoder.layer.0.attention.self.key.bias"]
    with pytest.raises(WeightsError, match="lacks"):
        Encoder.from_transformers(settings, tensors)


@pytest.mark.parametrize("pooling", ["first", "mean", "attention"])
@pytest.mark.parametrize("norm", ["post", "pre"])
def test_padding_changes_nothing_and_order_of_rows_neither(pooling: str, norm: str) -> None:
    module = wide(Encoder(config_of(pooling=pooling, norm=norm, vocab_size=61, max_seq_len=20)))
    ids, real, segments = batch()
    with torch.no_grad():
        together = module(ids, real, segments)
        for row, length in enumerate((11, 7, 1)):
            alone = module(ids[row : row + 1, :length], segments=segments[row : row + 1, :length])
            torch.testing.assert_close(together[row], alone[0], **CLOSE)
