"""The encoder with distances against PyTorch's own layers, and what distances give for nothing."""

from typing import Any

import pytest
import torch
from torch import nn
from zoo_encoder.alibi import AlibiEncoder, AlibiEncoderConfig

from zoo.errors import ConfigError

CLOSE = {"rtol": 1e-5, "atol": 2e-5}
V, D, H, F = 31, 12, 6, 20
# Press et al. 2022, the authors' code, for three heads: two of a power of two, then one between;
# three look back by them, three ahead
SLOPES = (1 / 16, 1 / 256, 1 / 4)


def encoder(**changes: Any) -> AlibiEncoder:
    values = {"vocab_size": V, "max_seq_len": 9, "d_model": D, "n_layers": 2, "n_heads": H}
    values |= {"d_ff": F, "head": "masked-language", "norm_eps": 1e-6}
    torch.manual_seed(1)
    module = AlibiEncoder(AlibiEncoderConfig.from_dict({**values, **changes}))
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return module.eval()


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Three rows of 9, 5 and 1 tokens, padded on the right."""
    ids = torch.randint(1, V, (3, 9), generator=torch.Generator().manual_seed(2))
    return ids, torch.arange(9) < torch.tensor([9, 5, 1])[:, None]


@pytest.mark.parametrize("norm", ["pre", "post"])
@torch.no_grad()
def test_blocks_are_those_of_torch_with_a_mask_of_distances(norm: str) -> None:
    ours: Any = encoder(norm=norm)
    ids, real = batch()
    x = ours.token_embedding(ids) + ours.segment_embedding.weight[0]
    if norm == "post":
        x = nn.functional.layer_norm(x, (D,), ours.norm.weight, ours.norm.bias, 1e-6)
    mask = torch.empty(3, H, 9, 9)
    for row in range(3):
        for head, slope in enumerate(SLOPES + SLOPES):
            for t in range(9):
                for s in range(9):
                    there = s <= t if head < 3 else s >= t
                    seen = s == t or (there and real[row, s])
                    mask[row, head, t, s] = -slope * abs(t - s) if seen else -torch.inf
    for block in ours.blocks:
        layer = nn.TransformerEncoderLayer(
            D, H, F, 0.0, "gelu", 1e-6, batch_first=True, norm_first=norm == "pre"
        )  # not .eval(), whose fast path takes numbers in a mask for yes and no
        layer.self_attn.in_proj_weight.copy_(block.attention.qkv.weight)
        layer.self_attn.in_proj_bias.copy_(block.attention.qkv.bias)
        for theirs, own in (
            (layer.self_attn.out_proj, block.attention.out),
            (layer.linear1, block.up),
            (layer.linear2, block.down),
            (layer.norm1, block.norm_1),
            (layer.norm2, block.norm_2),
        ):
            theirs.weight.copy_(own.weight)
            theirs.bias.copy_(own.bias)
        x = layer(x, src_mask=mask.view(-1, 9, 9))
    if norm == "pre":
        x = nn.functional.layer_norm(x, (D,), ours.norm.weight, ours.norm.bias, 1e-6)
    torch.testing.assert_close(ours.hidden(ids, real)[real], x[real], **CLOSE)


@torch.no_grad()
def test_the_same_words_elsewhere_are_read_alike() -> None:
    """Only distances count: what stands around a token, not where."""
    module = encoder()
    ids = batch()[0][:1]
    moved = torch.cat([torch.full((1, 4), 5), ids], dim=1)
    real = torch.cat([torch.zeros(1, 4), torch.ones(1, 9)], dim=1).bool()
    torch.testing.assert_close(
        module.hidden(moved, real)[:, 4:], module.hidden(ids, real[:, 4:]), **CLOSE
    )


@torch.no_grad()
def test_a_text_read_backwards_is_another_text() -> None:
    module, ids = encoder(), batch()[0][:1]
    backwards = module.hidden(ids.flip(1)).flip(1)
    assert (backwards - module.hidden(ids)).abs().max() > 0.1


@torch.no_grad()
def test_padding_is_read_without_nan_and_changes_nothing() -> None:
    module, (ids, real) = encoder(), batch()
    hidden = module.hidden(ids, real)
    assert hidden.isfinite().all()
    torch.testing.assert_close(hidden[1:2, :5], module.hidden(ids[1:2, :5]), **CLOSE)


def test_a_head_for_each_direction() -> None:
    with pytest.raises(ConfigError, match="n_heads is 3.* must be even"):
        encoder(n_heads=3)


@torch.no_grad()
def test_texts_of_any_length_are_read() -> None:
    ids = torch.randint(1, V, (1, 500), generator=torch.Generator().manual_seed(2))
    assert encoder()(ids).isfinite().all()


def test_bert_has_no_distances() -> None:
    with pytest.raises(ConfigError, match="fall off with the distance"):
        encoder().to_transformers()
    with pytest.raises(ConfigError, match="fall off with the distance"):
        AlibiEncoder.from_transformers({}, {})
