"""GPT-2 against `GPT2LMHeadModel`: every switch, both ways, with caches and beams."""

from pathlib import Path
from typing import Any

import pytest
import torch
from zoo_gpt2.model import ACTIVATIONS, GPT2, SYNONYMS

import zoo
from zoo.errors import ConfigError, ContextLengthError, WeightsError
from zoo.generation import GenerationOptions, generate

transformers = pytest.importorskip("transformers", reason="needs txzoo[hf]")

ODD = {"vocab_size": 53, "n_positions": 23, "n_embd": 15, "n_layer": 3, "n_head": 5}
KINDS: list[dict[str, Any]] = [
    {},
    {"n_inner": 26, "tie_word_embeddings": False, "layer_norm_epsilon": 3e-4},
    {"activation_function": "relu", "scale_attn_weights": False},
    {"activation_function": "gelu", "scale_attn_by_inverse_layer_idx": True},
    {"reorder_and_upcast_attn": True, "scale_attn_by_inverse_layer_idx": True},
]


def config_of(**kind: Any) -> Any:
    config = transformers.GPT2Config(**ODD, **kind, bos_token_id=None, eos_token_id=None)
    if config.reorder_and_upcast_attn:
        config._attn_implementation = "eager"  # the only one that reorders
    return config


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_checkpoint_computes_the_same_both_ways(
    twins, assert_twins, assert_same_tensors, exported, kind
) -> None:
    ours, theirs = twins(config_of(**kind))
    assert isinstance(ours, GPT2)
    assert ours.config.d_ff == kind.get("n_inner", 60)
    assert_twins(ours, theirs)
    assert_same_tensors(ours, theirs)
    prompt = torch.tensor([[5, 17, 3, 44]])
    expected = theirs.generate(
        prompt,
        generation_config=transformers.GenerationConfig(
            do_sample=False, num_beams=4, max_new_tokens=9, eos_token_id=None, pad_token_id=0
        ),
    )
    beams = generate(ours, prompt.tolist(), GenerationOptions(max_new_tokens=9, num_beams=4))
    assert beams.ids == expected[:, 4:].tolist()
    opened = exported(ours)
    assert type(opened).__name__ == "GPT2LMHeadModel"
    config, _ = ours.to_transformers()
    for key, value in kind.items():
        assert config.get(key, value) == value
    if not kind.get("reorder_and_upcast_attn"):
        assert_twins(ours, opened)


@pytest.mark.parametrize("name", [*ACTIVATIONS, *SYNONYMS])
def test_activations_are_those_of_transformers(name: str) -> None:
    from transformers.activations import ACT2FN

    x = torch.linspace(-6, 6, 301)
    ours = ACTIVATIONS[SYNONYMS.get(name, name)]
    torch.testing.assert_close(ours(x), ACT2FN[name](x), rtol=1e-5, atol=1e-6)


def test_dropouts_are_read_and_written() -> None:
    config = config_of(embd_pdrop=0.1, attn_pdrop=0.2, resid_pdrop=0.3)
    theirs = transformers.GPT2LMHeadModel(config)
    ours = GPT2.from_transformers(config.to_dict(), theirs.state_dict())
    c = ours.config
    assert (c.embedding_dropout, c.attention_dropout, c.dropout) == (0.1, 0.2, 0.3)
    assert ours.dropout.p == 0.1 and ours.blocks[0].attention.dropout == 0.2
    assert ours.blocks[2].dropout.p == 0.3
    written, _ = ours.to_transformers()
    for key in ("embd_pdrop", "attn_pdrop", "resid_pdrop"):
        assert written[key] == getattr(config, key)


def test_old_checkpoints_with_masks_and_without_prefix() -> None:
    config = config_of()
    model = transformers.GPT2LMHeadModel(config).eval()
    tensors = model.transformer.state_dict()
    for layer in range(ODD["n_layer"]):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 23, 23).tril().bool()
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    ours = GPT2.from_transformers(config.to_dict(), tensors).eval()
    ids = torch.randint(53, (2, 23))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), model(ids).logits)
    with pytest.raises(ContextLengthError, match="24 tokens, but this model learned 23 positions"):
        ours(torch.zeros(1, 24, dtype=torch.long))


def test_what_is_no_gpt2_is_refused() -> None:
    model = transformers.GPT2LMHeadModel(config_of())
    tensors, config = model.state_dict(), model.config.to_dict()
    for change, message in (
        ({"activation_function": "mish"}, "activation must be one of gelu_new, .* got 'mish'"),
        ({"add_cross_attention": True}, "only decoders are read"),
        ({"n_head": 4}, "d_model"),
        ({"n_layer": "3"}, "n_layers must be int, got '3'"),
    ):
        with pytest.raises(ConfigError, match=message):
            GPT2.from_transformers(config | change, tensors)
    more = {"transformer.h.9.ln_1.weight": torch.zeros(15)}
    with pytest.raises(WeightsError, match=r"left over \['h.9.ln_1.weight'\]"):
        GPT2.from_transformers(config, tensors | more)
    with pytest.raises(WeightsError, match="lm_head.weight is not wte.weight"):
        GPT2.from_transformers(config, tensors | {"lm_head.weight": torch.zeros(53, 15)})
    del tensors["transformer.wpe.weight"]
    with pytest.raises(WeightsError, match=r"missing \['wpe.weight'\]"):
        GPT2.from_transformers(config, tensors)


def test_gpt2_is_what_reads_gpt2(tmp_path: Path) -> None:
    transformers.GPT2LMHeadModel(config_of()).save_pretrained(tmp_path / "tiny")
    assert zoo.info(str(tmp_path / "tiny")).architecture == "gpt2"
    assert zoo.info(str(tmp_path / "tiny")).pipeline == "text-generation"
