"""The plain attention in place of PyTorch's fused one, in modules of other libraries too."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from zoo.nn import PlainAttention, attention, record_attention
from zoo.training import loop

B, H, T, S, E = 2, 4, 5, 7, 8


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, requires_grad=True)


CALLS = {
    "plain": {},
    "boolean mask": {"attn_mask": torch.arange(S) > torch.arange(T)[:, None]},
    "float mask": {"attn_mask": torch.linspace(-2, 2, T * S, dtype=torch.float64).view(T, S)},
    "causal": {"is_causal": True},
    "scale": {"scale": 0.3},
}


@pytest.mark.parametrize("arguments", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("groups", [1, 2], ids=["", "grouped"])
def test_it_computes_what_the_fused_one_does(arguments: dict[str, object], groups: int) -> None:
    torch.manual_seed(1)
    keys = T if "is_causal" in arguments else S  # which PyTorch counts from the first column
    q, k, v = draw(B, H, T, E), draw(B, H // groups, keys, E), draw(B, H // groups, keys, E)
    results = []
    for context in (torch.enable_grad(), PlainAttention()):
        with context:
            mixed = F.scaled_dot_product_attention(q, k, v, enable_gqa=groups > 1, **arguments)
        weight = torch.linspace(-1, 1, mixed.numel(), dtype=torch.float64).view(mixed.shape)
        results.append([mixed, *torch.autograd.grad((mixed * weight).sum(), (q, k, v))])
    for fused, plain in zip(*results, strict=True):
        # the plain softmax is computed in float32
        torch.testing.assert_close(plain, fused, atol=1e-6, rtol=1e-5)


def test_other_libraries_have_it_too(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    plain = attention.plain_attention

    def count(*args: Tensor, **options: float) -> tuple[Tensor, Tensor]:
        seen.append(args[0].shape)
        return plain(*args, **options)

    monkeypatch.setattr(attention, "plain_attention", count)
    q = torch.randn(B, H, T, E)
    with PlainAttention():
        torch.nn.functional.scaled_dot_product_attention(query=q, key=q, value=q)
        nn.Linear(E, E)(q)
    assert seen == [q.shape]
    monkeypatch.setattr(attention, "MOST", B * H * T * T - 1)  # one score too many
    with PlainAttention():
        torch.nn.functional.scaled_dot_product_attention(q, q, q)
    assert len(seen) == 1


def test_dropout_hides_weights() -> None:
    torch.manual_seed(1)
    q = torch.zeros(1, 1, 1, E)  # all keys alike: each weighs 1 / 1000
    v = torch.ones(1, 1, 1000, E)
    with PlainAttention():
        mixed = F.scaled_dot_product_attention(q, torch.zeros(1, 1, 1000, E), v, dropout_p=0.5)
    kept = mixed[0, 0, 0, 0].item() / 2  # what is kept counts twice
    assert kept == pytest.approx(0.5, abs=0.1)
    assert kept != 0.5  # noqa: PLR2004


def test_weights_of_other_libraries_are_recorded() -> None:
    torch.manual_seed(1)
    other = nn.MultiheadAttention(E * H, H, batch_first=True).eval()
    x = torch.randn(B, T, E * H)
    wanted, weights = other(x, x, x, average_attn_weights=False)
    with record_attention() as layers:
        mixed, unasked = other(x, x, x, need_weights=False)
        F.scaled_dot_product_attention(x, x, x, scale=0.0)
    torch.testing.assert_close(mixed, wanted)
    torch.testing.assert_close(layers[0], weights)
    assert unasked is None
    with record_attention():
        torch.testing.assert_close(other(x, x, x)[1], weights.mean(1))
    assert [one.shape for one in layers] == [(B, H, T, T), (B, T, T)]
    torch.testing.assert_close(layers[1], torch.full((B, T, T), 1 / T))


@pytest.mark.parametrize(
    ("precision", "exact", "times"), [("bf16", False, 2), ("no", True, 2), ("no", False, 0)]
)
def test_trainings_take_it_where_products_are_onednns(
    precision: str, exact: bool, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a processor; whether this one computes so does not matter here."""
    monkeypatch.setattr(loop, "_precision", lambda _: precision)
    monkeypatch.setattr(loop, "as_exact", lambda: exact)
    entered = []
    monkeypatch.setattr(PlainAttention, "__enter__", lambda self: entered.append(self))
    monkeypatch.setattr(PlainAttention, "__exit__", lambda *_: None)
    zoo.train("synthetic-decoder", out=tmp_path / "out", steps=2, precision="float32")
    assert len(entered) == times
