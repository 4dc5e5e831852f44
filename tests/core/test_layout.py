"""Matrices in oneDNN's layout: the same products, and never those of a matrix that is gone."""

import copy
import gc
import threading
import weakref
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from zoo.generation import GenerationOptions, generate, stream
from zoo.nn import reordered, unembed
from zoo.nn.layout import reordered as public
from zoo.nn.quantized import Int8Matrix

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="needs PyTorch with oneDNN"
)
ROWS = 64  # so that 64 x 64 x 96 multiplications are worth it


class Net(nn.Module):
    """A linear layer, and logits by an embedding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(64, 96)
        self.words = nn.Embedding(120, 96)

    def forward(self, x: Tensor) -> Tensor:
        return unembed(self.linear(x), self.words)


@pytest.fixture(autouse=True)
def small_products_pay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.nn.layout.LEAST", 1 << 17)


@pytest.fixture
def net() -> Net:
    return Net().eval().requires_grad_(False)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of the matrices of which copies are made."""
    shapes: list[tuple[int, ...]] = []
    with reordered(Net()):
        pass  # the first one tries whether it works here
    real = torch.ops.mkldnn._reorder_linear_weight

    def counted(weight: Tensor) -> Tensor:
        shapes.append(tuple(weight.shape))
        return real(weight)  # type: ignore[no-any-return]

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", counted)
    return shapes


def exact(net: Net, x: Tensor) -> Tensor:
    """The same in double precision, written out."""
    hidden = x.double() @ net.linear.weight.double().T + net.linear.bias.double()
    return (hidden @ net.words.weight.double().T).float()


def test_products_are_the_same(net: Net, calls: list[tuple[int, ...]]) -> None:
    x = torch.randn(4, 16, 64)
    before = net(x)
    with torch.inference_mode(), reordered(net):
        inside = net(x)
    torch.testing.assert_close(inside, exact(net, x), rtol=1e-5, atol=1e-4)
    assert calls == [(96, 64), (120, 96)]
    assert torch.equal(net(x), before)
    assert "forward" not in net.linear.__dict__
    assert "unembed" not in net.words.__dict__


def test_copies_are_made_where_they_pay_and_kept(net: Net, calls: list[tuple[int, ...]]) -> None:
    one = torch.randn(1, 64)
    with torch.no_grad():
        with public(net):
            assert torch.equal(net(one), F.linear(net.linear(one), net.words.weight))
            assert calls == []
            net(torch.randn(ROWS, 64))
            net(torch.randn(ROWS, 64))
        with reordered(net):
            net(torch.randn(ROWS, 64))
        assert len(calls) == 2


def test_matrices_that_are_far_away_are_copied_for_fewer_rows(
    net: Net, calls: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.nn.layout.LEAST_AFAR", 64 * 96)
    some = torch.randn(2, 64)
    with torch.inference_mode(), reordered(net):
        net(some)
    assert calls == []
    monkeypatch.setattr("zoo.nn.layout.NEAR", 4 * (64 * 96 + 120 * 96) - 1)
    with torch.inference_mode(), reordered(net):
        torch.testing.assert_close(net(some), exact(net, some))
    assert len(calls) == 2


def zero(weight: nn.Parameter) -> None:
    with torch.no_grad():
        weight[3] = 0


def zero_data(weight: nn.Parameter) -> None:
    weight.data[3] = 0


def turn_data(weight: nn.Parameter) -> None:
    weight.data.copy_(weight.data.roll(1, 0))


def other_data(weight: nn.Parameter) -> None:
    weight.data = torch.randn_like(weight)


def step(weight: nn.Parameter) -> None:
    weight.requires_grad_(True)
    optimizer = torch.optim.AdamW([weight], lr=0.1)
    weight.square().sum().backward()
    optimizer.step()
    weight.requires_grad_(False)


@pytest.mark.parametrize("change", [zero, zero_data, turn_data, other_data, step])
def test_a_changed_matrix_is_copied_again(net: Net, change: Callable[[nn.Parameter], None]) -> None:
    x = torch.randn(ROWS, 64)
    with torch.no_grad():
        with reordered(net):
            before = net(x)
        with torch.enable_grad():
            change(net.linear.weight)
            change(net.words.weight)
        with reordered(net):
            after = net(x)
    torch.testing.assert_close(after, exact(net, x), rtol=1e-5, atol=1e-4)
    assert not torch.allclose(before, after, atol=0.01)


def test_another_precision_and_another_matrix_in_its_place(net: Net) -> None:
    x = torch.randn(ROWS, 64)
    with torch.no_grad():
        with reordered(net):
            net(x)
        net.double()
        with reordered(net):
            assert net(x.double()).dtype == torch.float64
        net.float()
        net.linear.weight = nn.Parameter(torch.randn(96, 64))
        with reordered(net):
            torch.testing.assert_close(net(x), exact(net, x), rtol=1e-5, atol=1e-4)
        net.words.weight = nn.Parameter(Int8Matrix.of(net.words.weight), requires_grad=False)
        expected = net(x)
        with reordered(net):
            torch.testing.assert_close(net(x), expected, rtol=1e-3, atol=1e-3)


def test_bfloat16_where_the_processor_computes_in_it(
    net: Net, calls: list[tuple[int, ...]]
) -> None:
    net.bfloat16()
    x = torch.randn(ROWS, 64).bfloat16()
    with torch.inference_mode(), reordered(net):
        found = net(x)
    assert found.dtype == torch.bfloat16
    expected = exact(net, x)
    torch.testing.assert_close(found.float(), expected, rtol=0.02, atol=0.01 * expected.abs().max())
    assert len(calls) == (2 if torch.ops.mkldnn._is_mkldnn_bf16_supported() else 0)


def test_gradients_flow_as_ever(net: Net) -> None:
    net.requires_grad_(True)
    x = torch.randn(ROWS, 64, requires_grad=True)
    net(x).sum().backward()
    assert x.grad is not None and net.linear.weight.grad is not None
    expected = x.grad.clone(), net.linear.weight.grad.clone()
    net.zero_grad()
    x.grad = None
    with reordered(net):
        net(x).sum().backward()
        assert torch.equal(x.grad, expected[0])
        assert torch.equal(net.linear.weight.grad, expected[1])


def test_autocast_is_left_alone(net: Net) -> None:
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16), reordered(net):
        assert net(torch.randn(ROWS, 64)).dtype == torch.bfloat16


