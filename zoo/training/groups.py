"""The parameter groups of a run in words: which parameters, at which rate, frozen until when."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn


def described(
    module: nn.Module,
    optimizers: Sequence[torch.optim.Optimizer],
    peaks: Sequence[Sequence[float]],
    frozen: Sequence[str],
    epochs: float,
) -> list[dict[str, Any]]:
    """One entry a group.

    Args:
        module: whose parameters they are.
        optimizers: that have them.
        peaks: the highest learning rate of each group of each optimiser.
        frozen: names of the parameters that are frozen at first.
        epochs: for how long.

    Returns:
        `parameters` with `*` for the number of a block, how many `numbers` that are, `optimizer`,
        `learning_rate`, `weight_decay` and `frozen_epochs`.
    """
    names = {id(parameter): name for name, parameter in module.named_parameters()}
    entries = []
    for optimizer, rates in zip(optimizers, peaks, strict=True):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            held = [names[id(parameter)] for parameter in group["params"]]
            if not held:
                continue
            is_frozen = set(held) <= set(frozen) and epochs > 0
            entries.append(
                {
                    "parameters": list(dict.fromkeys(re.sub(r"(?<=\.)\d+", "*", n) for n in held)),
                    "numbers": sum(parameter.numel() for parameter in group["params"]),
                    "optimizer": type(optimizer).__name__,
                    "learning_rate": rate,
                    "weight_decay": group["weight_decay"],
                    "frozen_epochs": _plain(epochs) if is_frozen else 0,
                }
            )
    return entries


def lines(entries: Iterable[Mapping[str, Any]]) -> list[str]:
    """The same for people, a line a group."""
    texts = []
    for entry in entries:
        held = entry["parameters"]
        which = ", ".join(held) if len(held) < 4 else f"{held[0]} and {len(held) - 1} more kinds"
        epochs = entry["frozen_epochs"]
        after = f", frozen for {epochs} epochs" if epochs else ""
        texts.append(
            f"{entry['numbers']:,} numbers in {which}: {entry['optimizer']} at "
            f"{entry['learning_rate']:g}, weight decay {entry['weight_decay']:g}{after}"
        )
    return texts


def _plain(epochs: float) -> float | str:
    """A number of epochs that JSON can hold."""
    return "all" if epochs == float("inf") else epochs
