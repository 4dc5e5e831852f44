"""Gradual unfreezing: the last layer learns first, then one more at a time, down to the first.

Source: Howard & Ruder 2018, "Universal Language Model Fine-tuning for Text Classification",
arXiv:1801.06146, section 3.3.

Difference: the paper unfreezes one layer an epoch. Here the training is cut into as many equal
parts as there are groups of layers, so that it does not depend on the number of epochs.
"""

from torch import nn

from zoo.tuning.parts import blocks


def adapt(module: nn.Module) -> nn.Module:
    """Let every parameter learn, in its turn.

    The module gets a function `set_progress(share)`, which the training loop calls before each
    step with the share of the steps that are done: 0 at the start, below 1 at the end.
    """
    layers = groups(module)

    def set_progress(share: float) -> None:
        awake = 1 + int(share * len(layers))
        for number, layer in enumerate(layers):
            for parameter in layer:
                parameter.requires_grad_(number < awake)

    module.requires_grad_(True)
    module.set_progress = set_progress  # type: ignore[assignment]
    return module


def groups(module: nn.Module) -> list[list[nn.Parameter]]:
    """Parameters from the output to the input: what follows the blocks, each block, the rest."""
    layers = blocks(module)
    inside = {id(p) for block in layers for p in block.parameters()}
    before: list[nn.Parameter] = []
    after: list[nn.Parameter] = []
    place = before
    for parameter in module.parameters():
        if id(parameter) in inside:
            place = after
        else:
            place.append(parameter)
    if not layers:  # every part with parameters is a layer
        return [[p] for p in reversed(before)]
    return [g for g in (after, *(list(b.parameters()) for b in reversed(layers)), before) if g]
