"""What converters of foreign checkpoints share: every tensor is placed, or named in an error."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from zoo.errors import WeightsError


def load_renamed(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    names: Mapping[str, str],
    change: Callable[[str, Tensor], Tensor] = lambda name, tensor: tensor,
    ignored: tuple[str, ...] = (),
) -> None:
    """Load a foreign checkpoint into a module.

    Args:
        module: where the weights go.
        tensors: the checkpoint, under its own names.
        names: our parameter names to the checkpoint's.
        change: called with our name and the tensor, returns it in our layout.
        ignored: endings of checkpoint names that may be left unused (buffers, tied copies).

    Raises:
        WeightsError: a tensor is missing, left over, or of another shape.
    """
    missing = sorted(theirs for theirs in names.values() if theirs not in tensors)
    unused = sorted(
        name for name in tensors if name not in set(names.values()) and not name.endswith(ignored)
    )
    if missing or unused:
        raise WeightsError(
            f"The checkpoint does not fit {type(module).__name__}: "
            f"missing {missing[:5] or 'nothing'}, left over {unused[:5] or 'nothing'}"
        )
    state = {ours: change(ours, tensors[theirs]) for ours, theirs in names.items()}
    own = module.state_dict()
    for name, tensor in state.items():
        if tensor.shape != own[name].shape:
            raise WeightsError(
                f"{names[name]} is {tuple(tensor.shape)}, "
                f"{type(module).__name__}.{name} is {tuple(own[name].shape)}"
            )
    module.load_state_dict(state)
