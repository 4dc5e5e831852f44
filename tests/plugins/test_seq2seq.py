"""The encoder-decoder against Marian both ways, against `torch.nn.Transformer`, and cached."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from encoder_decoders import (
    CLOSE,
    attention_of,
    check_pieces,
    check_places,
    logits_of,
    opened,
    pairs,
    read,
    theirs_of,
    widen,
)
from torch import Tensor, nn
from zoo_seq2seq import model as file
from zoo_seq2seq.model import Seq2Seq, Seq2SeqConfig, sinusoids

from zoo.errors import ConfigError, ContextLengthError, WeightsError
from zoo.nn import SourceCache, record_attention

V, PAD, END = 37, 36, 2
MARIAN = {  # no two sizes alike, an odd width, padding that is not token 0
    "vocab_size": V,
    "d_model": 15,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 5,
    "decoder_attention_heads": 5,
    "encoder_ffn_dim": 22,
    "decoder_ffn_dim": 22,
    "max_position_embeddings": 13,
    "pad_token_id": PAD,
    "decoder_start_token_id": PAD,
    "eos_token_id": END,
    "forced_eos_token_id": None,
    "scale_embedding": True,
    "activation_function": "relu",
    "dropout": 0.1,
}
SIZES: dict[str, Any] = {
    "vocab_size": V,
    "max_seq_len": 13,
    "d_model": 18,
    "n_layers": 2,
    "n_encoder_layers": 3,
    "n_heads": 3,
    "d_ff": 22,
    "pad_id": PAD,
    "start_id": PAD,
    "end_id": END,
}


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def make(**changes: Any) -> Seq2Seq:
    return widen(Seq2Seq(Seq2SeqConfig(**{**SIZES, **changes})))


def batch() -> tuple[Tensor, Tensor]:
    """Three sources of 11, 7 and 1 tokens, padded on the right, and three targets of 9."""
    source, _, ids = pairs((11, 7, 1), 9, tokens=(3, PAD), pad=PAD, start=PAD)
    return source, ids


def marian(**changes: Any) -> Any:
    transformers = pytest.importorskip("transformers", reason="needs txzoo[hf]")
    config = transformers.MarianConfig(**{**MARIAN, **changes}, attn_implementation="eager")
    theirs = widen(transformers.MarianMTModel(config))
    theirs.final_logits_bias.normal_()
    return theirs


@pytest.mark.reference
@pytest.mark.parametrize("activation", ["relu", "gelu", "silu", "swish"])
def test_marian_loads_and_computes_the_same(activation: str, tmp_path: Path) -> None:
    theirs = marian(activation_function=activation)
    theirs.save_pretrained(tmp_path)
    ours = Seq2Seq.from_transformers(*read(tmp_path)).eval()
    source, ids = batch()
    expected = logits_of(theirs, source, ids)
    assert expected.std() > 0.5, "too tame to tell the two apart"
    torch.testing.assert_close(logits_of(ours, source, ids), expected, **CLOSE)
    assert (ours.config.n_layers, ours.config.n_encoder_layers, ours.max_len) == (2, 3, 13)
    assert (ours.config.pad_id, ours.config.start_id, ours.config.end_id) == (PAD, PAD, END)


@pytest.mark.reference
def test_memory_and_recorded_attention_are_marians() -> None:
    theirs = marian()
    ours = Seq2Seq.from_transformers(theirs.config.to_dict(), theirs.state_dict()).eval()
    source, ids = batch()
    real = source != PAD
    expected = theirs_of(theirs, source, ids)
    with torch.no_grad():
        memory = ours.encode(source)
        with record_attention() as layers:
            ours.decode(ids, memory, real)
    torch.testing.assert_close(memory[real], expected.encoder_last_hidden_state[real], **CLOSE)
    wanted = attention_of(theirs, source, ids)
    assert len(layers) == len(wanted) == 4
    for found, weights in zip(layers, wanted, strict=True):
        torch.testing.assert_close(found, weights, **CLOSE)


@pytest.mark.reference
@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_ours_opens_as_marian(activation: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs txzoo[hf]")
    ours = make(activation=activation, dropout=0.25)
    theirs = opened(ours, tmp_path)
    source, ids = batch()
    found = logits_of(ours, source, ids)
    torch.testing.assert_close(found, logits_of(theirs, source, ids), **CLOSE)
    again = Seq2Seq.from_transformers(*ours.to_transformers()).eval()
    assert again.config == ours.config
    assert torch.equal(logits_of(again, source, ids), found)


@pytest.mark.reference
def test_every_tensor_of_a_checkpoint_is_used_or_named() -> None:
    theirs = marian()
    settings, state = theirs.config.to_dict(), dict(theirs.state_dict())
    copy = "model.decoder.embed_tokens.weight"
    table = "model.encoder.embed_positions.weight"
    assert {copy, table, "lm_head.weight"} <= state.keys()  # a checkpoint as old ones are
    # files hold a shared matrix once, under any of its names
    alone = {name: tensor for name, tensor in state.items() if name not in (*file.COPIES[1:],)}
    del alone[file.SHARED]
    source, ids = batch()
    expected = logits_of(theirs, source, ids)
    for tensors in (state, alone):
        ours = Seq2Seq.from_transformers(settings, tensors).eval()
        torch.testing.assert_close(logits_of(ours, source, ids), expected, **CLOSE)

    key = "model.decoder.layers.1.encoder_attn.k_proj.bias"
    bias = "model.encoder.layers.0.fc1.bias"
    for changes, message in (
        ({copy: state[copy] + 1}, f"{copy} is not {file.SHARED}: they must be one matrix"),
        ({table: state[table] + 0.1}, f"{table} is not the table of sinusoidal positions"),
        ({"model.extra": state[bias]}, "left over \\['model.extra'\\]"),
        ({bias: None}, f"missing \\['{bias}'\\]"),
        ({bias: state[bias][1:]}, f"{bias} is \\(21,\\)"),
        ({key: None}, f"lacks {key}"),
    ):
        tensors = {name: t for name, t in {**state, **changes}.items() if t is not None}
        with pytest.raises(WeightsError, match=message):
            Seq2Seq.from_transformers(settings, tensors)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["MarianForCausalLM"]}, "MarianForCausalLM is not read; read is"),
        ({"decoder_vocab_size": 40}, "vocab_size=37 but decoder_vocab_size=40"),
        ({"encoder_attention_heads": 3}, "decoder_attention_heads=5 but encoder_attention_heads=3"),
        ({"decoder_ffn_dim": 8}, "decoder_ffn_dim=8 but encoder_ffn_dim=22"),
        ({"scale_embedding": False}, "scale_embedding=False is not read"),
        ({"share_encoder_decoder_embeddings": False}, "share_encoder_decoder_embeddings=False"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings=False"),
        ({"normalize_before": True}, "normalize_before=True"),
        ({"activation_function": "gelu_new"}, "one of relu, gelu, silu, got 'gelu_new'"),
        ({"static_position_embeddings": False}, "static_position_embeddings=False"),
        ({"eos_token_id": [0, 2]}, "end_id must be int, got \\[0, 2\\]"),
    ],
)
def test_what_is_no_marian_of_this_kind(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Seq2Seq.from_transformers({**MARIAN, **changes}, {})


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"norm": "pre"}, "norm='pre'"), ({"norm_eps": 1e-6}, "norm_eps=1e-06")],
)
def test_what_marian_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**changes).to_transformers()


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_equals_pytorchs_transformer(norm: str, activation: str) -> None:
    ours = make(norm=norm, activation=activation)
    c, state = ours.config, ours.state_dict()
    theirs = nn.Transformer(
        c.d_model,
        c.n_heads,
        c.n_encoder_layers,
        c.n_layers,
        c.d_ff,
        dropout=0.0,
        activation=activation,
        batch_first=True,
        norm_first=norm == "pre",
    ).eval()
    if norm == "post":  # PyTorch puts a norm more at the end of each stack
        theirs.encoder.norm = theirs.decoder.norm = None
    names = {
        "attention.qkv.": "self_attn.in_proj_",
        "attention.out.": "self_attn.out_proj.",
        "residual_1.norm.": "norm1.",
        "source_attention.out.": "multihead_attn.out_proj.",
        "residual_2.norm.": "norm2.",
        "feed_forward.up.": "linear1.",
        "feed_forward.down.": "linear2.",
        "residual_3.norm.": "norm3.",
    }
    copied = {}
    for stack, layers in (("encoder", c.n_encoder_layers), ("decoder", c.n_layers)):
        for kind in ("weight", "bias"):
            if norm == "pre":
                copied[f"{stack}.norm.{kind}"] = state[f"{stack}_norm.{kind}"]
            for layer in range(layers):
                at = f"{stack}.{layer}."
                for mine, other in names.items():
                    if f"{at}{mine}{kind}" in state:
                        copied[f"{stack}.layers.{layer}.{other}{kind}"] = state[f"{at}{mine}{kind}"]
                if stack == "decoder":
                    copied[f"{stack}.layers.{layer}.multihead_attn.in_proj_{kind}"] = torch.cat(
                        [state[f"{at}source_attention.{n}.{kind}"] for n in ("query", "key_value")]
                    )
    theirs.load_state_dict(copied)

    def embed(ids: Tensor) -> Tensor:
        x = state["embedding.weight"][ids] * math.sqrt(c.d_model)
        return x + torch.tensor([position(p, c.d_model) for p in range(ids.shape[1])])

    source, ids = batch()
    gone = source == PAD
    later = torch.triu(torch.ones(ids.shape[1], ids.shape[1], dtype=torch.bool), 1)
    with torch.no_grad():
        hidden = theirs(
            embed(source),
            embed(ids),
            tgt_mask=later,
            src_key_padding_mask=gone,
            memory_key_padding_mask=gone,
        )
        expected = hidden @ state["embedding.weight"].T + state["output_bias"]
    torch.testing.assert_close(logits_of(ours, source, ids), expected, **CLOSE)


def position(p: int, D: int) -> list[float]:
    """Section 3.5, a number at a time: sin of even columns, cos of odd ones; here in halves."""
    columns = [
        (math.cos if column % 2 else math.sin)(p / 10000 ** ((column - column % 2) / D))
        for column in range(D)
    ]
    return columns[0::2] + columns[1::2]


@pytest.mark.parametrize("width", [4, 16, 15])
def test_positions_are_the_papers(width: int) -> None:
    found = sinusoids(300, width)
    expected = torch.tensor([position(p, width) for p in range(300)])
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


def test_positions_by_hand() -> None:
    # position 1 of 4 columns: angles 1 and 1 / 10000^(2/4) = 0.01
    expected = torch.tensor([[0, 0, 1, 1], [0.8414710, 0.0099998, 0.5403023, 0.9999500]])
    torch.testing.assert_close(sinusoids(2, 4), expected, rtol=0, atol=1e-6)


def test_the_table_of_positions_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = make()
    monkeypatch.setattr(file, "FIRST_POSITIONS", 2)
    short = Seq2Seq(whole.config).eval()
    assert len(short.positions.table) == 2
    short.load_state_dict(whole.state_dict())  # strict: the table is no weight
    source, ids = batch()
    assert torch.equal(logits_of(short, source, ids), logits_of(whole, source, ids))
    assert len(short.positions.table) == whole.max_len  # never more, whatever the text


@pytest.mark.parametrize("norm", ["post", "pre"])
@pytest.mark.parametrize("pieces", [[1] * 9, [4, 1, 3, 1], [9]])
def test_piece_by_piece_equals_the_whole(norm: str, pieces: list[int]) -> None:
    check_pieces(make(norm=norm), *batch(), pieces)


def test_rows_that_share_a_source_and_change_places() -> None:
    check_places(make(), batch()[0], (3, PAD))


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_padding_and_neighbours_change_nothing_later_tokens_neither(norm: str) -> None:
    module = make(norm=norm)
    source, ids = batch()
    together = logits_of(module, source, ids)
    for row, length in enumerate((11, 7, 1)):
        one = source[row : row + 1, :length], ids[row : row + 1]
        torch.testing.assert_close(together[row : row + 1], logits_of(module, *one), **CLOSE)
        with torch.no_grad():  # without padding no mask is needed
            bare = module.decode(one[1], module.encode(one[0]), None)
        torch.testing.assert_close(together[row : row + 1], bare, **CLOSE)
    changed = ids.clone()
    changed[:, 5] = (ids[:, 5] + 1) % PAD
    after = logits_of(module, source, changed)
    torch.testing.assert_close(after[:, :5], together[:, :5], **CLOSE)
    assert (after - together)[:, 5:].abs().amax((1, 2)).min() > 1e-2
    other = source.clone()
    other[0, -1] = (source[0, -1] + 1) % PAD  # a token of the source reaches every place
    assert (logits_of(module, other, ids) - together)[0].abs().amax(-1).min() > 1e-4


@pytest.mark.parametrize("norm", ["post", "pre"])
def test_it_begins_even_and_learns_pairs_by_heart(norm: str) -> None:
    config = Seq2SeqConfig(**{**SIZES, "d_model": 36, "d_ff": 72, "dropout": 0.05, "norm": norm})
    module = Seq2Seq(config)
    weight = module.embedding.weight
    assert abs(weight.std().item() * math.sqrt(36) - 1) < 0.1
    source, ids = batch()
    targets = torch.cat([ids[:, 1:], torch.full((3, 1), END)], 1).flatten()
    optimizer = torch.optim.Adam(module.parameters(), lr=3e-3)
    losses = []
    for _ in range(70):
        loss = nn.functional.cross_entropy(module(source, ids).flatten(0, 1), targets)
        optimizer.zero_grad()
        loss.backward()
        if not losses:
            for name, parameter in module.named_parameters():
                assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        optimizer.step()
        losses.append(loss.item())
    assert abs(losses[0] - math.log(V)) < 1  # near the uniform guess
    assert losses[-1] < 0.3


def test_dropout_works_in_training_only() -> None:
    module, (source, ids) = make(dropout=0.3), batch()
    assert torch.equal(logits_of(module, source, ids), logits_of(module, source, ids))
    module.train()
    assert not torch.equal(logits_of(module, source, ids), logits_of(module, source, ids))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": "sandwich"}, "norm must be one of post, pre, got 'sandwich'"),
        ({"activation": "tanh"}, "activation must be one of relu, gelu, silu, got 'tanh'"),
        ({"n_encoder_layers": 0}, "n_encoder_layers must be above 0, got 0"),
        ({"n_heads": 4}, "d_model=18 must be a multiple of n_heads=4"),
        ({"start_id": V}, "start_id must be a token, 0 to 36: 37"),
        ({"pad_id": -1}, "pad_id must be a token, 0 to 36: -1"),
        ({"end_id": PAD}, "end_id and pad_id are both 36"),
    ],
)
def test_what_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Seq2SeqConfig(**{**SIZES, **changes})


@torch.no_grad()
def test_too_long() -> None:
    module = make()
    most, more = torch.full((1, 13), 5), torch.full((1, 14), 5)
    assert logits_of(module, most, most).shape == (1, 13, V)
    with pytest.raises(ContextLengthError, match="source has 14 tokens.*has 13 positions"):
        module(more, most)
    with pytest.raises(ContextLengthError, match="target has 14 tokens.*has 13 positions"):
        module(most, more)
    cache = SourceCache.of(module.config, 1, 20)
    memory = module.encode(most)
    module.decode(most, memory, None, cache)
    with pytest.raises(ContextLengthError, match="target has 14 tokens"):
        module.decode(most[:, :1], memory, None, cache)
