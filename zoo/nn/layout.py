"""Products with matrices in the layout that oneDNN multiplies by fastest.

PyTorch hands float32 products on an x86 processor to MKL. oneDNN, in the same wheel, takes a third
to a half of the time once a matrix stands in blocks of its own making (`benchmarks/products.py`);
its results differ from MKL's by rounding. Products in bfloat16 it does anyway, in such blocks in
two thirds of the time. Inside `reordered(module)` linear layers keep such a copy
and multiply by it; outside, and wherever a gradient is wanted, nothing is other than it was. A copy
is made when it is first needed, and again when its matrix is another one than before.

Letters: N rows (outputs), K columns (inputs), M rows of activations.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from typing import Any
from weakref import WeakKeyDictionary

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor, nn

NEAR = 16 << 20  # bytes of matrices that are still in a cache when the next token needs them
# multiplications, M N K, from which on a call of oneDNN costs less than it gains: of matrices that
# are near, and of those that come from afar each time, which oneDNN reads twice as fast
LEAST, LEAST_AFAR = 1 << 20, 1 << 16
SHARE = 4  # no copies where they would take more than such a part of the machine's memory

_lock = threading.Lock()


class _Product:
    """Multiplies activations (..., K) by the matrix of a part, giving (..., N).

    Args:
        part: a linear layer, or a table of token embeddings.
        least: multiplications from which on oneDNN does it.
    """

    def __init__(self, part: Any, least: int) -> None:
        self.part = part
        self.multiply = torch.ops.mkldnn._linear_pointwise.default
        self.weight: Tensor = part.weight
        self.bias: Tensor | None = part.bias if isinstance(part, nn.Linear) else None
        self.least = -(-least // len(self.weight))  # M K from which on it pays
        self.copy: Tensor | None = None
        self.mark: tuple[Any, ...] = ()  # of the matrix that the copy was made of

    def __call__(self, x: Tensor) -> Tensor:
        if x.numel() < self.least or x.dtype != self.weight.dtype or _otherwise():
            return F.linear(x, self.weight, self.bias)
        if self.copy is None:
            self.copy = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach())
            self.mark = _mark(self.weight)
        found: Tensor = self.multiply(x, self.copy, self.bias, "none", [], "")
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[[Tensor], Tensor]:
        """That of a part that is being copied: it has other numbers to multiply by."""
        return partial(_plain, memo[id(self.part)])


class _Entered:
    """How many have entered `reordered` with a part, and what was made for it the last time."""

    def __init__(self) -> None:
        self.users = 0
        self.copy: Tensor | None = None
        self.mark: tuple[Any, ...] = ()


_entered: WeakKeyDictionary[nn.Module, _Entered] = WeakKeyDictionary()


@contextmanager
def reordered(module: nn.Module) -> Iterator[None]:
    """While a model computes answers: multiply by reordered copies of its matrices.

    Copies are kept for the next time. Only of matrices of linear layers, and of those that
    `unembed` multiplies by, on a processor, in float32, or in bfloat16 where the processor computes
    in that; elsewhere nothing happens. They take as much
    memory again as the matrices; where that is a quarter of the machine's, there are none.

    Args:
        module: that of a model. It may be entered by several at once.
    """
    parts = _parts(module)
    near = sum(part.weight.nbytes for part in parts) <= NEAR
    with _lock:
        for part in parts:
            entered = _entered.setdefault(part, _Entered())
            entered.users += 1
            if entered.users == 1:
                product = _Product(part, LEAST if near else LEAST_AFAR)
                if entered.copy is not None and entered.mark == _mark(part.weight):
                    product.copy, product.mark = entered.copy, entered.mark
                part.__dict__[_place(part)] = product
    try:
        yield
    finally:
        with _lock:
            for part in parts:
                entered = _entered[part]
                entered.users -= 1
                if entered.users == 0:
                    product = part.__dict__.pop(_place(part))
                    entered.copy, entered.mark = product.copy, product.mark


def _place(part: nn.Module) -> str:
    """Where a part's product is looked for."""
    return "forward" if type(part) is nn.Linear else "unembed"


def _plain(part: Any, x: Tensor) -> Tensor:
    """The product as PyTorch has it."""
    return F.linear(x, part.weight, part.bias if type(part) is nn.Linear else None)


def unembed(x: Tensor, embedding: nn.Module) -> Tensor:
    """Logits by the token embeddings: an output head that has no matrix of its own.

    Source: Press & Wolf 2017, "Using the Output Embedding to Improve Language Models",
    arXiv:1608.05859, section 2.

    Args:
        x: vectors (..., K).
        embedding: the part whose `weight` (N, K) has a row for each of N tokens.

    Returns:
        Logits (..., N).
    """
    product: _Product | None = embedding.__dict__.get("unembed")
    return _plain(embedding, x) if product is None else product(x)


def _parts(module: nn.Module) -> list[Any]:
    """The parts with plain matrices, unless these are too many."""
    if not _works():
        return []
    found: list[Any] = [part for part in module.modules() if _is_plain(part)]
    size = sum(part.weight.nbytes for part in found)
    return found if size * SHARE < _memory() else []


def _is_plain(part: Any) -> bool:
    """Whether it has a matrix of floats on the processor, and multiplies in no way of its own."""
    weight = getattr(part, "weight", None)
    return (
        isinstance(weight, nn.Parameter)
        and type(weight.data) is Tensor  # whole numbers and scales are multiplied by otherwise
        and weight.dim() == 2
        and weight.device.type == "cpu"
        and _is_multiplied(weight.dtype)
        and (type(part) is nn.Linear or not isinstance(part, nn.Linear))
        and type(part.__dict__.get("forward")) in (type(None), _Product)
    )


def _mark(weight: Tensor) -> tuple[Any, ...]:
    """What changes with a matrix: where it stands, PyTorch's count of changes, and its numbers.

    The numbers too, for changes of `weight.data` are not counted; rows that change places show.
    """
    places = torch.arange(1, len(weight) + 1, dtype=torch.float32)
    version = -1 if weight.is_inference() else weight._version
    sums = weight.detach().sum(1, dtype=torch.float32)
    return weight.data_ptr(), version, float(sums @ places)


def _otherwise() -> bool:
    """Whether a product wants a gradient or another precision, or is only being compiled."""
    compiling = torch.compiler.is_compiling()
    return torch.is_grad_enabled() or torch.is_autocast_enabled("cpu") or compiling


@cache
def _is_multiplied(dtype: torch.dtype) -> bool:
    """Whether oneDNN computes in it on this processor."""
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


@cache
def _memory() -> int:
    """Bytes of the machine's memory."""
    return int(psutil.virtual_memory().total)


@cache
def _works() -> bool:
    """Whether this build of PyTorch multiplies so, by operators that it does not promise."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    x, weight = torch.arange(8.0 * 32).view(8, 32), torch.arange(16.0 * 32).view(16, 32)
    try:
        copy = torch.ops.mkldnn._reorder_linear_weight(weight)
        found = torch.ops.mkldnn._linear_pointwise.default(x, copy, None, "none", [], "")
    except (AttributeError, RuntimeError):
        return False
    return torch.allclose(found, x @ weight.T)
