"""Float32 products of a training step by oneDNN, which on a processor takes half of MKL's time.

PyTorch gives them to oneDNN only where it may use less precision. On a processor without a unit
that would be faster in less, oneDNN computes in float32 all the same: that is tried first.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch
from torch import Tensor

MOST_ERROR = 1e-5  # of the largest product; float32 leaves 1e-6 here, bfloat16 2e-3


@contextmanager
def fast_products(device: torch.device) -> Iterator[None]:
    """While a step is computed: float32 products by oneDNN, where they are no less exact.

    Args:
        device: of the step; nothing happens unless it is a processor.
    """
    if device.type != "cpu" or not as_exact():
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@cache
def as_exact() -> bool:
    """Whether oneDNN, allowed to use less precision, multiplies in float32 on this processor."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:  # somebody chose a precision by PyTorch's newer settings: theirs holds
        return False
    torch.set_float32_matmul_precision("medium")
    try:
        return error_of_products() < MOST_ERROR
    finally:
        torch.set_float32_matmul_precision(before)


def error_of_products() -> float:
    """The largest error of some products in float32, forward and transposed, over the largest."""

    def matrix(rows: int, columns: int, step: float) -> Tensor:
        return (torch.arange(rows * columns, dtype=torch.float64) * step).sin().view(rows, columns)

    a, b = matrix(192, 320, 0.7), matrix(320, 256, 1.3)
    exact = a @ b
    pairs = (a.float() @ b.float(), exact), (b.T.float() @ a.T.float(), exact.T)
    errors = [float((found.double() - right).abs().max()) for found, right in pairs]
    return max(errors) / float(exact.abs().max())
