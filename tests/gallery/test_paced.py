"""What grows is shown a few times a second, and its end always."""

from collections.abc import Iterator

import pytest
from zoo_gallery import views


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def ticks(self, count: int, seconds: float) -> Iterator[int]:
        for number in range(count):
            yield number
            self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(views, "time", clock)
    monkeypatch.setattr(views, "BETWEEN", 1.0)
    return clock


@pytest.mark.parametrize(
    ("count", "seconds", "seen"),
    [
        (0, 0.25, []),
        (1, 0.25, [0]),
        (9, 0.25, [0, 4, 8]),
        (10, 0.25, [0, 4, 8, 9]),
        (1000, 0.0, [0, 999]),
        (4, 2.0, [0, 1, 2, 3]),
    ],
)
def test_the_first_then_one_in_a_while_then_the_last(
    clock: Clock, count: int, seconds: float, seen: list[int]
) -> None:
    assert list(views.paced(clock.ticks(count, seconds))) == seen


def test_nothing_is_taken_behind_what_is_shown(clock: Clock) -> None:
    taken = []

    def growing() -> Iterator[int]:
        for number in clock.ticks(10, 0.25):
            taken.append(number)
            yield number

    sights = views.paced(growing())
    assert next(sights) == 0
    assert next(sights) == 4
    assert taken == [0, 1, 2, 3, 4]
