"""Relative biases against T5: the buckets, the bias, and the whole decoder stack."""

import pytest
import torch
from torch import nn
from zoo_relative.model import RelativeBias, RelativeConfig, bucket

import zoo
from zoo.errors import InputError
from zoo.export import export
from zoo.model import Model
from zoo.nn import Cache, causal_mask

transformers = pytest.importorskip("transformers", reason="needs txzoo[hf]")
t5 = pytest.importorskip("transformers.models.t5.modeling_t5")

SIZES = {
    "vocab_size": 41,
    "max_seq_len": 16,
    "d_model": 15,
    "n_layers": 3,
    "n_heads": 5,
    "d_ff": 22,
    "n_buckets": 10,
    "max_distance": 24,
    "norm_eps": 3e-4,
}


def t5_config(tied: bool = True) -> "transformers.T5Config":
    """The same sizes in T5's words."""
    return transformers.T5Config(
        vocab_size=41,
        d_model=15,
        d_kv=3,
        num_layers=3,
        num_decoder_layers=3,
        num_heads=5,
        d_ff=22,
        relative_attention_num_buckets=10,
        relative_attention_max_distance=24,
        layer_norm_epsilon=3e-4,
        feed_forward_proj="gated-gelu",
        is_decoder=True,
        is_encoder_decoder=False,
        use_cache=False,
        tie_word_embeddings=tied,
    )


@pytest.mark.parametrize(("buckets", "far"), [(32, 128), (10, 24), (7, 31), (2, 3), (64, 33)])
def test_buckets_are_t5s(buckets: int, far: int) -> None:
    distance = torch.arange(-5, 4 * far)
    expected = t5.T5Attention._relative_position_bucket(
        -distance, bidirectional=False, num_buckets=buckets, max_distance=far
    )
    assert torch.equal(bucket(distance, buckets, far), expected)


def test_buckets_by_hand() -> None:
    """32 buckets up to 128: 16 exact ones; then bucket 16 + floor(16 log(d / 16) / log(8))."""
    distance = [0, 1, 15, 16, 17, 18, 19, 63, 64, 127, 128, 5000]
    expected = [0, 1, 15, 16, 16, 16, 17, 26, 26, 31, 31, 31]
    assert bucket(torch.tensor(distance), 32, 128).tolist() == expected


@pytest.mark.parametrize("length", [1, 13, 40])
def test_bias_is_t5s_both_ways(length: int) -> None:
    ours = RelativeBias(RelativeConfig(**SIZES))
    theirs = t5.T5Attention(t5_config(), has_relative_attention_bias=True, layer_idx=0)
    table = theirs.relative_attention_bias
    mask = causal_mask(length, length)
    for source, target in ((table, ours), (ours, table)):
        nn.init.normal_(source.weight)
        with torch.no_grad():
            target.weight.copy_(source.weight)
            expected = theirs.compute_bias(length, length).masked_fill(~mask, -torch.inf)
            assert torch.equal(ours(mask), expected)


def test_bias_of_a_cached_step_is_t5s_last_row() -> None:
    ours = RelativeBias(RelativeConfig(**SIZES))
    theirs = t5.T5Attention(t5_config(), has_relative_attention_bias=True, layer_idx=0)
    with torch.no_grad():
        ours.weight.normal_()
        theirs.relative_attention_bias.weight.copy_(ours.weight)
        last = theirs.compute_bias(2, 33, past_seen_tokens=31).tril(31)
        assert torch.equal(ours(causal_mask(2, 33)).nan_to_num(neginf=0.0), last)


