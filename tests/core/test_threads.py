"""Small steps run on one thread, and nothing is left changed."""

import threading
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from zoo.nn import threads
from zoo.nn.threads import FEW, FEW_ELSEWHERE, enough_threads


@pytest.fixture(autouse=True)
def _two() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


class Net(nn.Module):
    """Remembers on how many threads it was called."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(64, 64)
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(torch.get_num_threads())
        return x


def test_one_thread_for_little_and_all_for_much() -> None:
    net, worth = Net(), FEW // 64**2
    for tokens in (1, worth - 1, worth):
        with enough_threads(net, tokens):
            net(torch.zeros(1))
        assert torch.get_num_threads() == 2
    assert net.seen == [1, 1, 2]
    torch.set_num_threads(1)
    with enough_threads(net, 1):
        net(torch.zeros(1))
    assert torch.get_num_threads() == 1


def test_beside_the_main_thread_less_is_worth_two() -> None:
    net, worth = Net(), FEW_ELSEWHERE // 64**2

    def use() -> None:
        torch.set_num_threads(2)
        for tokens in (FEW // 64**2, worth - 1, worth):
            with enough_threads(net, tokens):
                net(torch.zeros(1))

    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
    assert net.seen == [1, 1, 2]


def test_an_error_leaves_as_many_as_there_were() -> None:
    with pytest.raises(ZeroDivisionError), enough_threads(Net(), 1):
        _ = 1 // 0
    assert torch.get_num_threads() == 2


def test_many_at_once_leave_as_many_as_there_were() -> None:
    net, barrier = Net(), threading.Barrier(4)

    def use() -> None:
        for _ in range(200):
            with enough_threads(net, 1), enough_threads(net, 1):
                net(torch.zeros(1))
        barrier.wait()
        net.seen.append(-torch.get_num_threads())

    running = [threading.Thread(target=use) for _ in range(4)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    assert torch.get_num_threads() == 2
    assert [seen for seen in net.seen if seen < 0] == [-2] * 4
    assert threads._inside == 0