def test_what_is_compiled_is_not_held_up(net: Net) -> None:
    x = torch.randn(ROWS, 64)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    with torch.no_grad(), reordered(compiled):
        torch.testing.assert_close(compiled(x), exact(net, x), rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(net(x), exact(net, x), rtol=1e-5, atol=1e-4)


def test_a_copy_of_a_module_that_is_in_use_has_numbers_of_its_own(net: Net) -> None:
    x = torch.randn(ROWS, 64)
    with torch.no_grad(), reordered(net):
        net(x)
        other = copy.deepcopy(net)
        other.linear.weight.zero_()
        other.words.weight.mul_(2)
        expected = (net.linear.bias @ other.words.weight.T).expand(ROWS, -1)
        torch.testing.assert_close(other(x), expected, rtol=1e-5, atol=1e-4)
        again = copy.deepcopy(other)
        again.linear.bias.zero_()
        assert torch.equal(again(x), torch.zeros(ROWS, 120))


def test_several_may_use_it_at_once(net: Net) -> None:
    x = torch.randn(ROWS, 64)
    expected, found = exact(net, x), []
    barrier = threading.Barrier(4)

    def use() -> None:
        for _ in range(20):
            barrier.wait()
            with torch.no_grad(), reordered(net), reordered(net):
                found.append(torch.allclose(net(x), expected, rtol=1e-5, atol=1e-4))

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 80
    assert "forward" not in net.linear.__dict__


def test_an_error_inside_leaves_nothing_behind(net: Net) -> None:
    with pytest.raises(ZeroDivisionError), reordered(net):
        _ = 1 // 0
    assert "forward" not in net.linear.__dict__


def test_what_is_gone_is_gone(net: Net) -> None:
    with torch.no_grad(), reordered(net):
        net(torch.randn(ROWS, 64))
    part = weakref.ref(net.linear)
    net.linear = nn.Linear(64, 96)
    gc.collect()
    assert part() is None


def test_no_copies_that_fill_the_memory(net: Net, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 4 * (64 * 96 + 120 * 96)
    monkeypatch.setattr("zoo.nn.layout._memory", lambda: 4 * size)
    with reordered(net):
        assert "forward" not in net.linear.__dict__
    monkeypatch.setattr("zoo.nn.layout._memory", lambda: 4 * size + 1)
    with reordered(net):
        assert "forward" in net.linear.__dict__


def test_writing_uses_them_and_lets_go(calls: list[tuple[int, ...]]) -> None:
    torch.manual_seed(0)
    sizes = {"vocab_size": 600, "max_seq_len": 40, "d_model": 48, "n_layers": 1, "n_heads": 2}
    module = zoo.create("decoder", **sizes, d_ff=64).eval().requires_grad_(False)
    prompts = [[1, 2, 3], [4, 5]] * 8
    options = GenerationOptions(max_new_tokens=8)
    expected = generate(module, prompts, options, use_cache=False).ids
    assert generate(module, prompts, options).ids == expected
    assert (600, 48) in calls  # the head, which is the embedding
    assert list(stream(module, [1, 2, 3], options)) == expected[0]
    written = stream(module, [1, 2, 3], options)
    next(written)
    assert "unembed" in module.token_embedding.__dict__
    del written
    gc.collect()
    assert "unembed" not in module.token_embedding.__dict__