def pairs(ours: nn.Module, theirs: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Each parameter of our decoder beside T5's; our three attention projections are slices."""
    D = ours.config.d_model
    found = [(ours.token_embedding.weight, theirs.embed_tokens.weight)]
    first = theirs.block[0].layer[0].SelfAttention
    found.append((ours.relative_bias.weight, first.relative_attention_bias.weight))
    for mine, other in zip(ours.blocks, theirs.block, strict=True):
        attention, feed_forward = other.layer[0].SelfAttention, other.layer[-1].DenseReluDense
        for part, projection in enumerate((attention.q, attention.k, attention.v)):
            rows = mine.attention.qkv.weight[part * D : (part + 1) * D]
            found.append((rows, projection.weight))
        found += [
            (mine.attention.out.weight, attention.o.weight),
            (mine.norm_1.weight, other.layer[0].layer_norm.weight),
            (mine.norm_2.weight, other.layer[-1].layer_norm.weight),
            (mine.feed_forward.gate.weight, feed_forward.wi_0.weight),
            (mine.feed_forward.up.weight, feed_forward.wi_1.weight),
            (mine.feed_forward.down.weight, feed_forward.wo.weight),
        ]
    return [*found, (ours.norm.weight, theirs.final_layer_norm.weight)]


def without_cross_attention(stack: nn.Module) -> nn.Module:
    """T5's decoder stack as it runs without encoder states: those layers are never reached."""
    for block in stack.block:
        del block.layer[1]
    return stack.eval()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("back", [False, True], ids=["theirs to ours", "ours to theirs"])
def test_decoder_is_t5s_stack(wide, tied: bool, back: bool) -> None:
    ours = wide("relative-decoder", **SIZES, tie_embeddings=tied)
    theirs = without_cross_attention(t5.T5Stack(t5_config(tied)))
    copied = 0
    with torch.no_grad():
        if not back:
            for parameter in theirs.parameters():
                parameter.normal_(1.0 if parameter.dim() == 1 else 0.0, 0.3)
        for mine, other in pairs(ours, theirs):
            source, target = (mine, other) if back else (other, mine)
            target.copy_(source)
            copied += target.numel()
        head = ours.token_embedding.weight if tied else ours.head.weight
        # every number of both is in one of the pairs, but for our own head
        assert copied == sum(p.numel() for p in theirs.parameters())
        assert copied == sum(p.numel() for p in ours.parameters()) - (0 if tied else head.numel())

        ids = torch.randint(41, (3, 37))  # past the training length and past max_distance
        states = theirs(ids).last_hidden_state
        # T5ForConditionalGeneration, with config.scale_decoder_outputs: states * d_model**-0.5
        expected = (states * 15**-0.5 if tied else states) @ head.T
        assert expected.std() > 0.2
        torch.testing.assert_close(ours(ids), expected, rtol=1e-5, atol=2e-5)

        padding = torch.tensor([0, 5, 36])
        real = torch.arange(37) >= padding[:, None]
        cache = Cache.of(ours.config, 3, 37, padding=padding)
        logits = ours(ids, cache)
        for row, start in enumerate(padding.tolist()):
            states = theirs(ids[row : row + 1, start:]).last_hidden_state
            expected = (states * 15**-0.5 if tied else states) @ head.T
            torch.testing.assert_close(logits[row, real[row]], expected[0], rtol=1e-5, atol=2e-5)


def test_trained_model_is_t5s_stack() -> None:
    """The bundled weights, in T5's own code."""
    model = zoo.load("relative-lm")
    c = model.config
    config = transformers.T5Config(
        vocab_size=c.vocab_size,
        d_model=c.d_model,
        d_kv=c.d_model // c.n_heads,
        num_layers=c.n_layers,
        num_decoder_layers=c.n_layers,
        num_heads=c.n_heads,
        d_ff=c.d_ff,
        relative_attention_num_buckets=c.n_buckets,
        relative_attention_max_distance=c.max_distance,
        layer_norm_epsilon=c.norm_eps,
        feed_forward_proj="gated-gelu",
        is_decoder=True,
        is_encoder_decoder=False,
        use_cache=False,
    )
    theirs = without_cross_attention(t5.T5Stack(config))
    ids = torch.tensor([model.tokenizer.encode(model.card.example).ids])
    with torch.no_grad():
        for mine, other in pairs(model.module, theirs):
            other.copy_(mine)
        states = theirs(ids).last_hidden_state
        assert not c.tie_embeddings  # then T5 does not scale its states
        expected = states @ model.module.head.weight.T
    torch.testing.assert_close(model.module(ids), expected, rtol=1e-4, atol=1e-4)


def test_export_is_refused_with_the_way_out(wide, tmp_path) -> None:
    ours = wide("relative-decoder", **SIZES)
    model = Model(
        name="ours",
        module=ours,
        config=ours.config,
        tokenizer=None,
        pipeline="text-generation",
        card=None,
    )
    with pytest.raises(InputError, match=r"(?s)RelativeDecoder.*alibi-decoder.*save_pretrained"):
        export(model, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []
