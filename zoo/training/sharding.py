"""A model whose weights, gradients and optimiser states are divided between processes.

Fully sharded data parallelism (Zhao et al. 2023, "PyTorch FSDP", arXiv:2304.11277; the idea is that
of Rajbhandari et al. 2020, "ZeRO", arXiv:1910.02054, stage 3), as PyTorch's `fully_shard` does it.
Each process keeps a part of every weight; a block's weights are whole only while it computes.

What is asked for stands in the launch configuration of `accelerate`, not in the recipe: it changes
where a run computes, not what it learns. `accelerate` itself shards on accelerators only, so that
`fully_shard` is called here, which works on processors too.
"""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from torch.utils.checkpoint import checkpoint


def is_asked_for(accelerator: Accelerator) -> bool:
    """Whether `accelerate launch --use_fsdp`, or its variable, asks several processes to shard."""
    return accelerator.num_processes > 1 and _is_set("ACCELERATE_USE_FSDP")


def recomputes() -> bool:
    """Whether `--fsdp_activation_checkpointing true`, or its variable, asks to save activations."""
    return _is_set("FSDP_ACTIVATION_CHECKPOINTING")


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true", "yes")


def blocks_of(module: nn.Module) -> list[nn.Module]:
    """The parts that a module has in a list, such as its layers; not the parts of those."""
    found: list[nn.Module] = []
    for part in module.children():
        found += list(part) if isinstance(part, nn.ModuleList) else blocks_of(part)
    return found


def shard(module: nn.Module, device: torch.device) -> None:
    """Divide a module's parameters between all processes, in place: they become `DTensor`s."""
    module.to(device)
    mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
    for block in blocks_of(module):
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)


def gather(module: nn.Module, *, keep: bool) -> None:
    """Make a sharded module's parameters whole again, on the processor; it cannot train any more.

    All processes call it together.

    Args:
        module: that was sharded.
        keep: whether this process needs them; they are empty if not.
    """
    module.state_dict()  # has every block divided, as after a step
    whole: dict[int, nn.Parameter] = {}  # by what they were: tied ones stay tied
    for part in module.modules():
        for name, own in list(part.named_parameters(recurse=False)):
            if id(own) not in whole:
                full = own.full_tensor() if isinstance(own, DTensor) else own
                kept = full.detach().cpu() if keep else torch.empty(0)
                whole[id(own)] = nn.Parameter(kept, own.requires_grad)
            part._parameters[name] = whole[id(own)]


def part_of(tensor: Tensor) -> tuple[Tensor, int]:
    """This process's rows of a tensor and the first one's place; all if it is not sharded."""
    if not isinstance(tensor, DTensor):
        return tensor, 0
    _, offset = compute_local_shape_and_global_offset(
        tensor.shape, tensor.device_mesh, tensor.placements
    )
    return tensor.to_local(), offset[0] if offset else 0


def placed(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, divided between processes as another one is."""
    if not isinstance(like, DTensor):
        return tensor
    rows, first = part_of(like)
    piece = tensor[first : first + len(rows)].to(rows.device).contiguous()
    return DTensor.from_local(
        piece, like.device_mesh, like.placements, shape=like.shape, stride=like.stride()
    )


def recompute(module: nn.Module, within: Callable[[], AbstractContextManager[Any]]) -> None:
    """Keep only what goes into each block, and compute the block again when its gradient is wanted.

    Chen et al. 2016, "Training deep nets with sublinear memory cost" (arXiv:1604.06174): a third
    more computation for memory that grows with the blocks' inputs alone. Nothing else changes.

    Args:
        module: whose blocks.
        within: gives the context in which a block was computed, for the second time: PyTorch's
            function modes do not reach there.
    """

    def contexts() -> tuple[AbstractContextManager[Any], AbstractContextManager[Any]]:
        return nullcontext(), within()

    for block in blocks_of(module):
        plain = block.forward

        def again(*given: Any, plain: Any = plain, **named: Any) -> Any:
            if not torch.is_grad_enabled():
                return plain(*given, **named)
            return checkpoint(plain, *given, use_reentrant=False, context_fn=contexts, **named)

        cast(Any, block).forward = again
