"""Checkpoints: one safetensors file, written beside and renamed; a run goes on from it exactly."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

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
