"""Checkpoints: safetensors, written beside and renamed; a run goes on from them exactly.

One file, or, of a sharded model, one of each process. The main process's has the names of the
others and is renamed last: until then the checkpoint before it is whole. Any number of processes
can read what any other number wrote.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from zoo.errors import TrainingError
from zoo.numbers import lower_is_better
from zoo.training.sharding import part_of, placed

FILE = "checkpoint.safetensors"
SHARDS = "checkpoint-*-of-*.safetensors"


@dataclass
class Best:
    """The weights with the best validation score so far; step 0 for none.

    Attributes:
        step: after which they were measured.
        metric: that they were best in.
        score: their value of it.
        weights: of the module, by name; this process's part where it is sharded.
    """

    step: int = 0
    metric: str = ""
    score: float = math.nan
    weights: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls, tensors: Mapping[str, Tensor], state: Mapping[str, Any], module: nn.Module
    ) -> "Best":
        """That of a checkpoint of a module."""
        if "best" not in state:
            return cls()
        own = module.state_dict()
        weights = {name: placed(tensors[f"best.{name}"], own[name]) for name in own}
        step, metric, score = state["best"]
        return cls(step, metric, score, weights)

    def look(self, module: nn.Module, step: int, metric: str, score: float) -> None:
        """Keep a module's weights if their score is finite and better than all before."""
        better = score < self.score if lower_is_better(metric) else score > self.score
        if math.isfinite(score) and (better or not self.step):
            self.step, self.metric, self.score = step, metric, score
            self.weights = {n: _kept(t.detach()) for n, t in module.state_dict().items()}

    def put_into(self, module: nn.Module) -> None:
        """Give a module these weights, if there are any."""
        if self.step:
            module.load_state_dict(self.weights)


def _kept(tensor: Tensor) -> Tensor:
    """A copy: on the processor, but for a part of a sharded tensor."""
    return tensor.clone() if isinstance(tensor, DTensor) else tensor.cpu().clone()


def save(
    folder: Path,
    module: nn.Module,
    optimizers: list[torch.optim.Optimizer],
    state: dict[str, Any],
    best: Best | None = None,
    *,
    rank: int = 0,
    world: int = 1,
    wait: Callable[[], None] = lambda: None,
) -> None:
    """Write weights, optimiser state and the run's own counters; the old files stay until then.

    All processes call it; those of a module that is not sharded write nothing but for the main one.

    Args:
        folder: of the unfinished run.
        module: unwrapped.
        optimizers: in a fixed order; their state must be tensors.
        state: JSON values, such as the step.
        best: weights that are kept besides.
        rank: number of this process; 0 is the main one.
        world: how many there are.
        wait: until all are there.
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
    is_sharded = any(isinstance(tensor, DTensor) for tensor in tensors.values())
    others = [
        f"checkpoint-{state['step']}-{number}-of-{world}.safetensors"
        for number in range(2, world + 1)
        if is_sharded
    ]
    if rank == 0 or is_sharded:
        parts, first = {}, {}
        for name, tensor in tensors.items():
            if rank and not isinstance(tensor, DTensor):
                continue  # each process has it: the main one writes it
            rows, place = part_of(tensor.detach())
            if rows.numel() or not isinstance(tensor, DTensor):
                parts[name], first[name] = rows.contiguous(), place
    if rank and is_sharded:
        _write(folder / others[rank - 1], parts, {"first": json.dumps(first)})
    wait()
    if rank == 0:
        facts = {"state": json.dumps(state), "first": json.dumps(first)}
        _write(folder / FILE, parts, {**facts, "others": json.dumps(others)})
        for path in folder.glob(SHARDS):
            if path.name not in others:
                path.unlink()
    wait()


def _write(path: Path, tensors: dict[str, Tensor], facts: dict[str, str]) -> None:
    beside = path.with_name(f"{path.name}.new")
    save_file(tensors, beside, metadata=facts)
    with beside.open("rb") as file:
        os.fsync(file.fileno())
    os.replace(beside, path)


class Stored(Mapping[str, Tensor]):
    """The tensors of a checkpoint, each read, and put together, when it is asked for.

    Args:
        files: opened ones of one checkpoint, with the first row of each of their tensors.
    """

    def __init__(self, files: list[tuple[Any, Mapping[str, int]]]) -> None:
        self._places: dict[str, list[tuple[int, Any]]] = {}
        for file, first in files:
            for name in file.keys():  # noqa: SIM118
                self._places.setdefault(name, []).append((first.get(name, 0), file))

    def __getitem__(self, name: str) -> Tensor:
        pieces = sorted(self._places[name], key=lambda pair: pair[0])
        tensors = [file.get_tensor(name) for _, file in pieces]
        return tensors[0] if len(tensors) == 1 else torch.cat(tensors)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def read(folder: Path) -> tuple[Stored, dict[str, Any]]:
    """What `save` wrote: all tensors, and the state.

    Raises:
        TrainingError: there is no checkpoint, or it is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        raise TrainingError(f"{folder} holds no checkpoint to resume from: train without --resume")
    try:
        main: Any = safe_open(path, framework="pt")
        facts = main.metadata()
        files = [(main, json.loads(facts.get("first", "{}")))]
        state = json.loads(facts["state"])
        for name in json.loads(facts.get("others", "[]")):
            path = folder / name
            other: Any = safe_open(path, framework="pt")
            files.append((other, json.loads(other.metadata()["first"])))
        return Stored(files), state
    except (OSError, SafetensorError, TypeError, AttributeError, LookupError, ValueError) as error:
        raise TrainingError(
            f"{path} is damaged and cannot be resumed from ({error}): start anew with --overwrite"
        ) from error


def restore(
    tensors: Mapping[str, Tensor], module: nn.Module, optimizers: list[torch.optim.Optimizer]
) -> None:
    """Put the tensors of a checkpoint back into the same parts, divided as these are."""
    own = module.state_dict()
    module.load_state_dict(
        {
            name: placed(tensors[f"module.{name}"], own[name]) if name in own else tensors[full]
            for full in tensors
            if full.startswith("module.") and (name := full.removeprefix("module."))
        }
    )
    for number, optimizer in enumerate(optimizers):
        held = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        prefix = f"optimizer.{number}."
        slots: dict[int, dict[str, Tensor]] = {}
        for name in tensors:
            if name.startswith(prefix):
                index, key = name.removeprefix(prefix).split(".")
                tensor, parameter = tensors[name], held[int(index)]
                if tensor.shape == parameter.shape:
                    tensor = placed(tensor, parameter)
                slots.setdefault(int(index), {})[key] = tensor
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": slots, "param_groups": groups})
