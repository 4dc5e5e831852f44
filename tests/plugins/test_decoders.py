"""What every decoder promises, whatever its positions: one body over all of them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import zoo
from zoo.errors import ConfigError, ContextLengthError
from zoo.nn import Cache, record_attention

V, TRAINED = 29, 13  # vocabulary and training length
SIZES = {"vocab_size": V, "max_seq_len": TRAINED, "n_layers": 2, "d_ff": 22}
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "learned": ("decoder", {"d_model": 15, "n_heads": 3}),
    "sinusoidal": ("decoder", {"d_model": 15, "n_heads": 3, "positions": "sinusoidal"}),
    "alibi": ("alibi-decoder", {"d_model": 15, "n_heads": 5}),
    "rope": ("rope-decoder", {"d_model": 24, "n_heads": 6, "n_kv_heads": 2}),
    "relative": (
        "relative-decoder",
        {"d_model": 15, "n_heads": 3, "n_buckets": 8, "max_distance": 9},
    ),
}
CLOSE = {"rtol": 1e-5, "atol": 2e-5}


@pytest.fixture(autouse=True)
def _one_thread_and_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(params=DECODERS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def values(name: str, **changes: Any) -> tuple[str, dict[str, Any]]:
    """The architecture of a decoder, and the values of its config."""
    architecture, own = DECODERS[name]
    return architecture, {**SIZES, **own, **changes}


def make(name: str, **changes: Any) -> nn.Module:
    """A decoder in eval mode whose weights are large enough that all parts show in the logits."""
    architecture, config = values(name, **changes)
    module = zoo.create(architecture, **config)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.25 * torch.randn_like(parameter))
    return module.eval()


@pytest.fixture
def decoder(name: str) -> nn.Module:
    return make(name)


def random_ids(*shape: int) -> Tensor:
    return torch.randint(V, shape)


@torch.no_grad()
def test_a_token_shows_from_its_place_on_and_not_before(decoder: nn.Module) -> None:
    ids = random_ids(1, TRAINED)
    before = decoder(ids)
    assert before.shape == (1, TRAINED, V)
    for t in range(TRAINED):
        changed = ids.clone()
        changed[0, t] = (ids[0, t] + 1 + torch.randint(V - 1, ())) % V
        after = decoder(changed)
        torch.testing.assert_close(after[:, :t], before[:, :t], **CLOSE)
        moved = (after - before).abs().amax(dim=-1)[0]
        assert (moved[t:] > 1e-4).all(), f"token {t} does not reach all that follows it"


@torch.no_grad()
def test_order_matters(decoder: nn.Module) -> None:
    ids = torch.arange(7)[None]
    swapped = ids[:, [1, 0, 2, 3, 4, 5, 6]]
    assert (decoder(ids)[0, -1] - decoder(swapped)[0, -1]).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[13], [1] * 13, [5, 1, 1, 6], [1, 12], [2, 3, 7, 1]])
def test_cached_equals_uncached(decoder: nn.Module, pieces: list[int]) -> None:
    ids = random_ids(3, TRAINED)
    cache = Cache.of(decoder.config, 3, TRAINED)
    logits = torch.cat([decoder(piece, cache) for piece in ids.split(pieces, dim=1)], dim=1)
    assert cache.length == TRAINED
    torch.testing.assert_close(logits, decoder(ids), **CLOSE)


@torch.no_grad()
@pytest.mark.parametrize("pieces", [[13], [10, 1, 1, 1], [2, 6, 5], [1] * 13])
def test_a_row_alone_equals_the_row_in_a_padded_batch(
    decoder: nn.Module, pieces: list[int]
) -> None:
    ids = random_ids(4, TRAINED)
    padding = torch.tensor([4, 0, 12, 7])
    cache = Cache.of(decoder.config, 4, TRAINED, padding=padding)
    logits = torch.cat([decoder(piece, cache) for piece in ids.split(pieces, dim=1)], dim=1)
    assert logits.isfinite().all()
    for row, start in enumerate(padding.tolist()):
        alone = decoder(ids[row : row + 1, start:])
        torch.testing.assert_close(logits[row : row + 1, start:], alone, **CLOSE)


@torch.no_grad()
def test_reordered_rows_go_on_as_those_rows(decoder: nn.Module) -> None:
    ids, order = random_ids(3, 8), torch.tensor([2, 0, 0])
    padding = torch.tensor([0, 3, 5])
    cache = Cache.of(decoder.config, 3, TRAINED, padding=padding)
    decoder(ids, cache)
    cache.reorder(order)
    more = random_ids(3, 2)
    logits = decoder(more, cache)
    for row, source in enumerate(order.tolist()):
        whole = torch.cat([ids[source, padding[source] :], more[row]])[None]
        torch.testing.assert_close(logits[row], decoder(whole)[0, -2:], **CLOSE)


@pytest.mark.parametrize("tied", [True, False])
def test_gradients_reach_every_parameter(name: str, tied: bool) -> None:
    module = make(name, tie_embeddings=tied)
    ids = torch.cat([torch.arange(V), random_ids(10 * TRAINED - V)]).view(10, TRAINED)
    module(ids).square().mean().backward()
    for parameter_name, parameter in module.named_parameters():
        assert parameter.grad is not None, parameter_name
        reached = parameter.grad.abs() > 0
        if parameter_name.endswith("qkv.bias"):
            q, k, v = reached.chunk(3)  # a key's bias shifts all scores of a query: no gradient
            assert q.all() and v.all(), parameter_name
        elif parameter_name == "positions.weight" or parameter.dim() == 1:
            assert reached.all(), parameter_name
        elif parameter_name == "relative_bias.weight":
            assert reached.all(), "some bucket or head is never used"
        else:
            assert reached.float().mean() > 0.9, parameter_name


def test_loss_falls_on_a_toy_set(name: str) -> None:
    """Counting in steps of 1, 2 or 3: the first two numbers say how it goes on."""
    architecture, config = values(name, dropout=0.0)
    module = zoo.create(architecture, **config)
    optimizer = torch.optim.Adam(module.parameters(), lr=1e-2)
    starts, steps = torch.arange(V).repeat(3)[:, None], torch.arange(1, 4).repeat_interleave(V)
    rows = (starts + steps[:, None] * torch.arange(TRAINED + 1)) % V
    losses = []
    for _ in range(60):
        logits = module(rows[:, :-1])
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 3  # nothing is known at first: log 29 = 3.4
    assert losses[-1] < 0.5 * losses[0], losses[-1]


@torch.no_grad()
def test_bfloat16_is_near_float32(name: str) -> None:
    module = make(name)
    ids = random_ids(4, TRAINED)
    exact = module(ids)
    rough = module.bfloat16()(ids)
    assert rough.dtype == torch.bfloat16
    error = (rough.float() - exact).square().mean().sqrt() / exact.std()
    assert 0 < error < 0.03, error  # bfloat16 keeps 8 bits: 0.4 % a number
    cache = Cache.of(module.config, 4, TRAINED, like=next(module.parameters()))
    cached = torch.cat([module(piece, cache) for piece in ids.split([5, 8], dim=1)], dim=1)
    error = (cached.float() - exact).square().mean().sqrt() / exact.std()
    assert error < 0.03, error


def test_dropout_is_for_training_only(name: str) -> None:
    module = make(name, dropout=0.5)
    ids = random_ids(2, TRAINED)
    assert torch.equal(module(ids), module(ids))
    module.train()
    assert not torch.equal(module(ids), module(ids))
    torch.manual_seed(1)
    first = module(ids)
    torch.manual_seed(1)
    assert torch.equal(first, module(ids))


def test_config_goes_round(decoder: nn.Module) -> None:
    config = decoder.config
    assert type(config).from_dict(config.to_dict()) == config
    assert type(config) is type(decoder).config_class
    with pytest.raises(AttributeError):  # frozen
        config.d_model = 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_head": 3}, r"has no key 'n_head'. Did you mean 'n_heads'\?"),
        ({"hidden": 3}, r"has no key 'hidden'. Its keys: vocab_size"),
        ({"n_heads": 4, "n_kv_heads": 4}, r"d_model=\d+ must be a multiple of n_heads=4"),
        ({"n_heads": 0}, "n_heads must be above 0"),
        ({"d_ff": -1}, "d_ff must be above 0, got -1"),
        ({"d_model": "15"}, "d_model must be int, got '15'"),
        ({"dropout": "no"}, "dropout must be float, got 'no'"),
        ({"tie_embeddings": 1}, "tie_embeddings must be bool, got 1"),
    ],
)
def test_bad_configs_are_refused(name: str, change: dict[str, Any], message: str) -> None:
    architecture, config = values(name)
    change = {key: value for key, value in change.items() if key != "n_kv_heads" or key in config}
    if change.get("n_heads") == 4 and name == "rope":
        change["n_heads"] = 5  # four heads fit there
        message = message.replace("=4", "=5")
    with pytest.raises(ConfigError, match=message):
        zoo.create(architecture, **{**config, **change})


def test_missing_keys_are_named(name: str) -> None:
    architecture, config = values(name)
    del config["d_model"], config["d_ff"]
    with pytest.raises(ConfigError, match="needs a value for d_model, d_ff"):
        zoo.create(architecture, **config)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("learned", {"positions": "rotary"}, "'learned' or 'sinusoidal', got 'rotary'"),
        ("rope", {"n_kv_heads": 4}, "n_heads=6 must be a multiple of n_kv_heads=4"),
        ("rope", {"n_kv_heads": 0}, "n_heads=6 must be a multiple of n_kv_heads=0"),
        ("rope", {"d_model": 18}, "must be even"),
        ("rope", {"rope_theta": 0.0}, "rope_theta must be above 0"),
        ("relative", {"n_buckets": 1}, "n_buckets must be at least 2"),
        ("relative", {"n_buckets": 18}, "half of it below max_distance"),
    ],
    indirect=["name"],
)
def test_their_own_bad_values_are_refused(name: str, change: dict[str, Any], message: str) -> None:
    architecture, config = values(name)
    with pytest.raises(ConfigError, match=message):
        zoo.create(architecture, **{**config, **change})


@torch.no_grad()
def test_lengths_past_training(name: str, decoder: nn.Module) -> None:
    ids = random_ids(1, 3 * TRAINED)
    if name == "learned":
        assert decoder.max_len == TRAINED
        message = f"{3 * TRAINED} tokens, but this model learned {TRAINED} positions. Shorten"
        with pytest.raises(ContextLengthError, match=message):
            decoder(ids)
        cache = Cache.of(decoder.config, 1, 3 * TRAINED)
        decoder(ids[:, :TRAINED], cache)
        with pytest.raises(ContextLengthError, match=f"{TRAINED + 1} tokens"):
            decoder(ids[:, :1], cache)
        return
    assert decoder.max_len is None
    whole = decoder(ids)
    assert whole.shape == (1, 3 * TRAINED, V)
    cache = Cache.of(decoder.config, 1, 3 * TRAINED)
    pieces = [decoder(piece, cache) for piece in ids.split(11, dim=1)]
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, **CLOSE)
    # what came first is read as it is in a short text
    torch.testing.assert_close(whole[:, :TRAINED], decoder(ids[:, :TRAINED]), **CLOSE)


@torch.no_grad()
def test_attention_rows_sum_to_one_and_look_back_only(decoder: nn.Module) -> None:
    with record_attention() as layers:
        decoder(random_ids(2, TRAINED))
    assert len(layers) == decoder.config.n_layers
    for weights in layers:
        assert weights.shape == (2, decoder.config.n_heads, TRAINED, TRAINED)
        assert (weights.sum(-1) - 1).abs().max() < 1e-5
        assert weights.triu(1).abs().max() == 0
        assert weights.tril().min() >= 0
        assert weights[:, :, -1].std() > 0.01  # not the same for all


@torch.no_grad()
@pytest.mark.parametrize("padded", [False, True])
def test_plain_path_equals_fused_path(decoder: nn.Module, padded: bool) -> None:
    ids = random_ids(2, TRAINED)
    padding = torch.tensor([0, 4]) if padded else None

    def logits() -> Tensor:
        if padding is None:
            return decoder(ids)
        cache = Cache.of(decoder.config, 2, TRAINED, padding=padding)
        parts = [decoder(piece, cache) for piece in ids.split([9, 1, 3], dim=1)]
        return torch.cat(
            [row[start:] for row, start in zip(torch.cat(parts, 1), padding, strict=True)]
        )

    fused = logits()
    with record_attention() as layers:
        plain = logits()
    assert layers
    torch.testing.assert_close(plain, fused, **CLOSE)
