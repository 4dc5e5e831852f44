"""How many threads a step of decoding is worth."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import nn

FEW = 1 << 22  # multiplications of a step below which a second thread gains nothing
FEW_ELSEWHERE = 1 << 28  # in a thread of Python's that is not the main one

_lock = threading.Lock()
_inside = 0
_usual = 1
_sizes: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


@contextmanager
def enough_threads(module: nn.Module, tokens: int) -> Iterator[None]:
    """While a module reads a few tokens: one thread, where more would only wait for each other.

    Those that wait do so busily, and take the processor from whoever hands the tokens on. Each
    thread of Python's has helpers of its own, and with those of the main one they are more than the
    processor's cores: then they sleep between two products, and waking them takes longer than most
    products (`benchmarks/threads.py`).

    Args:
        module: a decoder.
        tokens: that it reads at once, of all rows.
    """
    global _inside, _usual
    size = _sizes.get(module)
    if size is None:
        _sizes[module] = size = sum(p.numel() for p in module.parameters() if p.dim() == 2)
    is_main = threading.current_thread() is threading.main_thread()
    few = FEW if is_main else FEW_ELSEWHERE
    if tokens * size >= few or (torch.get_num_threads() == 1 and not _inside):
        yield
        return
    with _lock:  # PyTorch keeps the number for the process and for each thread
        if not _inside:
            _usual = torch.get_num_threads()
        _inside += 1
        torch.set_num_threads(1)
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            torch.set_num_threads(_usual)
