"""The plain decoder against GPT-2, and its sinusoids against the formula."""

import cmath

import pytest
import torch
from zoo_decoder.model import Decoder, sinusoids

import zoo
from zoo.errors import ConfigError, WeightsError

transformers = pytest.importorskip("transformers", reason="needs txzoo[hf]")

ODD = {"vocab_size": 53, "n_positions": 23, "n_embd": 15, "n_layer": 3, "n_head": 5}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("n_inner", [None, 26])
def test_gpt2s_numbers_compute_the_same(
    twins, assert_twins, assert_same_tensors, tied, n_inner
) -> None:
    config = transformers.GPT2Config(
        **ODD, n_inner=n_inner, tie_word_embeddings=tied, layer_norm_epsilon=3e-4
    )
    _, theirs = twins(config)  # zoo.load gives a gpt2 of zoo_gpt2
    ours = Decoder.from_transformers(theirs.config.to_dict(), theirs.state_dict()).eval()
    assert ours.config.d_ff == (n_inner or 60)
    assert_twins(ours, theirs)
    assert_same_tensors(ours, theirs)


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
@pytest.mark.parametrize("tied", [True, False])
def test_ours_opens_as_gpt2(wide, exported, assert_twins, positions, tied) -> None:
    ours = wide(
        "decoder",
        vocab_size=37,
        max_seq_len=21,
        d_model=18,
        n_layers=2,
        n_heads=3,
        d_ff=31,
        positions=positions,
        tie_embeddings=tied,
        norm_eps=1e-3,
    )
    theirs = exported(ours)
    assert type(theirs).__name__ == "GPT2LMHeadModel"
    assert_twins(ours, theirs)


def test_old_checkpoints_with_masks_and_without_prefix() -> None:
    config = transformers.GPT2Config(**ODD)
    model = transformers.GPT2LMHeadModel(config).eval()
    tensors = model.transformer.state_dict()
    for layer in range(ODD["n_layer"]):
        tensors[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 23, 23).tril().bool()
        tensors[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
    ours = Decoder.from_transformers(config.to_dict(), tensors).eval()
    ids = torch.randint(53, (2, 23))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), model(ids).logits)


def test_checkpoints_that_compute_something_else_are_refused() -> None:
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**ODD))
    tensors, config = model.state_dict(), model.config.to_dict()
    for change in (
        {"activation_function": "relu"},
        {"scale_attn_by_inverse_layer_idx": True},
        {"scale_attn_weights": False},
    ):
        with pytest.raises(ConfigError, match="GPT-2 with"):
            Decoder.from_transformers(config | change, tensors)
    with pytest.raises(WeightsError, match=r"left over \['h.9.ln_1.weight'\]"):
        Decoder.from_transformers(
            config, tensors | {"transformer.h.9.ln_1.weight": torch.zeros(15)}
        )
    del tensors["transformer.wpe.weight"]
    with pytest.raises(WeightsError, match=r"missing \['wpe.weight'\]"):
        Decoder.from_transformers(config, tensors)


@pytest.mark.parametrize("width", [2, 7, 16])
def test_sinusoids_are_hands_of_clocks(width: int) -> None:
    """Pair i of the table is e^(i k omega^i), turned step by step, each a power of the first one.

    In section 3.5 the wavelengths form a geometric progression from 2 pi to 10000 * 2 pi.
    """
    length = 300
    expected = torch.zeros(length, width, dtype=torch.float64)
    for pair in range((width + 1) // 2):
        radians = 10000 ** (-2 * pair / width)  # a step
        hand = 1 + 0j
        for position in range(length):
            expected[position, 2 * pair] = hand.imag
            if 2 * pair + 1 < width:
                expected[position, 2 * pair + 1] = hand.real
            hand *= cmath.exp(1j * radians)
    torch.testing.assert_close(sinusoids(length, width).double(), expected, rtol=0, atol=1e-6)


def test_sinusoids_published_values() -> None:
    """The first positions of the table for width 4, by a pocket calculator."""
    table = sinusoids(3, 4)
    assert table[0].tolist() == [0, 1, 0, 1]
    torch.testing.assert_close(table[1], torch.tensor([0.841471, 0.540302, 0.0099998, 0.99995]))
    torch.testing.assert_close(table[2], torch.tensor([0.909297, -0.416147, 0.0199987, 0.9998]))


def test_sinusoids_go_on_past_the_table() -> None:
    config = {"vocab_size": 9, "d_model": 10, "n_layers": 1, "n_heads": 1, "d_ff": 8}
    short = zoo.create("decoder", max_seq_len=4, positions="sinusoidal", **config).eval()
    long = zoo.create("decoder", max_seq_len=64, positions="sinusoidal", **config).eval()
    long.load_state_dict(short.state_dict())
    ids = torch.randint(9, (1, 33))
    torch.testing.assert_close(short(ids), long(ids), rtol=0, atol=0)
