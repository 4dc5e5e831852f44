"""Adapters between our modules and PEFT on their counterparts in `transformers`, both ways.

What PEFT computes on the checkpoint of `transformers` is what we compute on ours, for adapters that
either of the two has written, though our matrices have other names and q, k and v are one.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models import as_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import zoo
from zoo.errors import WeightsError
from zoo.tuning import adapt, share, trained
from zoo.tuning.files import write
from zoo.tuning.heads import refit

transformers = pytest.importorskip("transformers", reason="needs txzoo[hf]")
peft = pytest.importorskip("peft", reason="needs txzoo[hf]")

pytestmark = [
    # PEFT 0.21 asks transformers 5.23 by a name that goes away in its version 6
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning"),
    # and warns of our key in its file
    pytest.mark.filterwarnings("ignore:.*txzoo.*:UserWarning"),
]

CLOSE = {"rtol": 1e-4, "atol": 2e-5}
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
V = 53
BERT = {
    "vocab_size": V,
    "hidden_size": 24,
    "intermediate_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 31,
    "num_labels": 3,
}
GPT2 = {"vocab_size": V, "n_embd": 24, "n_layer": 2, "n_head": 4, "n_positions": 31}
LLAMA = {
    "vocab_size": V,
    "hidden_size": 24,
    "intermediate_size": 36,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 31,
}
BLOOM = {"vocab_size": V, "hidden_size": 24, "n_layer": 2, "n_head": 4}
T5 = {"vocab_size": V, "d_model": 24, "d_kv": 6, "num_layers": 2, "num_heads": 4, "d_ff": 36}
MARIAN = {
    "vocab_size": V,
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 36,
    "decoder_ffn_dim": 36,
    "max_position_embeddings": 31,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
    "forced_eos_token_id": None,
    "bos_token_id": None,
    "decoder_vocab_size": V,
    "scale_embedding": True,
}
ENDLESS = {"bos_token_id": None, "eos_token_id": None}
CONFIGS = {
    "bert": (transformers.BertConfig, BERT, "ForSequenceClassification"),
    "bert-tags": (transformers.BertConfig, BERT, "ForTokenClassification"),
    "bert-body": (transformers.BertConfig, BERT, ""),
    "gpt2": (transformers.GPT2Config, GPT2 | ENDLESS, "ForCausalLM"),
    "llama": (transformers.LlamaConfig, LLAMA | ENDLESS, "ForCausalLM"),
    "bloom": (transformers.BloomConfig, BLOOM | ENDLESS, "ForCausalLM"),
    "t5": (transformers.T5Config, T5, "ForSeq2SeqLM"),
    "marian": (transformers.MarianConfig, MARIAN, "ForSeq2SeqLM"),
}
SOME = {  # matrices that people adapt, in transformers' words
    "bert": ["query", "value"],
    "bert-tags": ["query", "value", "output.dense"],
    "bert-body": ["key", "intermediate.dense"],
    "gpt2": ["c_attn", "mlp.c_proj"],
    "llama": ["q_proj", "v_proj", "up_proj"],
    "bloom": ["query_key_value", "dense"],
    "t5": ["q", "v"],
    "marian": ["q_proj", "v_proj", "fc2"],
}
SCALED = {  # keys, values and inputs of the last matrix, as PEFT's own tables say
    "bert": (["key", "value", "output.dense"], ["output.dense"]),
    "bert-tags": (["key", "value", "output.dense"], ["output.dense"]),
    "bert-body": (["key", "value", "output.dense"], ["output.dense"]),
    "gpt2": (["c_attn", "mlp.c_proj"], ["mlp.c_proj"]),
    "llama": (["k_proj", "v_proj", "down_proj"], ["down_proj"]),
    "bloom": (["query_key_value", "mlp.dense_4h_to_h"], ["mlp.dense_4h_to_h"]),
    "t5": (["k", "v", "wo"], ["wo"]),
    "marian": (["k_proj", "v_proj", "fc2"], ["fc2"]),
}


@pytest.fixture(params=CONFIGS)
def kind(request: pytest.FixtureRequest) -> str:
    return request.param


def pair(kind: str, twins: Callable[..., Any]) -> tuple[nn.Module, nn.Module]:
    made, values, head = CONFIGS[kind]
    ours, theirs = twins(made(**values), getattr(transformers, f"AutoModel{head}"))
    if kind == "marian":  # its positions are no numbers of the checkpoint, though its parameters
        plain = type(theirs)(theirs.config)
        for stack in ("encoder", "decoder"):
            name = f"model.{stack}.embed_positions.weight"
            theirs.get_parameter(name).data.copy_(plain.get_parameter(name))
    return ours, theirs


def both(ours: nn.Module, theirs: nn.Module) -> tuple[Tensor, Tensor]:
    """What the two give for the same tokens; without gradients."""
    ids = torch.randint(2, V, (3, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        if hasattr(ours, "encode"):
            memory, real = ids[:, :6], torch.ones(3, 6, dtype=torch.bool)
            expected = theirs(input_ids=memory, decoder_input_ids=ids).logits
            return ours.decode(ids, ours.encode(memory, real), real), expected
        found = theirs(input_ids=ids)
        expected = found.logits if "logits" in found else found.pooler_output
        return ours(ids), expected


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    mine, expected = both(ours, theirs)
    torch.testing.assert_close(mine, expected, **CLOSE)


def shake(module: nn.Module, names: list[str]) -> None:
    """Other numbers than those that learning starts from."""
    parameters = dict(module.named_parameters())
    for name in names:
        parameters[name].data.add_(0.3 * torch.randn_like(parameters[name]))


def wrapped(theirs: nn.Module, config: Any) -> nn.Module:
    """Adapted by PEFT, with random numbers in all that it trains."""
    theirs = peft.get_peft_model(theirs, config).eval()
    shake(theirs, [name for name, p in theirs.named_parameters() if p.requires_grad])
    return theirs


def config_of(kind: str, method: str) -> Any:
    task = {"bert": "SEQ_CLS", "bert-tags": "TOKEN_CLS"}.get(kind)
    turned = kind == "gpt2"
    if method == "ia3":
        names, inputs = SCALED[kind]
        return peft.IA3Config(
            task_type=task, target_modules=names, feedforward_modules=inputs, fan_in_fan_out=turned
        )
    every = ["query", "key", "value", "dense"] if kind.startswith("bert") else "all-linear"
    names = SOME[kind] if method == "some" else every
    return peft.LoraConfig(
        r=3, lora_alpha=7, task_type=task, target_modules=names, fan_in_fan_out=turned
    )


@pytest.mark.parametrize("method", ["some", "all", "ia3"])
def test_pefts_adapter_computes_the_same_here(
    kind: str, method: str, twins: Callable[..., Any], tmp_path: Path
) -> None:
    ours, theirs = pair(kind, twins)
    plain = both(ours, theirs)[0]
    theirs = wrapped(theirs, config_of(kind, method))
    theirs.save_pretrained(tmp_path / "adapter")
    model = as_model(ours).load_adapter(tmp_path / "adapter")
    assert (both(model.module, theirs)[0] - plain).abs().max() > 1e-2
    assert_same(model.module, theirs)
    merged = model.merge()
    assert_same(merged.module, theirs)


@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_our_adapter_computes_the_same_in_peft(
    kind: str, method: str, twins: Callable[..., Any], tmp_path: Path
) -> None:
    base, theirs = pair(kind, twins)
    options = {"rank": 2, "alpha": 5} if method == "lora" else {}
    ours = adapt(share(base), method, **options).eval()
    shake(ours, list(trained(ours)))
    write(tmp_path, ours, method, options, list(trained(ours)), base="somewhere")
    names = [n.removeprefix("base_model.model.") for n in load_file(tmp_path / WEIGHTS)]
    known = dict(theirs.named_modules())
    assert all(name.split(".lora_")[0].removesuffix(".ia3_l") in known for name in names)
    plain = both(base, theirs)[0]
    opened = peft.PeftModel.from_pretrained(theirs, tmp_path).eval()
    assert (both(ours, opened)[0] - plain).abs().max() > 1e-2
    assert_same(ours, opened)
    again = as_model(base).load_adapter(tmp_path).module
    for name, parameter in trained(ours).items():
        assert torch.equal(again.get_parameter(name), parameter), name


def body(twins: Callable[..., Any], tmp_path: Path) -> tuple[nn.Module, nn.Module]:
    """Ours of a BERT without a head, and theirs of the same folder with an untrained one."""
    ours, _ = pair("bert-body", twins)
    torch.manual_seed(4)
    head = transformers.AutoModelForSequenceClassification
    return ours, head.from_pretrained(tmp_path / "theirs", num_labels=3).eval()


@pytest.mark.parametrize("pooler", [False, True])
def test_pefts_adapter_brings_its_head(
    pooler: bool, twins: Callable[..., Any], tmp_path: Path
) -> None:
    ours, theirs = body(twins, tmp_path)
    more = {"modules_to_save": ["pooler", "classifier"]} if pooler else {}
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["query", "value"], **more)
    theirs = wrapped(theirs, config)
    theirs.save_pretrained(tmp_path / "adapter")
    model = as_model(ours, pipeline="feature-extraction").load_adapter(tmp_path / "adapter")
    assert (model.pipeline, model.config.labels) == (
        "text-classification",
        ("LABEL_0", "LABEL_1", "LABEL_2"),
    )
    assert_same(model.module, theirs)
    assert_same(model.merge().module, theirs)
    assert model.set_adapter(None).pipeline == "feature-extraction"


@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_our_adapter_takes_its_head_to_peft(
    method: str, twins: Callable[..., Any], tmp_path: Path
) -> None:
    base, theirs = body(twins, tmp_path)
    changes = {"head": "classification", "labels": ["a", "b", "c"], "max_seq_len": 12}
    module, fresh = refit(share(base), changes)
    ours = adapt(module, method, fresh=fresh).eval()
    shake(ours, list(trained(ours)))
    (tmp_path / "adapter").mkdir()
    write(
        *(tmp_path / "adapter", ours, method, {}, list(trained(ours))),
        base="somewhere",
        changes=changes,
        fresh=fresh,
    )
    assert json.loads((tmp_path / "adapter" / CONFIG).read_text())["modules_to_save"] == [
        "classifier"
    ]
    assert_same(ours, peft.PeftModel.from_pretrained(theirs, tmp_path / "adapter").eval())
    model = as_model(base).load_adapter(tmp_path / "adapter")
    assert model.config.labels == ("a", "b", "c")
    assert torch.equal(*(both(each, theirs)[0] for each in (model.module, ours)))


def test_a_lora_is_cut_like_the_rows(twins: Callable[..., Any], tmp_path: Path) -> None:
    """q, k and v get the same A, and each a third of B."""
    base, _ = pair("bert", twins)
    ours = adapt(base, "lora", rank=2, target_modules=["blocks.1.attention.qkv"])
    shake(ours, list(trained(ours)))
    write(tmp_path, ours, "lora", {"rank": 2}, list(trained(ours)), base="somewhere")
    found = load_file(tmp_path / WEIGHTS)
    own = "base_model.model.bert.encoder.layer.1.attention.self"
    high = trained(ours)["blocks.1.attention.qkv.lora_B.weight"]
    for number, name in enumerate(("query", "key", "value")):
        low = found.pop(f"{own}.{name}.lora_A.weight")
        assert torch.equal(low, trained(ours)["blocks.1.attention.qkv.lora_A.weight"])
        part = found.pop(f"{own}.{name}.lora_B.weight")
        assert torch.equal(part, high[24 * number : 24 * (number + 1)])
    assert not found


def test_what_the_counterpart_cannot_be_has_our_names(tmp_path: Path) -> None:
    """BERT has no norm before its sublayers: the file is for our module, in PEFT too."""
    sizes = {"vocab_size": V, "max_seq_len": 20, "d_model": 16, "n_layers": 2, "n_heads": 2}
    base = zoo.create("encoder", **sizes, d_ff=24, norm="pre").eval()
    ours = adapt(share(base), "lora", rank=2).eval()
    shake(ours, list(trained(ours)))
    write(tmp_path, ours, "lora", {"rank": 2}, list(trained(ours)), base="somewhere")
    opened = peft.PeftModel.from_pretrained(share(base), tmp_path).eval()
    ids = torch.randint(1, V, (2, 7))
    with torch.no_grad():
        assert not torch.allclose(ours(ids), base(ids), atol=1e-2)
        torch.testing.assert_close(opened(ids), ours(ids), **CLOSE)
        again = as_model(base).load_adapter(tmp_path).module
        torch.testing.assert_close(again(ids), ours(ids), rtol=0, atol=0)


OWN = "base_model.model.bert.encoder.layer.0"


@pytest.mark.parametrize(
    ("method", "change", "words"),
    [
        ("some", lambda t: t.pop(f"{OWN}.attention.self.value.lora_B.weight"), "missing bert.enco"),
        (
            "some",
            lambda t: t.update({f"{OWN}.attention.self.query.lora_B.weight": torch.ones(1, 3)}),
            r"query.lora_B.weight has shape \(1, 3\), here it is \(24, 3\)",
        ),
        (
            "some",
            lambda t: t.update({f"{OWN}.attention.self.query.lora_A.weight": torch.ones(3, 7)}),
            "shapes",
        ),
        (
            "some",
            lambda t: t.update({f"{OWN}.attention.self.sum.lora_A.weight": torch.ones(3, 24)}),
            "Encoder has no bert.encoder.layer.0.attention.self.sum, and neither has its count",
        ),
        (
            "some",
            lambda t: t.pop("base_model.model.classifier.bias"),
            "missing head.bias",
        ),
        (
            "ia3",
            lambda t: t.update({f"{OWN}.attention.self.key.ia3_l": torch.ones(1, 1)}),
            r"key.ia3_l has shape \(1, 1\), here it is \(24, 1\)",
        ),
        (
            "ia3",
            lambda t: t.update({f"{OWN}.attention.self.key.ia3_l": torch.ones(1, 24)}),
            "factors on the inputs of",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    method: str,
    change: Callable[[dict[str, Tensor]], Any],
    words: str,
    twins: Callable[..., Any],
    tmp_path: Path,
) -> None:
    ours, theirs = pair("bert", twins)
    wrapped(theirs, config_of("bert", method)).save_pretrained(tmp_path / "adapter")
    tensors = load_file(tmp_path / "adapter" / WEIGHTS)
    change(tensors)
    save_file(tensors, tmp_path / "adapter" / WEIGHTS)
    model = as_model(ours)
    with pytest.raises(WeightsError, match=words):
        model.load_adapter(tmp_path / "adapter")
    assert model.adapters == []


def test_a_head_that_needs_a_pooler_is_refused_on_a_base_without(
    twins: Callable[..., Any], tmp_path: Path
) -> None:
    base, _ = twins(transformers.BertConfig(**BERT), transformers.AutoModelForMaskedLM)
    theirs = transformers.BertForSequenceClassification(transformers.BertConfig(**BERT))
    wrapped(theirs, config_of("bert", "some")).save_pretrained(tmp_path / "adapter")
    with pytest.raises(WeightsError, match="neither has its counterpart.*pooling='mean'"):
        as_model(base).load_adapter(tmp_path / "adapter")


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_an_adapter_of_what_was_made_here_opens_on_what_was_exported(
    positions: str,
    wide: Callable[..., nn.Module],
    exported: Callable[[nn.Module], nn.Module],
    tmp_path: Path,
) -> None:
    sizes = {"vocab_size": V, "max_seq_len": 20, "d_model": 16, "n_layers": 2, "n_heads": 2}
    base = wide("decoder", **sizes, d_ff=24, positions=positions)
    ours = adapt(share(base), "lora", rank=2).eval()
    shake(ours, list(trained(ours)))
    folder = tmp_path / "adapter"
    folder.mkdir()
    write(folder, ours, "lora", {"rank": 2}, list(trained(ours)), base="somewhere")
    assert_same(ours, peft.PeftModel.from_pretrained(exported(base), folder).eval())


@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_a_body_that_transformers_computes_has_pefts_names(
    method: str, twins: Callable[..., Any], tmp_path: Path
) -> None:
    """Here its parts stand under the name that they have in models with a head."""
    base, theirs = twins(transformers.RobertaConfig(**BERT, pad_token_id=1), transformers.AutoModel)
    ours = adapt(share(base), method).eval()
    shake(ours, list(trained(ours)))
    write(tmp_path, ours, method, {}, list(trained(ours)), base="somewhere")
    assert_same(ours, peft.PeftModel.from_pretrained(theirs, tmp_path).eval())
    again = as_model(base).load_adapter(tmp_path).module
    assert torch.equal(*(both(each, theirs)[0] for each in (again, ours)))
