"""Float32 products of a training step: by oneDNN where that is float32, and only there."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

import zoo
from zoo.training import loop, products
from zoo.training.products import as_exact, error_of_products, fast_products

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _usual() -> Iterator[None]:
    as_exact.cache_clear()
    yield
    as_exact.cache_clear()
    torch.set_float32_matmul_precision("highest")


def test_the_error_is_measured() -> None:
    assert 0 < error_of_products() < products.MOST_ERROR
    a = (torch.arange(192 * 320) * 0.7).sin().view(192, 320)
    b = (torch.arange(320 * 256) * 1.3).sin().view(320, 256)
    less = (a.bfloat16() @ b.bfloat16()).double() - a.double() @ b.double()
    assert less.abs().max() / (a @ b).abs().max() > 100 * products.MOST_ERROR


@pytest.mark.parametrize("before", ["highest", "high"])
def test_what_was_set_is_set_again(before: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "error_of_products", lambda: 1e-6)
    torch.set_float32_matmul_precision(before)
    with fast_products(CPU):
        assert torch.get_float32_matmul_precision() == "medium"
    assert torch.get_float32_matmul_precision() == before
    with pytest.raises(ZeroDivisionError), fast_products(CPU):
        _ = 1 // 0
    assert torch.get_float32_matmul_precision() == before


def test_a_processor_that_would_be_less_exact_goes_on_as_it_was(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen = []

    def error() -> float:
        seen.append(torch.get_float32_matmul_precision())
        return 2e-3

    monkeypatch.setattr(products, "error_of_products", error)
    with fast_products(CPU):
        assert torch.get_float32_matmul_precision() == "highest"
    with fast_products(CPU):
        pass
    assert seen == ["medium"]  # tried as it would be used, and once


def test_other_devices_and_other_builds_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "error_of_products", lambda: 1e-6)
    with fast_products(torch.device("meta")):
        assert torch.get_float32_matmul_precision() == "highest"
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    with fast_products(CPU):
        assert torch.get_float32_matmul_precision() == "highest"


def test_who_chose_by_the_newer_settings_keeps_them() -> None:
    setting = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    try:
        with fast_products(CPU):
            assert setting.fp32_precision == "bf16"
        assert setting.fp32_precision == "bf16"
    finally:
        setting.fp32_precision = before


def test_a_training_is_the_same_but_for_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(name: str) -> list[nn.Parameter]:
        zoo.train("synthetic-decoder", out=tmp_path / name, steps=6, precision="float32")
        return list(zoo.load(tmp_path / name).module.parameters())

    monkeypatch.setattr(products, "error_of_products", lambda: 2e-3)
    plain = trained("plain")
    as_exact.cache_clear()
    monkeypatch.setattr(products, "error_of_products", lambda: 1e-6)
    entered = []
    monkeypatch.setattr(
        loop, "fast_products", lambda device: entered.append(device) or fast_products(device)
    )
    fast = trained("fast")
    assert entered == [CPU] * 6
    for one, other in zip(plain, fast, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
