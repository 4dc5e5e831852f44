"""Checkpoints: one safetensors file, written beside and renamed; a run goes on from it exactly."""

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from zoo.errors import TrainingError

FILE = "checkpoint.safetensors"


def save(
    folder: Path, module: nn.Module, optimizers: list[torch.optim.Optimizer], state: dict[str, Any]
) -> None:
    """Write weights, optimiser state and the run's own counters; the old file stays until then.

    Args:
        folder: of the unfinished run.
        module: unwrapped.
        optimizers: in a fixed order; their state must be tensors.
        state: JSON values, such as the step.
    """
    tensors = {f"module.{name}": tensor for name, tensor in module.state_dict().items()}
    for number, optimizer in enumerate(optimizers):
        for index, values in optimizer.state_dict()["state"].items():
            for key, tensor in values.items():
                tensors[f"optimizer.{number}.{index}.{key}"] = tensor
    tensors = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    beside = folder / f"{FILE}.new"
    save_file(tensors, beside, metadata={"state": json.dumps(state)})
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(beside, folder / FILE)


def restore(
    folder: Path, module: nn.Module, optimizers: list[torch.optim.Optimizer]
) -> dict[str, Any]:
    """Read what `save` wrote back into the same parts, and return the state.

    Raises:
        TrainingError: there is no checkpoint, or it is damaged or of another model.
    """
    path = folder / FILE
    if not path.is_file():
        raise TrainingError(f"{folder} holds no checkpoint to resume from: train without --resume")
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            state: dict[str, Any] = json.loads(file.metadata()["state"])
        module.load_state_dict(
            {n.removeprefix("module."): t for n, t in tensors.items() if n.startswith("module.")}
        )
    except (SafetensorError, RuntimeError) as error:
        raise TrainingError(f"{path} cannot be resumed from: {error}") from error
    for number, optimizer in enumerate(optimizers):
        prefix = f"optimizer.{number}."
        slots: dict[int, dict[str, torch.Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(prefix):
                index, key = name.removeprefix(prefix).split(".")
                slots.setdefault(int(index), {})[key] = tensor
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": slots, "param_groups": groups})
    return state
