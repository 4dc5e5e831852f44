"""RoPE against Llama, and its rotations against complex numbers."""

import cmath

import pytest
import torch
from zoo_rope.model import RopeDecoder, rates_of, rotate, rotations

from zoo.errors import ConfigError

transformers = pytest.importorskip("transformers", reason="needs txzoo[hf]")

ODD = {
    "vocab_size": 53,
    "hidden_size": 24,
    "intermediate_size": 37,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "max_position_embeddings": 23,
}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kv_heads", [6, 3, 2, 1])
def test_llama_loads_and_computes_the_same(
    twins, assert_twins, assert_same_tensors, tied, kv_heads
) -> None:
    config = transformers.LlamaConfig(
        **ODD,
        num_key_value_heads=kv_heads,
        tie_word_embeddings=tied,
        rms_norm_eps=3e-4,
        rope_parameters={"rope_type": "default", "rope_theta": 77.0},
        bos_token_id=None,
        eos_token_id=None,
    )
    ours, theirs = twins(config)
    assert ours.config.rope_theta == 77
    assert_twins(ours, theirs)
    assert_same_tensors(ours, theirs)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(("heads", "kv_heads"), [(9, 3), (3, 1), (1, 1)])
def test_ours_opens_as_llama(wide, exported, assert_twins, tied, heads, kv_heads) -> None:
    ours = wide(
        "rope-decoder",
        vocab_size=37,
        max_seq_len=9,
        d_model=18,
        n_layers=2,
        n_heads=heads,
        n_kv_heads=kv_heads,
        d_ff=31,
        rope_theta=123.0,
        tie_embeddings=tied,
        norm_eps=1e-3,
    )
    theirs = exported(ours)
    assert type(theirs).__name__ == "LlamaForCausalLM"
    assert_twins(ours, theirs)


def test_configs_as_older_versions_write_them() -> None:
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(**ODD, rope_parameters={"rope_type": "default", "rope_theta": 5.0})
    )
    config = model.config.to_dict()
    del config["rope_parameters"], config["head_dim"]
    config |= {"rope_theta": 5.0, "rope_scaling": None}
    tensors = model.state_dict() | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(2)}
    ours = RopeDecoder.from_transformers(config, tensors)
    ids = torch.randint(53, (2, 15))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), model(ids).logits)


@pytest.mark.parametrize(
    "change",
    [
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
        {"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"hidden_act": "gelu"},
        {"head_dim": 6},
    ],
)
def test_checkpoints_that_compute_something_else_are_refused(change) -> None:
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**ODD))
    with pytest.raises(ConfigError, match="Llama with"):
        RopeDecoder.from_transformers(model.config.to_dict() | change, model.state_dict())


def test_rotation_is_a_product_of_complex_numbers() -> None:
    """Eq. 12 to 16: pair j of the vector at position m is multiplied by e^(i m theta^(-2j/E))."""
    E, theta = 6, 50.0
    vector = [0.3, -1.2, 2.0, 0.7, -0.4, 1.1]
    for position in (0, 1, 17):
        expected = []
        for j in range(E // 2):
            turned = complex(vector[2 * j], vector[2 * j + 1])
            turned *= cmath.exp(1j * position * theta ** (-2 * j / E))
            expected += [turned.real, turned.imag]
        turns = rotations(torch.tensor([[position]]), rates_of(E, theta))
        actual = rotate(torch.tensor(vector).view(1, 1, 1, E), turns).flatten()
        torch.testing.assert_close(actual, torch.tensor(expected), rtol=1e-5, atol=1e-5)


def test_scores_depend_on_the_distance_alone() -> None:
    q, k = torch.randn(2, 1, 1, 1, 8, dtype=torch.float32)

    def score(m: int, n: int) -> torch.Tensor:
        turn = [rotations(torch.tensor([[position]]), rates_of(8, 10000.0)) for position in (m, n)]
        return (rotate(q, turn[0]) * rotate(k, turn[1])).sum()

    torch.testing.assert_close(score(9, 4), score(105, 100), rtol=1e-4, atol=1e-4)
    assert (score(9, 4) - score(9, 5)).abs() > 1e-3
