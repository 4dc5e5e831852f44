"""Bottleneck adapters: small networks put into the blocks of a frozen model.

Sources:
    Houlsby et al. 2019, "Parameter-Efficient Transfer Learning for NLP", arXiv:1902.00751,
    section 2.1: an adapter after the attention and one after the feed-forward part.
    Pfeiffer et al. 2021, "AdapterFusion", arXiv:2005.00247, section 3: one after the feed-forward
    part is enough.

Both: h' = h + W_up f(W_down h + b_down) + b_up, with W_down (R x D) and W_up (D x R), put on a
part's output h before it is added to the residual.

Difference: f is GELU in both (Houlsby's; Pfeiffer's is ReLU). The norms do not learn.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.tuning.parts import blocks, freeze, linears, require_whole, sublayers

NEAR_ZERO = (
    1e-3  # deviation of W_up at the start: nearly the identity (Houlsby et al., section 2.1)
)


class Bottleneck(nn.Module):
    """h + up(gelu(down(h)))."""

    def __init__(self, width: int, size: int) -> None:
        super().__init__()
        self.down = nn.Linear(width, size)
        self.up = nn.Linear(size, width)
        nn.init.normal_(self.up.weight, std=NEAR_ZERO)
        nn.init.zeros_(self.up.bias)

    def forward(self, h: Tensor) -> Tensor:
        """Read and write hidden states (..., D)."""
        return h + self.up(F.gelu(self.down(h)))  # type: ignore[no-any-return]


def houlsby(module: nn.Module, *, size: int = 16) -> nn.Module:
    """Put an adapter after each part of each block.

    Args:
        module: a trained one.
        size: width R of the bottleneck.

    Raises:
        ConfigError: a size below 1, or nothing to put one after.
    """
    return _insert(module, size, every=True)


def pfeiffer(module: nn.Module, *, size: int = 16) -> nn.Module:
    """Put an adapter after the last part of each block; arguments and errors as in `houlsby`."""
    return _insert(module, size, every=False)


def _insert(module: nn.Module, size: int, *, every: bool) -> nn.Module:
    require_whole("adapter size", size)
    freeze(module)
    parts = [
        part
        for block in blocks(module) or [module]
        for part in (sublayers(block) if every else sublayers(block)[-1:])
    ]
    if not parts:
        raise ConfigError(f"{type(module).__name__} has no linear layer to put an adapter after")
    for part in parts:
        last = list(linears(part).values())[-1]
        part.adapter = Bottleneck(last.out_features, size).to(last.weight)
        part.register_forward_hook(_through_adapter)
    return module


def _through_adapter(part: nn.Module, args: object, output: object) -> object:
    """A part's output, through its adapter; of several outputs the first is the hidden state."""
    if isinstance(output, tuple):
        return (part.adapter(output[0]), *output[1:])  # type: ignore[operator]
    return part.adapter(output)  # type: ignore[operator]
