"""What the methods find in a module by names and types, whatever its architecture."""

import copy
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from functools import partial
from typing import Any

from torch import nn

from zoo.errors import ConfigError

Targets = str | Sequence[str] | None
OTHERS = "lora, ia3, houlsby, pfeiffer or bitfit"  # methods that work wherever there are blocks


def blocks(module: nn.Module) -> list[nn.Module]:
    """The layers that a transformer repeats, in the order in which they were made.

    They are the members of each `ModuleList` of parts of one class with matrices inside: both
    stacks of an encoder-decoder. A list inside a member is part of that member, unless the member
    has no matrix besides it (ALBERT's groups of layers).
    """
    found: list[nn.Module] = []
    inside: set[int] = set()
    for part in module.modules():
        if isinstance(part, nn.ModuleList) and id(part) not in inside and _repeats(part):
            inner = [block for member in part for block in blocks(member)]
            held = sum(len(linears(block)) for block in inner)
            found += inner if held == len(linears(part)) else part
            inside |= {id(each) for member in part for each in member.modules()}
    return found


def _repeats(part: nn.ModuleList) -> bool:
    """Whether its members are one part again and again, and no bare matrices."""
    return (
        len({type(member) for member in part}) == 1
        and not isinstance(part[0], nn.Linear)
        and all(linears(member) for member in part)
    )


def linears(module: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers by name, in the order in which they were made."""
    return {name: part for name, part in module.named_modules() if isinstance(part, nn.Linear)}


def inner_linears(module: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers inside the blocks; all of them when there are no blocks."""
    inside = {id(part) for block in blocks(module) for part in block.modules()}
    found = linears(module)
    return {name: part for name, part in found.items() if id(part) in inside} or found


def sublayers(block: nn.Module) -> list[nn.Module]:
    """The parts of a block that compute with matrices: attention first, feed-forward last.

    Of a feed-forward part that is spread out over the block, its last matrix.
    """
    parts = [part for part in block.children() if linears(part)]
    return [part for part in parts if part is parts[-1] or not isinstance(part, nn.Linear)]


def chosen(module: nn.Module, targets: Targets, usual: Iterable[str]) -> dict[str, nn.Linear]:
    """The linear layers that are to be changed.

    Args:
        module: where they are.
        targets: full names, or how names end after a dot, as in PEFT: `["qkv", "out"]`;
            "all-linear" for all inside the blocks; None for the usual ones.
        usual: full names of those that the method changes unless told.

    Raises:
        ConfigError: a target that is none, or no linear layer at all.
    """
    known = linears(module)
    if targets is None:
        names = set(usual)
    elif targets == "all-linear":
        names = set(inner_linears(module))
    else:
        names = set()
        for target in [targets] if isinstance(targets, str) else targets:
            found = {name for name in known if name == target or name.endswith(f".{target}")}
            names |= found or _unknown(module, target, list(known))
    if not names:
        raise ConfigError(f"{type(module).__name__} has no linear layer, so nothing to adapt")
    return {name: part for name, part in known.items() if name in names}


def _unknown(module: nn.Module, target: str, known: list[str]) -> set[str]:
    """Raise for a target module that is not there."""
    # one line for all blocks: "blocks.0.attention.qkv" and its likes end alike
    short = list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in known))
    close = get_close_matches(str(target), [*short, *known], n=3, cutoff=0.5)
    guess = f" Did you mean {' or '.join(map(repr, close))}?" if close else ""
    raise ConfigError(
        f"{type(module).__name__} has no linear layer {target!r}.{guess} "
        f"Names: {', '.join(short)}. In full: {', '.join(known)}"
    )


def freeze(module: nn.Module) -> None:
    """Nothing of it is trained any more."""
    module.requires_grad_(False)


def wrap(module: nn.Module, method: str, call: Callable[..., Any]) -> None:
    """Put a function around a method of one module, and of its copies.

    Args:
        module: whose method it is.
        method: its name.
        call: called as `call(module, plain, *args)`, where `plain(*args)` is the method.
    """
    kind = type(module)

    def wrapped(called: nn.Module, *args: Any) -> Any:
        return call(called, partial(getattr(kind, method), called), *args)

    own = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
    module.__class__ = type(kind.__name__, (kind,), {**own, method: wrapped})


def require_whole(what: str, value: object) -> None:
    """Raise `ConfigError` unless a size is a whole number above 0."""
    if type(value) is not int or value < 1:
        raise ConfigError(f"{what} must be a whole number of at least 1, got {value!r}")


def require_share(what: str, value: object) -> None:
    """Raise `ConfigError` unless a probability lies from 0 to below 1."""
    if type(value) not in (int, float) or not 0 <= value < 1:  # type: ignore[operator]
        raise ConfigError(f"{what} must be from 0 to below 1, got {value!r}")


def share(module: nn.Module) -> nn.Module:
    """A second module on the same numbers: frozen parameters that share their memory."""
    memo: dict[int, object] = {
        id(parameter): nn.Parameter(parameter.detach(), requires_grad=False)
        for parameter in module.parameters()
    }
    memo |= {id(buffer): buffer for buffer in module.buffers()}
    return copy.deepcopy(module, memo)
