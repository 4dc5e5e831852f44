"""Another head, and other positions, on the numbers of a trained module.

A model that was trained to fill in words has no layer that names a label. What both have in common
is taken over; what only the new one has is drawn anew, and learns whatever the method is, as in
Devlin et al. 2019, arXiv:1810.04805, section 3.2.
"""

from collections.abc import Mapping
from typing import Any

from torch import nn

from zoo.errors import ConfigError

HEADS = ("head", "pooling")  # what stands behind the blocks and may be another
LARGER = {"image_size": 4}  # what may grow where the positions do, and how many times


def head_part(module: nn.Module, name: str) -> str | None:
    """The part behind the blocks that a parameter belongs to, None for any other.

    A module whose parts are called otherwise says so by a method `head_part(name)` of its own.
    """
    own = getattr(module, "head_part", None)
    if own is not None:
        return own(name)  # type: ignore[no-any-return]
    first = name.split(".")[0]
    return first if first in HEADS else None


def refit(module: nn.Module, changes: Mapping[str, Any]) -> tuple[nn.Module, list[str]]:
    """A module of a changed configuration, on the numbers of a trained one.

    Args:
        module: a trained one; it is not changed, and shares its numbers with the new one.
        changes: other values for its configuration: `head`, `labels`, `pooling`, `dropout`, a
            smaller `max_seq_len`, whose table of positions keeps its first rows; another
            `image_size`, at most four times, where the positions have a method
            `resized(config)` that gives their table for another configuration.

    Returns:
        The module, and the names of those of its parts that hold no trained number. With nothing
        to change, the module itself and no names.

    Raises:
        ConfigError: an unknown key, a value that does not work, or one that asks for other weights
            than the trained ones.
    """
    old: Any = module.config
    if all(getattr(old, key, changes) == _plain(value) for key, value in changes.items()):
        return module, []
    values, parts = {**old.to_dict(), **changes}, dict(module.named_modules())
    larger = LARGER if any(hasattr(part, "resized") for part in parts.values()) else {}
    # before anything is built: what comes from a file must not fill the memory
    for key, value in values.items():
        before = getattr(old, key, None)
        if type(value) is int and type(before) is int and value > before * larger.get(key, 1):
            limit = f"grow beyond {before * larger[key]}" if key in larger else "grow"
            raise ConfigError(f"{key}={value}: the trained model has {before}, it cannot {limit}")
    config = old.from_dict(values)
    most = getattr(old, "max_seq_len", 0) * LARGER["image_size"] ** 2
    if getattr(config, "max_seq_len", 0) > most:  # smaller patches are more of them
        raise ConfigError(f"{config.max_seq_len} positions: the trained model can have {most}")
    new = type(module)(config)
    trained = dict(module.named_parameters())
    fresh: list[str] = []
    inner: list[str] = []
    same_head = all(getattr(old, k, 0) == getattr(config, k, 0) for k in ("head", "labels"))
    for name, parameter in new.named_parameters():
        part, source = head_part(new, name), trained.get(name)
        owner, _, own = name.rpartition(".")
        if source is not None and source.shape != parameter.shape:
            resized = getattr(parts.get(owner), "resized", None)
            if resized is not None:
                source = nn.Parameter(resized(config).detach().clone())
            elif _is_table_of_positions(source, parameter, old, config):
                source = nn.Parameter(source[: len(parameter)].detach().clone())
        if (
            source is None
            or source.shape != parameter.shape
            or (part not in (None, "pooling") and not same_head)
        ):
            if part is None:
                inner.append(name.split(".")[0])
            else:
                fresh.append(part)
            continue
        setattr(new.get_submodule(owner), own, source)
    if inner:
        raise ConfigError(
            f"{', '.join(f'{key}={value!r}' for key, value in changes.items())} asks for other "
            f"weights than the trained model has: {', '.join(dict.fromkeys(inner))}"
        )
    return new.train(module.training), list(dict.fromkeys(fresh))


def _plain(value: Any) -> Any:
    """As configurations keep it: lists are tuples."""
    return tuple(value) if isinstance(value, list) else value


def _is_table_of_positions(old: Any, new: Any, before: Any, after: Any) -> bool:
    rows = before.max_seq_len, after.max_seq_len
    return (len(old), len(new)) == rows and old.shape[1:] == new.shape[1:] and rows[0] > rows[1]
