"""The attention that a training in bfloat16 on a processor takes, beside PyTorch's fused one."""

import pytest
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import Tensor, nn

from zoo.training import attention
from zoo.training.attention import PlainAttention, attention_for

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


@pytest.mark.parametrize(
    ("precision", "device", "expected"),
    [("bf16", "cpu", True), ("no", "cpu", False), ("bf16", "cuda", False)],
)
def test_where_it_is_taken(precision: str, device: str, expected: bool) -> None:
    context = attention_for(precision, torch.device(device))
    assert isinstance(context, PlainAttention) is expected


def test_accelerate_calls_the_precision_so() -> None:
    """`attention_for` reads the words that `accelerate` has."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state()
    try:
        assert Accelerator(cpu=True, mixed_precision="bf16").mixed_precision == "bf16"
    finally:
        AcceleratorState._reset_state()
