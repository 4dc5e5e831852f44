"""Ways of adapting a trained model: one file each, and `adapt` to use any by name.

A method is a function `adapt(module, **options) -> module`, registered through the hook
`txzoo_tunings`. It changes the module in place, by names and types, and returns it; the parameters
that want a gradient afterwards are what is trained, and all that an adapter's file holds.
"""

import inspect
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from torch import nn

from zoo.errors import ConfigError
from zoo.registry import registry, resolve
from zoo.tuning.parts import share

__all__ = ["adapt", "merge", "share", "trained", "unmerge"]


def adapt(
    module: nn.Module, tuning: str, *, fresh: Sequence[str] = (), **options: Any
) -> nn.Module:
    """Adapt a module in place by a registered method, and return it.

    Args:
        module: a trained one.
        tuning: name of the method, such as "lora".
        fresh: names of parts that are not trained yet, and so learn by any method.
        options: of the method.

    Raises:
        UnknownNameError: no such method.
        ConfigError: an option that it does not have, or that cannot work; nothing to train.
    """
    target = resolve(registry().tunings.get(tuning).target)
    known = list(inspect.signature(target).parameters)[1:]
    for name, value in options.items():
        if name not in known:
            close = get_close_matches(name, known, n=1)
            guess = f" Did you mean {close[0]!r}?" if close else ""
            raise ConfigError(
                f"The tuning {tuning} has no option {name}={value!r}.{guess} "
                f"Options: {', '.join(known) or 'none'}"
            )
    adapted: nn.Module = target(module, **options)
    for name in fresh:
        adapted.get_submodule(name).requires_grad_(True)
    if not trained(adapted):
        raise ConfigError(f"{tuning} leaves nothing to train in {type(module).__name__}")
    return adapted


def trained(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that learn, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def merge(module: nn.Module) -> nn.Module:
    """Put what was learned beside the weights into them, in place.

    Returns:
        The module, of plain layers again, which computes the same.

    Raises:
        ConfigError: the method adds what no weight can hold.
    """
    return _replaced(module, "merge")


def unmerge(module: nn.Module) -> nn.Module:
    """Take out of the weights what `merge` put into them, in place.

    Args:
        module: a merged one, to which the same method with the same numbers was applied again.

    Returns:
        The module, of plain layers again, which computes as the base does, but for rounding.

    Raises:
        ConfigError: the method adds what no weight can hold, or overwrites weights, or has a factor
            that is 0.
    """
    if not any(hasattr(part, "unmerge") for part in module.modules()):
        raise ConfigError("no layer says how what was learned is taken out of it again")
    return _replaced(module, "unmerge")


def _replaced(module: nn.Module, how: str) -> nn.Module:
    """The module, with each adapted layer replaced by what one of its functions gives."""
    if hasattr(module, "prompt_embeddings"):
        raise ConfigError("what stands before the text cannot be merged into weights")
    for name, part in list(module.named_modules()):
        if hasattr(part, "adapter"):
            raise ConfigError(f"{name} has a bottleneck adapter, which no weight can hold")
        if hasattr(part, how):
            parent, _, own = name.rpartition(".")
            setattr(module.get_submodule(parent), own, getattr(part, how)())
    return module
