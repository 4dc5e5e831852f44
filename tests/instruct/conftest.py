"""What tests of conversations share."""

import sys
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch

from zoo.hookspecs import Task
from zoo.registry import registry
from zoo.tasks import BaseTask


@pytest.fixture(autouse=True)
def _one_thread_and_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def offer() -> Iterator[Callable[..., None]]:
    """`offer(name, cls, *metrics)`: the registry knows a task of these tests."""
    patch = pytest.MonkeyPatch()

    def add(name: str, cls: type[BaseTask], *metrics: str) -> None:
        known = registry().tasks
        module = f"tasks_of_{name}"
        patch.setitem(sys.modules, module, SimpleNamespace(**{cls.__name__: cls}))
        entry = Task(
            name,
            pipeline="text-generation",
            target=f"{module}:{cls.__name__}",
            metrics=metrics,
            license="cc0-1.0",
        )
        patch.setitem(known._entries, name, [(known.owner("speeches"), entry)])

    yield add
    patch.undo()
