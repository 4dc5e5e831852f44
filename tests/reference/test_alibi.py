"""ALiBi against BLOOM, and its slopes against the published ones."""

from dataclasses import replace

import pytest
import torch
from zoo_alibi.model import AlibiDecoder, distance_bias, slopes

from zoo.errors import ConfigError
from zoo.nn import causal_mask

transformers = pytest.importorskip("transformers", reason="needs txzoo[hf]")


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("heads", [3, 4, 6])
def test_bloom_loads_and_computes_the_same(
    twins, assert_twins, assert_same_tensors, tied, heads
) -> None:
    config = transformers.BloomConfig(
        vocab_size=53,
        hidden_size=12,
        n_layer=3,
        n_head=heads,
        layer_norm_epsilon=3e-4,
        tie_word_embeddings=tied,
    )
    ours, theirs = twins(config)
    assert_twins(ours, theirs, positions=False)
    assert_same_tensors(ours, theirs)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("d_ff", [5, 60])  # zeros fill it up to 4 * d_model = 60
def test_ours_opens_as_bloom(wide, exported, assert_twins, tied, d_ff) -> None:
    ours = wide(
        "alibi-decoder",
        vocab_size=37,
        max_seq_len=9,
        d_model=15,
        n_layers=2,
        n_heads=5,
        d_ff=d_ff,
        tie_embeddings=tied,
        norm_eps=1e-3,
    )
    theirs = exported(ours)
    assert type(theirs).__name__ == "BloomForCausalLM"
    assert_twins(ours, theirs, positions=False)


def test_without_its_norm_it_is_bloom_without_that_norm(twins, assert_twins) -> None:
    config = transformers.BloomConfig(vocab_size=29, hidden_size=12, n_layer=2, n_head=3)
    ours, theirs = twins(config)
    bare = AlibiDecoder(replace(ours.config, embedding_norm=False)).eval()
    kept = {name: t for name, t in ours.state_dict().items() if "norm_embedding" not in name}
    bare.load_state_dict(kept, strict=True)
    theirs.transformer.word_embeddings_layernorm = torch.nn.Identity()
    assert_twins(bare, theirs, positions=False)
    with pytest.raises(ConfigError, match="BLOOM has a norm after the embedding"):
        bare.to_transformers()


def test_what_bloom_cannot_be_is_refused(wide) -> None:
    sizes = {"vocab_size": 9, "max_seq_len": 9, "d_model": 8, "n_layers": 1, "n_heads": 2}
    with pytest.raises(ConfigError, match=r"4 \* d_model = 32, this one is 33"):
        wide("alibi-decoder", d_ff=33, **sizes).to_transformers()
    config = {"apply_residual_connection_post_layernorm": True}
    with pytest.raises(ConfigError, match="residuals"):
        AlibiDecoder.from_transformers(config, {})


def test_slopes_of_the_paper() -> None:
    """Section 3: for 8 heads 1/2^1 ... 1/2^8, for 16 heads 1/2^0.5, 1/2^1, 1/2^1.5 ... 1/2^8."""
    assert slopes(8).tolist() == [0.5, 0.25, 0.125, 0.0625, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    sixteen = [0.70710678, 0.5, 0.35355339, 0.25, 0.17677670, 0.125, 0.08838835, 0.0625]
    torch.testing.assert_close(slopes(16)[:8], torch.tensor(sixteen))
    torch.testing.assert_close(slopes(16)[-1].item(), 1 / 256)
    assert slopes(1).tolist() == [1 / 256]


@pytest.mark.parametrize("heads", [3, 6, 12, 8, 71, 112])
def test_slopes_of_bloom(heads: int) -> None:
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    # one row a head, slope * position: the difference between neighbours is the slope
    alibi = build_alibi_tensor(torch.ones(1, 3), heads, torch.float64).view(heads, 3)
    torch.testing.assert_close(slopes(heads).double(), alibi[:, 2] - alibi[:, 1])


def test_bias_falls_with_distance() -> None:
    bias = distance_bias(torch.tensor([0.5, 0.25]), causal_mask(2, 3))  # queries 1 and 2 of 0, 1, 2
    inf = float("inf")
    assert bias.tolist() == [
        [[[-0.5, 0.0, -inf], [-1.0, -0.5, 0.0]], [[-0.25, 0.0, -inf], [-0.5, -0.25, 0.0]]]
    ]
