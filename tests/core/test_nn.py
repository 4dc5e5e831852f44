"""The background that decoders share: each fused or clever form beside the formula."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from zoo.nn import Cache, LayerNorm, RMSNorm, attend, causal_mask, plain_attention, record_attention
from zoo.nn.loss import cross_entropy


@pytest.fixture(autouse=True)
def _one_thread_and_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.mark.parametrize("kind", [LayerNorm, RMSNorm])
def test_norms_are_their_formulas(kind: type[LayerNorm | RMSNorm]) -> None:
    norm = kind(7, eps=0.01)
    with torch.no_grad():
        for parameter in norm.parameters():
            parameter.normal_()
    x = 3 * torch.randn(4, 5, 7) + 1
    torch.testing.assert_close(norm(x), norm.spelled_out(x))
    row = x[1, 2].tolist()
    mean = sum(row) / 7 if kind is LayerNorm else 0.0
    size = math.sqrt(sum((value - mean) ** 2 for value in row) / 7 + 0.01)
    bias = norm.bias.tolist() if kind is LayerNorm else [0.0] * 7
    expected = [
        (value - mean) / size * w + b
        for value, w, b in zip(row, norm.weight.tolist(), bias, strict=True)
    ]
    torch.testing.assert_close(norm(x)[1, 2], torch.tensor(expected))


@pytest.mark.parametrize(
    ("dtype", "close"),  # in float64 but for eps, which is a float32
    [(torch.float64, 1e-7), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)],
)
def test_rms_norm_and_its_gradients_are_those_of_pytorch(dtype: torch.dtype, close: float) -> None:
    norm = RMSNorm(48, eps=1e-3).to(dtype)
    with torch.no_grad():
        norm.weight.normal_()
    x = (torch.randn(3, 5, 48) * torch.tensor([1e-4, 1.0, 300.0]).view(3, 1, 1)).to(dtype)
    x[0, 0] = 0  # nothing to divide by but eps
    x.requires_grad_()
    back = torch.randn_like(x)
    found = norm(x)
    expected = F.rms_norm(x, (48,), norm.weight, 1e-3)
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=close, atol=close)
    for ours, theirs in zip(
        torch.autograd.grad(found, (x, norm.weight), back),
        torch.autograd.grad(expected, (x, norm.weight), back),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=close, atol=close)


def test_attention_of_two_tokens_by_hand() -> None:
    q = torch.tensor([[[[1.0, 0.0], [0.0, 2.0]]]])
    k = torch.tensor([[[[1.0, 1.0], [0.0, 1.0]]]])
    v = torch.tensor([[[[1.0, 0.0], [0.0, 1.0]]]])
    mixed, weights = plain_attention(q, k, v, causal_mask(2, 2))
    # row 0 sees itself; row 1 has two equal scores 2 / sqrt(2)
    assert weights.tolist() == [[[[1.0, 0.0], [0.5, 0.5]]]]
    assert mixed.tolist() == [[[[1.0, 0.0], [0.5, 0.5]]]]
    _, weights = plain_attention(q, k, v, torch.tensor([[0.0, -math.inf], [math.log(3), 0.0]]))
    torch.testing.assert_close(weights[0, 0, 1], torch.tensor([0.75, 0.25]))


@pytest.mark.parametrize("kv_heads", [6, 3, 2, 1])
@pytest.mark.parametrize("mask", ["causal", "boolean", "float"])
@pytest.mark.parametrize("scale", [None, 1.0])
def test_fused_path_is_the_plain_one(kv_heads: int, mask: str, scale: float | None) -> None:
    q = torch.randn(2, 6, 5, 4, requires_grad=True)
    k, v = torch.randn(2, 2, kv_heads, 5, 4, requires_grad=True)
    options = {"scale": scale, "causal": mask == "causal"}
    given = None
    if mask == "boolean":
        given = causal_mask(5, 5, torch.tensor([0, 3]))
    elif mask == "float":
        given = torch.randn(6, 5, 5).masked_fill(~causal_mask(5, 5)[0], -math.inf)
    fused = attend(q, k, v, given, **options)
    with record_attention() as weights:
        plain = attend(q, k, v, given, **options)
    assert [w.shape for w in weights] == [(2, 6, 5, 5)]
    torch.testing.assert_close(fused, plain)
    for mine, other in zip(
        torch.autograd.grad(fused.square().sum(), (q,)),
        torch.autograd.grad(plain.square().sum(), (q,)),
        strict=True,
    ):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kv_heads", [6, 3, 2, 1])
@pytest.mark.parametrize("mask", [False, True])
def test_a_single_query_is_what_the_last_of_many_is(kv_heads: int, mask: bool) -> None:
    q = torch.randn(2, 6, 5, 4)
    k, v = torch.randn(2, 2, kv_heads, 5, 4)
    given = causal_mask(5, 5, torch.tensor([0, 3])) if mask else None
    many = attend(q, k, v, given, causal=True)[:, :, -1:]
    last = None if given is None else given[:, :, -1:]
    torch.testing.assert_close(attend(q[:, :, -1:], k, v, last, causal=True), many)
    with record_attention() as weights:
        torch.testing.assert_close(attend(q[:, :, -1:], k, v, last, causal=True), many)
    assert [w.shape for w in weights] == [(2, 6, 1, 5)]


def test_recording_stops_with_its_block() -> None:
    q = torch.randn(1, 1, 2, 2)
    with record_attention() as outer:
        with record_attention() as inner:
            attend(q, q, q, causal=True)
        assert (len(outer), len(inner)) == (0, 1)
        with pytest.raises(RuntimeError):
            attend(q, q[..., :1], q)
    attend(q, q, q, causal=True)
    assert (len(outer), len(inner)) == (0, 1)


def test_mask_of_a_padded_row() -> None:
    mask = causal_mask(2, 4, torch.tensor([0, 3]))
    assert mask.shape == (2, 1, 2, 4)
    assert mask[0, 0].tolist() == [[True, True, True, False], [True] * 4]
    # column 2 is padding, and as a query sees itself alone; column 3 is the first real token
    assert mask[1, 0].tolist() == [[False, False, True, False], [False, False, False, True]]


def test_positions_count_from_the_first_real_token() -> None:
    padding = torch.tensor([0, 2])
    cache = Cache(1, 2, 1, 5, 1, padding=padding)
    assert cache.positions(3).tolist() == [[0, 1, 2], [0, 0, 0]]
    cache.advance(3)
    assert cache.positions(2).tolist() == [[3, 4], [1, 2]]
    assert Cache(1, 2, 1, 5, 1, padding=torch.zeros(2)).padding is None


@pytest.mark.parametrize("rows", [1, 7, 512, 1300])  # it works in blocks of 512
def test_cross_entropy_is_torchs(rows: int) -> None:
    logits = (4 * torch.randn(rows, 33)).requires_grad_()
    targets = torch.randint(33, (rows,))
    expected = nn.functional.cross_entropy(logits, targets)
    loss = cross_entropy(logits, targets)
    torch.testing.assert_close(loss, expected)
    (gradient,) = torch.autograd.grad(3 * loss, logits)
    torch.testing.assert_close(gradient, torch.autograd.grad(3 * expected, logits)[0])


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_cross_entropy_smooths_and_leaves_rows_out_as_torchs(smoothing: float) -> None:
    torch.manual_seed(2)
    logits = torch.randn(700, 11, requires_grad=True)
    targets = torch.randint(11, (700,)).masked_fill(torch.rand(700) < 0.3, -100)
    assert (targets[512:] == -100).any()  # in the second block too
    expected = nn.functional.cross_entropy(logits, targets, label_smoothing=smoothing)
    (wanted,) = torch.autograd.grad(expected, logits)
    loss = cross_entropy(logits, targets, label_smoothing=smoothing)
    torch.testing.assert_close(loss, expected)
    (found,) = torch.autograd.grad(loss * 3, logits)
    torch.testing.assert_close(found, wanted * 3)
    assert not found[targets == -100].any()


def test_cross_entropy_of_extreme_and_short_logits() -> None:
    logits = torch.tensor([[1e4, 0.0, -1e4], [-1e4, 0.0, 1e4]])
    assert cross_entropy(logits, torch.tensor([0, 1])).item() == pytest.approx(5e3)
    short = (3 * torch.randn(40, 9)).bfloat16().requires_grad_()
    targets = torch.randint(9, (40,))
    loss = cross_entropy(short, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, nn.functional.cross_entropy(short.float(), targets))
    loss.backward()
    assert short.grad.dtype == torch.bfloat16
    assert cross_entropy(torch.tensor([[math.nan, 0.0]]), torch.tensor([0])).isnan()
