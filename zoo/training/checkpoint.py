"""Checkpoints: one safetensors file, written beside and renamed; a run goes on from it exactly."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from zoo.errors import TrainingError
from zoo.numbers import lower_is_better

FILE = "checkpoint.safetensors"


@dataclass
class Best:
    """The weights with the best validation score so far; step 0 for none.

    Attributes:
        step: after which they were measured.
        metric: that they were best in.
        score: their value of it.
        weights: of the module, by name.
    """

    step: int = 0
    metric: str = ""
    score: float = math.nan
    weights: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> "Best":
        """That of a checkpoint."""
        weights = {n.removeprefix("best."): t for n, t in tensors.items() if n.startswith("best.")}
        if not weights:
            return cls()
        step, metric, score = state["best"]
        return cls(step, metric, score, weights)

    def look(self, module: nn.Module, step: int, metric: str, score: float) -> None:
        """Keep a module's weights if their score is finite and better than all before."""
        better = score < self.score if lower_is_better(metric) else score > self.score
        if math.isfinite(score) and (better or not self.step):
            self.step, self.metric, self.score = step, metric, score
            self.weights = {n: t.detach().cpu().clone() for n, t in module.state_dict().items()}

    def put_into(self, module: nn.Module) -> None:
        """Give a module these weights, if there are any."""
        if self.step:
            module.load_state_dict(self.weights)


def save(
    folder: Path,
    module: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    state: dict[str, Any],
    best: Best | None = None,
) -> None:
    """Write weights, optimiser state and the run's own counters; the old file stays until then.

    Args:
        folder: of the unfinished run.
        module: unwrapped.
        optimizers: in a fixed order; their state must be tensors.
        state: JSON values, such as the step.
        best: weights that are kept besides.
    """
    if best is not None and best.step:
        state = {**state, "best": [best.step, best.metric, best.score]}
    tensors = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    for number, optimizer in enumerate(optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            for key, tensor in values.items():
                tensors[f"optimizer.{number}.{index}.{key}"] = tensor
    if best is not None:
        tensors |= {f"best.{name}": tensor for name, tensor in best.weights.items()}
    tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    beside = folder / f"{FILE}.new"
    save_file(tensors, beside, metadata={"state": json.dumps(state)})
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(beside, folder / FILE)


def read(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """What `save` wrote: all tensors, and the state.

    Raises:
        TrainingError: there is no checkpoint, or it is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        raise TrainingError(f"{folder} holds no checkpoint to resume from: train without --resume")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return tensors, json.loads(file.metadata()["state"])
    except (SafetensorError, TypeError, LookupError, ValueError) as error:
        raise TrainingError(
            f"{path} is damaged and cannot be resumed from ({error}): start anew with --overwrite"
        ) from error


def restore(
    tensors: Mapping[str, Tensor], module: nn.Module, optimizers: list[torch.optim.Optimizer]
) -> None:
    """Put the tensors of a checkpoint back into the same parts."""
    module.load_state_dict(
        {n.removeprefix("module."): t for n, t in tensors.items() if n.startswith("module.")}
    )
    for number, optimizer in enumerate(optimizers):
        prefix = f"optimizer.{number}."
        slots: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(prefix):
                index, key = name.removeprefix(prefix).split(".")
                slots.setdefault(int(index), {})[key] = tensor
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": slots, "param_groups": groups})
