"""What readers of foreign checkpoints share: every tensor is placed, or named in an error."""

from collections.abc import Callable, Mapping
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError, WeightsError

# how something was saved, or how it is to be run: neither changes what is computed, and some of
# it, such as a kernel from the Hub in place of attention, would run a stranger's code
NOT_READ = (
    "attn_implementation",
    "auto_map",
    "chunk_size_feed_forward",
    "custom_pipelines",
    "distributed_config",
    "dtype",
    "experts_implementation",
    "fusion_config",
    "kernel_config",
    "name_or_path",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "quantization_config",
    "reference_compile",
    "return_dict",
    "tf_legacy_loss",
    "torch_dtype",
    "torchscript",
    "tp_plan",
    "transformers_version",
    "use_bfloat16",
    "use_kernels",
    "use_return_dict",
)
MOST_SIZE = 1 << 20  # of any number in a configuration: its tables fit into memory
MOST_COUNT = 1 << 12  # of layers, heads, labels


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


def check_sizes(values: Any, key: str = "transformers") -> None:
    """Raise `ConfigError` for what no JSON holds, and for numbers that would fill the memory."""
    if isinstance(values, Mapping):
        for name, value in values.items():
            check_sizes(value, str(name))
    elif isinstance(values, list | tuple):
        for value in values:
            check_sizes(value, key)
    elif type(values) is int:
        counts = key.startswith(("num_", "n_")) or key == "inner_group_num"
        most = MOST_COUNT if counts else MOST_SIZE
        if abs(values) > most:
            raise ConfigError(f"transformers: {key}={values} is beyond {most}, the most there is")
    elif not isinstance(values, str | float | bool | None):
        raise ConfigError(f"transformers: {key}={values!r} is no plain value")


class Tied(nn.Module):
    """A linear layer on numbers that other parts hold, such as the token embeddings.

    It asks those parts each time: who exchanges or saves their numbers need not know of it.

    Args:
        layer: the layer that it replaces.
        sources: for "weight" or "bias", the part and the name of its parameter.
    """

    def __init__(self, layer: nn.Linear, sources: dict[str, tuple[nn.Module, str]]) -> None:
        super().__init__()
        self.sources = sources
        for name, parameter in layer.named_parameters(recurse=False):
            if name not in sources:
                self.register_parameter(name, parameter)

    def forward(self, x: Tensor) -> Tensor:
        """What the layer computes."""
        return F.linear(x, self._number("weight"), self._number("bias"))

    def _number(self, name: str) -> Any:
        """The weight or the bias; None for a layer without one."""
        if name in self.sources:
            return getattr(*self.sources[name])
        return getattr(self, name, None)


def untangle(model: nn.Module) -> dict[str, str]:
    """Let each number be held by one part only; returns the second names, and the first of each."""
    first: dict[int, tuple[str, nn.Module, str]] = {}
    seconds: dict[str, dict[str, tuple[str, nn.Module, str]]] = {}
    # a table of embeddings before the layer that is tied to it, wherever the two stand
    for owner, part in sorted(model.named_modules(), key=lambda m: isinstance(m[1], nn.Linear)):
        for name, parameter in part.named_parameters(recurse=False):
            place = (f"{owner}.{name}", part, name)
            held = first.setdefault(id(parameter), place)
            if held is not place:
                seconds.setdefault(owner, {})[name] = held
    for owner, parameters in seconds.items():
        layer = model.get_submodule(owner)
        if not isinstance(layer, nn.Linear):
            raise ConfigError(f"{owner} shares its numbers and is no linear layer: not read")
        parent, _, name = owner.rpartition(".")
        sources = {key: (part, own) for key, (_, part, own) in parameters.items()}
        setattr(model.get_submodule(parent), name, Tied(layer, sources))
    return {
        f"{owner}.{name}": held[0]
        for owner, parameters in seconds.items()
        for name, held in parameters.items()
    }
