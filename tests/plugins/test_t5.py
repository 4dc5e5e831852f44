"""T5 against `transformers` both ways, cached, and its span corruption against the paper."""

import json
import math
import random
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import zoo_t5
from encoder_decoders import (
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
from tokenizers import Tokenizer
from torch import Tensor, nn
from zoo_t5 import model as file
from zoo_t5.model import T5, T5Config, bucket

from zoo.errors import ConfigError, InputError, TrainingError, WeightsError
from zoo.model import Model
from zoo.nn import SourceCache, record_attention
from zoo.pipelines.reading import Reader
from zoo.pipelines.text2text import Text2Text
from zoo.registry import resolve
from zoo.tasks.spans import (
    Hiding,
    SpanBatches,
    SpanCorruption,
    corrupt,
    draw_spans,
    hide_spans,
    sentinels_of,
)
from zoo.tokenization import build_tokenizer, end_texts

CLOSE = {"rtol": 1e-5, "atol": 3e-5}
V, PAD, END = 37, 36, 2
T5_SIZES = {  # no two sizes alike, heads not as wide together as d_model, padding not token 0
    "vocab_size": V,
    "d_model": 15,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 5,
    "d_kv": 4,
    "d_ff": 22,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 10,  # shorter than the sources below
    "layer_norm_epsilon": 1e-2,
    "dropout_rate": 0.1,
    "pad_token_id": PAD,
    "decoder_start_token_id": PAD,
    "eos_token_id": END,
}
KINDS: dict[str, dict[str, Any]] = {  # as config.json has it
    "original": {"feed_forward_proj": "relu"},
    "1.1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
}
OURS: dict[str, dict[str, Any]] = {
    "original": {"activation": "relu", "tie_embeddings": True},
    "1.1": {},
}
SIZES: dict[str, Any] = {
    "vocab_size": V,
    "max_seq_len": 13,
    "d_model": 18,
    "n_layers": 2,
    "n_encoder_layers": 3,
    "n_heads": 3,
    "d_head": 5,
    "d_ff": 22,
    "n_buckets": 9,
    "max_distance": 11,
    "norm_eps": 1e-3,
    "pad_id": PAD,
    "start_id": PAD,
    "end_id": END,
}
S, T = 17, 14
both_kinds = pytest.mark.parametrize("kind", ["original", "1.1"])


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def make(kind: str = "1.1", **changes: Any) -> T5:
    return widen(T5(T5Config(**{**SIZES, **OURS[kind], **changes})), tables=0.8)


def batch() -> tuple[Tensor, Tensor]:
    """Three sources of 17, 12 and 1 tokens, padded on the right, and three targets of 14."""
    source, _, ids = pairs((S, 12, 1), T, tokens=(3, PAD), pad=PAD, start=PAD)
    return source, ids


def reference(kind: str, **changes: Any) -> Any:
    transformers = pytest.importorskip("transformers", reason="needs txzoo[hf]")
    settings = {**T5_SIZES, **KINDS[kind], **changes}
    theirs = transformers.T5ForConditionalGeneration(
        transformers.T5Config(**settings, attn_implementation="eager")
    )
    if kind == "1.1":  # its published weights have an output matrix of their own
        theirs.lm_head.weight = nn.Parameter(torch.randn_like(theirs.lm_head.weight) / 3)
    return widen(theirs, tables=0.8)


@pytest.mark.reference
@both_kinds
def test_t5_loads_and_computes_the_same(kind: str, tmp_path: Path) -> None:
    theirs = reference(kind)
    theirs.save_pretrained(tmp_path)
    settings, tensors = read(tmp_path)
    source, ids = batch()
    expected = logits_of(theirs, source, ids)
    assert expected.std() > 0.3, "too tame to tell the two apart"
    published = {**T5_SIZES, **KINDS[kind], "architectures": ["T5WithLMHeadModel"]}
    for config in (settings, published):
        ours = T5.from_transformers(config, tensors).eval()
        torch.testing.assert_close(logits_of(ours, source, ids), expected, **CLOSE)
    c = ours.config
    assert (c.n_layers, c.n_encoder_layers, c.d_head, c.max_seq_len) == (2, 3, 4, 512)
    assert (c.pad_id, c.start_id, c.end_id, c.dropout) == (PAD, PAD, END, 0.1)
    assert ours.max_len is None


@pytest.mark.reference
@both_kinds
def test_memory_recorded_attention_and_dropout_are_t5s(kind: str) -> None:
    theirs = reference(kind, dropout_rate=0.25)
    settings = {**T5_SIZES, **KINDS[kind], "dropout_rate": 0.25}
    ours = T5.from_transformers(settings, theirs.state_dict()).eval()
    source, ids = batch()
    real = source != PAD
    given = {"attention_mask": real.long(), "decoder_input_ids": ids}
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

    # dropout stands in the same places: from one seed both leave the same numbers out
    ours.train(), theirs.train()
    torch.manual_seed(5)
    dropped = theirs(source, **given).logits
    torch.manual_seed(5)
    with record_attention():
        torch.testing.assert_close(ours(source, ids), dropped, **CLOSE)
    assert (dropped - expected.logits).abs().max() > 0.5


@pytest.mark.reference
@both_kinds
def test_ours_opens_as_t5(kind: str, tmp_path: Path) -> None:
    pytest.importorskip("transformers", reason="needs txzoo[hf]")
    ours = make(kind, dropout=0.25)
    theirs = opened(ours, tmp_path)
    source, ids = batch()
    found = logits_of(ours, source, ids)
    assert found.std() > 0.3
    torch.testing.assert_close(found, logits_of(theirs, source, ids), **CLOSE)
    again = T5.from_transformers(*ours.to_transformers()).eval()
    assert again.config == ours.config
    assert torch.equal(logits_of(again, source, ids), found)


@pytest.mark.reference
@both_kinds
def test_it_writes_what_t5_writes(kind: str) -> None:
    tokenizer = build_tokenizer(" ".join(f"w{n}" for n in range(35)), {"kind": "word"})
    end_texts(tokenizer)
    pad, end = (tokenizer.token_to_id(name) for name in ("<pad>", "<|endoftext|>"))
    tokens = {"pad_token_id": pad, "decoder_start_token_id": pad, "eos_token_id": end}
    changes = {**tokens, "vocab_size": tokenizer.get_vocab_size()}
    theirs = reference(kind, **changes)
    with torch.no_grad():  # livelier, so that answers differ
        for name, parameter in theirs.named_parameters():
            if parameter.dim() > 1 and "lm_head" not in name:
                cross = "EncDecAttention" in name
                parameter.mul_(0.1 if "shared" in name else 3 if cross else 2)
    settings = {**T5_SIZES, **KINDS[kind], **changes}
    module = T5.from_transformers(settings, theirs.state_dict()).eval()
    texts = ["w1 w2 w3 w4 w5 w6 w7 w1 w2 w9 w30 w11 w12", "w8", "w9 w10 w11"]
    rows = [tokenizer.encode(text).ids for text in texts]
    ids = torch.tensor([row + [pad] * (len(rows[0]) - len(row)) for row in rows])
    model: Any = SimpleNamespace(
        name="tiny", module=module, config=module.config, tokenizer=tokenizer, device="cpu"
    )
    for beams in (1, 4):
        done = theirs.generate(
            ids,
            attention_mask=(ids != pad).long(),
            max_new_tokens=9,
            num_beams=beams,
            do_sample=False,
        )
        expected = [tokenizer.decode(row.tolist()) for row in done]
        found = Text2Text(model)(texts, max_new_tokens=9, num_beams=beams)
        assert found == expected
        assert len(set(expected)) == len(texts)


@pytest.mark.reference
def test_a_new_1_1_whose_output_is_its_embeddings(tmp_path: Path) -> None:
    # transformers 5 makes it so, and notes in config.json that states are not divided
    theirs = reference("1.1")
    theirs.lm_head.weight = theirs.shared.weight
    theirs.shared.weight.data /= 4
    theirs.save_pretrained(tmp_path)
    settings, tensors = read(tmp_path)
    if "scale_decoder_outputs" not in settings:
        pytest.skip("transformers before 5 keeps the two apart")
    assert "lm_head.weight" not in tensors
    source, ids = batch()
    ours = T5.from_transformers(settings, tensors).eval()
    torch.testing.assert_close(
        logits_of(ours, source, ids), logits_of(theirs, source, ids), **CLOSE
    )
    del settings["scale_decoder_outputs"]
    with pytest.raises(WeightsError, match="missing \\['lm_head.weight'\\]"):
        T5.from_transformers({**settings, "tie_word_embeddings": False}, tensors)


@pytest.mark.reference
def test_every_tensor_of_a_checkpoint_is_used_or_named() -> None:
    theirs = reference("original")
    settings, state = {**T5_SIZES, **KINDS["original"]}, dict(theirs.state_dict())
    copy, output = "decoder.embed_tokens.weight", "lm_head.weight"
    assert {copy, output, *file.COPIES} <= state.keys()  # a checkpoint as old ones are
    unread = {f"decoder.block.0.layer.1{file.UNUSED[0]}": torch.ones(8, 5)}
    gone = {file.SHARED, output, copy}  # files hold a shared matrix once, under any of its names
    alone = {name: tensor for name, tensor in state.items() if name not in gone}
    source, ids = batch()
    expected = logits_of(theirs, source, ids)
    for tensors in (state, alone, state | unread):
        ours = T5.from_transformers(settings, tensors).eval()
        torch.testing.assert_close(logits_of(ours, source, ids), expected, **CLOSE)

    key = "decoder.block.1.layer.1.EncDecAttention.k.weight"
    up = "encoder.block.0.layer.1.DenseReluDense.wi.weight"
    table = "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    for changes, message in (
        ({copy: state[copy] + 1}, f"{copy} is not shared.weight: they must be one matrix"),
        ({output: state[output] + 1}, f"{output} is not shared.weight"),
        ({"encoder.extra": state[up]}, "left over \\['encoder.extra'\\]"),
        ({up: None}, f"missing \\['{up}'\\]"),
        ({up: state[up][1:]}, f"{up} is \\(21, 15\\), T5.encoder.0.feed_forward.up.weight is \\("),
        ({table: state[table][1:]}, f"{table} is \\(7, 5\\)"),
        ({key: None}, f"lacks {key}"),
        ({key: state[key][:, 1:]}, f"{key} is \\(20, 14\\), .* they must be of one shape"),
    ):
        tensors = {name: t for name, t in {**state, **changes}.items() if t is not None}
        with pytest.raises(WeightsError, match=message):
            T5.from_transformers(settings, tensors)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["T5EncoderModel"]}, "T5EncoderModel is not read; read is T5ForCond"),
        ({"feed_forward_proj": "gated-silu"}, "one of gated-gelu, relu, got 'gated-silu'"),
        ({"eos_token_id": [0, 2]}, "end_id must be int, got \\[0, 2\\]"),
        ({"d_kv": None}, "needs a value for d_head"),
    ],
)
def test_what_is_no_t5_of_this_kind(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        T5.from_transformers({**T5_SIZES, **changes}, {})


def test_what_published_files_leave_out() -> None:
    sizes = {"vocab_size": V, "d_model": 8, "num_layers": 3, "num_heads": 2, "d_kv": 4, "d_ff": 9}
    twin = T5(
        T5Config(
            vocab_size=V,
            max_seq_len=512,
            d_model=8,
            n_layers=3,
            n_encoder_layers=3,
            n_heads=2,
            d_head=4,
            d_ff=9,
            n_buckets=32,
            max_distance=128,
            activation="relu",
            tie_embeddings=True,
            dropout=0.1,
            norm_eps=1e-6,
            pad_id=0,
            start_id=0,
            end_id=1,
        )
    )
    assert T5.from_transformers(sizes, twin.to_transformers()[1]).config == twin.config


@pytest.mark.reference
def test_weights_begin_as_t5s() -> None:
    sizes = {"vocab_size": 300, "d_model": 48, "d_kv": 9, "d_ff": 90, "num_heads": 6}
    pytest.importorskip("transformers", reason="needs txzoo[hf]")
    from transformers import T5Config as Settings
    from transformers import T5ForConditionalGeneration

    buckets = {"relative_attention_num_buckets": 64, "relative_attention_max_distance": 80}
    for kind in KINDS:
        settings = {**T5_SIZES, **KINDS[kind], **sizes, **buckets}
        theirs = T5ForConditionalGeneration(Settings(**settings)).state_dict()
        config = T5.from_transformers(settings, theirs).config
        ours = T5(config)
        for name, tensor in ours.to_transformers()[1].items():
            if name == "lm_head.weight":  # of D numbers with deviation 1 the sum has D^-0.5 of it
                assert tensor.std().item() == pytest.approx(48**-0.5, rel=0.1)
            elif tensor.dim() > 1:
                assert tensor.std().item() == pytest.approx(theirs[name].std().item(), rel=0.25)
                assert abs(tensor.mean()) < 0.2 * tensor.std()
            else:
                assert torch.equal(tensor, torch.ones_like(tensor))


@pytest.mark.reference
@pytest.mark.parametrize(("count", "most"), [(32, 128), (8, 10), (9, 11), (4, 3), (64, 200)])
def test_buckets_are_t5s(count: int, most: int) -> None:
    modeling = pytest.importorskip("transformers.models.t5.modeling_t5", reason="needs txzoo[hf]")
    distance = torch.arange(-300, 301)
    for both in (True, False):
        theirs = modeling.T5Attention._relative_position_bucket(-distance, both, count, most)
        assert torch.equal(bucket(distance, count, most, both), theirs)


def test_buckets_by_hand() -> None:
    # 16 of 32 for each direction, 8 of these exact: 8 + 8 ln(d / 8) / ln(16) from 8 to 127
    distances = [0, 1, 7, 8, 11, 12, 32, 64, 127, 128, 9999]
    expected = [0, 1, 7, 8, 8, 9, 12, 14, 15, 15, 15]
    assert bucket(torch.tensor(distances), 32, 128, True).tolist() == expected
    later = [16 + b if b else 0 for b in expected]
    assert bucket(-torch.tensor(distances), 32, 128, True).tolist() == later
    assert bucket(torch.tensor([-9, -1, 0, 15, 16, 32, 9999]), 32, 128, False).tolist() == [
        *(0, 0, 0, 15, 16, 21, 31)
    ]


@both_kinds
@pytest.mark.parametrize("pieces", [[1] * T, [5, 1, 6, 2], [T]])
def test_piece_by_piece_equals_the_whole(kind: str, pieces: list[int]) -> None:
    check_pieces(make(kind), *batch(), pieces)


def test_targets_padded_on_the_left_in_a_cache() -> None:
    module = make()
    source, ids = batch()
    padding = torch.tensor([0, 3, 11])
    cache = SourceCache.of(module.config, 3, T, padding=padding)
    with torch.no_grad():
        memory, real = module.encode(source), source != PAD
        found = torch.cat([module.decode(p, memory, real, cache) for p in ids.split([9, 5], 1)], 1)
    for row, start in enumerate(padding.tolist()):
        alone = logits_of(module, source[row : row + 1], ids[row : row + 1, start:])
        torch.testing.assert_close(found[row : row + 1, start:], alone, **CLOSE)


def test_rows_that_share_a_source_and_change_places() -> None:
    check_places(make(), batch()[0], (3, PAD))


@both_kinds
def test_padding_and_neighbours_change_nothing_later_tokens_neither(kind: str) -> None:
    module = make(kind)
    source, ids = batch()
    together = logits_of(module, source, ids)
    for row, length in enumerate((S, 12, 1)):
        one = source[row : row + 1, :length], ids[row : row + 1]
        torch.testing.assert_close(together[row : row + 1], logits_of(module, *one), **CLOSE)
        with torch.no_grad():  # without padding no mask is needed
            bare = module.decode(one[1], module.encode(one[0]), None)
        torch.testing.assert_close(together[row : row + 1], bare, **CLOSE)
    shown = torch.ones_like(source, dtype=torch.bool)  # told, padding is a token as any other
    with torch.no_grad():
        assert (module(source, ids, shown) - together)[2].abs().max() > 0.1
        assert (module.encode(source, shown) - module.encode(source))[2, 0].abs().max() > 0.1
    changed = ids.clone()
    changed[:, 5] = (ids[:, 5] + 1) % PAD
    after = logits_of(module, source, changed)
    torch.testing.assert_close(after[:, :5], together[:, :5], **CLOSE)
    assert (after - together)[:, 5:].abs().amax((1, 2)).min() > 1e-2
    other = source.clone()
    other[0, -1] = (source[0, -1] + 1) % PAD  # a token of the source reaches every place
    assert (logits_of(module, other, ids) - together)[0].abs().amax(-1).min() > 1e-4


@both_kinds
def test_it_begins_even_and_learns_pairs_by_heart(kind: str) -> None:
    sizes = {"d_model": 36, "d_head": 12, "d_ff": 72, "dropout": 0.05}
    module = T5(T5Config(**{**SIZES, **OURS[kind], **sizes}))
    source, ids = batch()
    targets = torch.cat([ids[:, 1:], torch.full((3, 1), END)], 1).flatten()
    optimizer = torch.optim.Adam(module.parameters(), lr=6e-3)
    losses = []
    for _ in range(40):
        loss = nn.functional.cross_entropy(module(source, ids).flatten(0, 1), targets)
        optimizer.zero_grad()
        loss.backward()
        if not losses:
            for name, parameter in module.named_parameters():
                assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        optimizer.step()
        losses.append(loss.item())
    assert abs(losses[0] - math.log(V)) < 1.5  # near the uniform guess
    assert losses[-1] < 0.3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "silu"}, "activation must be one of gated-gelu, relu, got 'silu'"),
        ({"n_encoder_layers": 0}, "n_encoder_layers must be above 0, got 0"),
        ({"d_head": 0}, "d_head must be above 0, got 0"),
        ({"n_buckets": 3}, "n_buckets must be at least 4.*n_buckets=3, max_distance=11"),
        ({"n_buckets": 22}, "half of it below max_distance, got n_buckets=22, max_distance=11"),
        ({"start_id": V}, "start_id must be a token, 0 to 36: 37"),
        ({"pad_id": -1}, "pad_id must be a token, 0 to 36: -1"),
        ({"end_id": PAD}, "end_id and pad_id are both 36"),
    ],
)
def test_what_cannot_be(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        T5Config(**{**SIZES, **changes})


def test_the_entry_names_what_is_there() -> None:
    (entry,) = zoo_t5.txzoo_architectures()
    assert resolve(entry.target) is T5
    assert (entry.name, entry.model_types) == ("t5", ("t5",))
    for values in entry.tiny:  # each variant is a config that goes to JSON and back
        config = T5Config(**{**SIZES, **values})
        assert T5Config.from_dict(json.loads(json.dumps(config.to_dict()))) == config
        assert T5(config).to_transformers()[0]["tie_word_embeddings"] is config.tie_embeddings


# span corruption


def together(source: Sequence[int], target: Sequence[int], sentinels: Sequence[int]) -> list[int]:
    """The text again: each sentinel of the source replaced by what follows it in the target."""
    hidden: dict[int, list[int]] = {}
    for token in target:
        if token in sentinels:
            assert token not in hidden
            last = hidden[token] = []
        else:
            last.append(int(token))
    assert last == []  # behind the last sentinel nothing follows
    assert list(hidden) == list(sentinels[: len(hidden)])  # in their order
    assert [token for token in source if token in sentinels] == list(hidden)[:-1]
    return [t for token in source for t in hidden.get(int(token), [int(token)])]


def test_figure_2() -> None:
    words = "Thank you for inviting me to your party last week ."
    number = {word: index for index, word in enumerate([*words.split(), "<X>", "<Y>", "<Z>"])}
    ids = np.array([number[word] for word in words.split()], dtype=np.int32)
    sentinels = [number["<X>"], number["<Y>"], number["<Z>"]]
    source, target = corrupt(ids, [(2, 4), (8, 9)], sentinels)
    word = {index: word for word, index in number.items()}
    assert " ".join(word[t] for t in source) == "Thank you <X> me to your party <Y> week ."
    assert " ".join(word[t] for t in target) == "<X> for inviting <Y> last <Z>"
    with pytest.raises(InputError, match="2 spans of 11 tokens need 3 sentinels.*there are 2"):
        corrupt(ids, [(2, 4), (8, 9)], sentinels[:2])


def test_shown_and_hidden_are_the_text_again() -> None:
    generator = np.random.default_rng(3)
    sentinels = list(range(999, 899, -1))  # T5's go down
    for length in [*range(1, 60), 500, 1980]:
        ids = generator.integers(900, size=length).astype(np.int32)
        before = ids.copy()
        for share, mean in ((0.15, 3.0), (0.5, 10.0), (1.0, 1.0)):
            if length > 100 and share > 0.15:
                continue
            source, target = hide_spans(ids, sentinels, generator, share, mean)
            assert together(source.tolist(), target.tolist(), sentinels) == before.tolist()
            spans = np.isin(source, sentinels).sum()
            assert 1 <= spans == len(target) - (length - len(source) + spans) - 1
            if share < 1:  # with a token shown between two
                assert not (np.isin(source[1:], sentinels) & np.isin(source[:-1], sentinels)).any()
        assert np.array_equal(ids, before)


def test_fifteen_in_a_hundred_in_spans_of_three() -> None:
    generator = np.random.default_rng(1)
    starts, sizes, edges = np.zeros(500), [], np.zeros(2)
    for _ in range(200):  # 100,000 tokens
        spans = draw_spans(500, generator)
        # section 3.3.4: of 500 tokens 15 % in 25 spans are 75 tokens, 3 a span
        assert len(spans) == 25
        assert sum(stop - start for start, stop in spans) == 75
        assert all(a[1] < b[0] for a, b in zip(spans, spans[1:], strict=False))
        assert 0 <= spans[0][0] and spans[-1][1] <= 500
        sizes += [stop - start for start, stop in spans]
        for start, stop in spans:
            starts[start:stop] += 1
        edges += [spans[0][0] == 0, spans[-1][1] == 500]
    assert np.mean(sizes) == 3
    # a size of k: what is left, 75 - k, is cut into 24 spans; there are C(74 - k, 23) ways
    for k in range(1, 6):
        share = math.comb(74 - k, 23) / math.comb(74, 24)
        assert np.mean(np.equal(sizes, k)) == pytest.approx(share, abs=0.03)
    # an edge is hidden when the gap there, one of 26 of 425 + 2 tokens, is the least
    share = 25 / 426
    assert np.all(np.abs(edges / 200 - share) < 4 * math.sqrt(share * (1 - share) / 200))
    assert starts.sum() == 15_000
    tens = starts.reshape(10, 50).sum(1) / 10_000  # everywhere alike
    assert np.all(np.abs(tens - 0.15) < 0.025)
    lengths = np.random.default_rng(2).integers(20, 600, size=300)
    hidden = [sum(b - a for a, b in draw_spans(int(n), generator)) for n in lengths]
    assert np.abs(np.array(hidden) - 0.15 * lengths).max() <= 0.5
    assert sum(hidden) / lengths.sum() == pytest.approx(0.15, abs=0.001)


WORDS = ["red", "green", "blue", "one", "two", "three", "sea", "sky"]


class Toys(SpanCorruption):
    """Words that come in one order: what is hidden is known."""

    splits = ("train", "test")

    def texts(self, split: str) -> list[str]:
        generator = random.Random(split)
        found = []
        for _ in range(60):
            first = generator.randrange(len(WORDS))
            count = generator.randint(8, 30)
            found.append(" ".join(WORDS[(first + i) % len(WORDS)] for i in range(count)))
        return found


class Silent(Toys):
    def texts(self, split: str) -> list[str]:
        return super().texts(split) if split == "train" else ["", " "]


@pytest.fixture
def tokenizer() -> Tokenizer:
    return Toys().build_tokenizer({"kind": "word"})


def test_its_tokenizer(tokenizer: Tokenizer) -> None:
    sentinels = sentinels_of(tokenizer)
    assert [tokenizer.id_to_token(t) for t in (sentinels[0], sentinels[99])] == [
        "<extra_id_0>",
        "<extra_id_99>",
    ]
    assert len(sentinels) == 100
    assert tokenizer.encode("red <extra_id_1> sea").tokens == [
        *("red", "<extra_id_1>", "sea", "<|endoftext|>")
    ]
    pad = tokenizer.token_to_id("<pad>")
    end = tokenizer.token_to_id("<|endoftext|>")
    assert Toys().config(tokenizer) == {"pad_id": pad, "start_id": pad, "end_id": end}
    bare = build_tokenizer("a b", {"kind": "word"})
    end_texts(bare)
    bare.add_special_tokens(["<extra_id_0>"])
    with pytest.raises(InputError, match="<extra_id_0> and <extra_id_1> at least"):
        Hiding(bare)


def test_batches_are_a_function_of_the_step_and_hide_anew(tokenizer: Tokenizer) -> None:
    task, sentinels = Toys(), sentinels_of(tokenizer)
    made, again = (task.batches(tokenizer, length=16, batch_tokens=128, seed=1) for _ in range(2))
    for step in (made.per_epoch + 2, 0):
        one, other = made(step), again(step)
        assert all(torch.equal(one[name], other[name]) for name in one)
    pad, end = (tokenizer.token_to_id(name) for name in ("<pad>", "<|endoftext|>"))
    pieces = [piece.tolist() for piece in Reader(tokenizer, 16).pieces(task.texts("train"))]
    seen: list[list[list[int]]] = []
    for epoch in range(2):
        seen.append([])
        for step in range(epoch * made.per_epoch, (epoch + 1) * made.per_epoch):
            found = made(step)
            assert list(found) == ["source", "real", "ids", "targets"]
            assert len(found["source"]) == 8
            assert torch.equal(found["real"], found["source"] != pad)
            for source, ids, targets in zip(
                found["source"], found["ids"], found["targets"], strict=True
            ):
                target = targets[targets != -100].tolist()
                assert ids[: len(target)].tolist() == [pad, *target[:-1]]
                assert (ids[len(target) :] == pad).all()
                shown = source[source != pad].tolist()
                assert shown[-1] == target[-1] == end
                text = together(shown[:-1], target[:-1], sentinels)
                assert [*text, end] in pieces
                seen[-1].append(shown)
    assert len(seen[0]) == len(seen[1]) == 8 * made.per_epoch
    same = sum(shown in seen[1] for shown in seen[0])
    assert same < len(seen[0]) / 2
    one_piece = [np.array([*range(40), end], dtype=np.int32)]

    def sources(seed: int) -> set[tuple[int, ...]]:
        alone = SpanBatches(one_piece, Hiding(tokenizer), rows=1, seed=seed)
        return {tuple(alone(step)["source"][0].tolist()) for step in range(20)}

    assert len(sources(1)) > 15 and len(sources(1) | sources(2)) > 30


def test_more_spans_than_sentinels(tokenizer: Tokenizer) -> None:
    class Long(Toys):
        def texts(self, split: str) -> list[str]:
            return [" ".join(WORDS * 300)] * 2

    task = Long()
    task.batches(tokenizer, length=1981, batch_tokens=1, seed=1)(0)
    with pytest.raises(TrainingError, match="2,000 tokens have 100 spans, and need 101 sentinels"):
        task.batches(tokenizer, length=2001, batch_tokens=1, seed=1)


def test_a_small_t5_learns_to_fill_in_and_is_measured(tokenizer: Tokenizer) -> None:
    task = Toys()
    sizes = {"max_seq_len": 16, "d_model": 32, "n_heads": 2, "d_head": 16, "d_ff": 64}
    layers = {"n_layers": 1, "n_encoder_layers": 1, "vocab_size": tokenizer.get_vocab_size()}
    module = T5(T5Config(**sizes, **layers, **task.config(tokenizer)))
    model = Model(
        name="tiny",
        module=module,
        config=module.config,
        tokenizer=tokenizer,
        pipeline="text2text-generation",
        card=None,
    )
    module.eval()
    first = task.evaluate(model, "test")
    found = task.evaluate(model, "test", limit=9)
    assert found == task.evaluate(model, "test", limit=9) != first

    # by hand, a piece at a time, from what the task shows of it
    hide = Hiding(tokenizer)
    rows = []
    for place, piece in enumerate(Reader(tokenizer, 16).pieces(task.texts("test")[:9])):
        one = hide([piece], [[0, place]])
        with torch.no_grad():
            chances = module(one["source"], one["ids"]).log_softmax(-1)[0]
        nats = [-chances[t, token].item() for t, token in enumerate(one["targets"][0].tolist())]
        rows.append((sum(nats), len(nats)))
    total, count = (sum(column) for column in zip(*rows, strict=True))
    n, mean = len(rows), total / count
    spread = math.sqrt(n / (n - 1) * sum((a - mean * b) ** 2 for a, b in rows)) / count
    assert found["perplexity_per_token"] == pytest.approx(math.exp(mean), rel=1e-5)
    assert found["perplexity_per_token_stderr"] == pytest.approx(math.exp(mean) * spread, rel=1e-4)

    batches = task.batches(tokenizer, length=16, batch_tokens=256, seed=1)
    one = batches(0)
    with torch.no_grad():
        logits = module(one["source"], one["ids"], one["real"])
        expected = nn.functional.cross_entropy(logits.flatten(0, 1), one["targets"].flatten())
        torch.testing.assert_close(task.loss(module, one), expected)
    optimizer = torch.optim.Adam(module.train().parameters(), lr=1e-2)
    for step in range(80):
        loss = task.loss(module, batches(step))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    module.eval()
    last = task.evaluate(model, "test")
    assert first["perplexity_per_token"] > 50  # of 110 tokens
    assert last["perplexity_per_token"] < 3
    with pytest.raises(InputError, match="The texts of test are empty"):
        Silent().evaluate(model, "test")
