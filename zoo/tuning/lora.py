"""LoRA: a frozen matrix plus a product of two thin ones that learn.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", arXiv:2106.09685,
eq. 3: y = W x + (alpha / r) B A x, with W (M x N) frozen, A (r x N) random and B (M x r) zero at
the start, so that the adapted model begins as the old one.

Differences: none from PEFT; the tests hold the two equal. All matrices of the blocks are adapted
unless told (the paper: the queries' and values'; Dettmers et al. 2023, arXiv:2305.14314, section 4:
all of them are needed to reach full fine-tuning).
"""

import math

from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.tuning.parts import Targets, chosen, freeze, inner_linears, require_share, require_whole


class LoraLinear(nn.Linear):
    """A linear layer with a low-rank change beside it; made of one in place by `extend`."""

    lora_A: nn.Linear
    lora_B: nn.Linear
    lora_dropout: nn.Dropout
    scale: float

    def forward(self, x: Tensor) -> Tensor:
        """W x + b + (alpha / r) B A x."""
        low = self.lora_A(self.lora_dropout(x))  # (..., r)
        change: Tensor = self.lora_B(low) * self.scale
        return super().forward(x) + change

    def change(self) -> Tensor:
        """What the product adds to the weight: (alpha / r) B A."""
        return (self.lora_B.weight @ self.lora_A.weight) * self.scale

    def merge(self) -> nn.Linear:
        """Add the product into the weight; the layer is a plain one again, and returned."""
        return self._plain(self.weight + self.change())

    def unmerge(self) -> nn.Linear:
        """Take the product out of a weight that it was added to; returns the plain layer."""
        return self._plain(self.weight - self.change())

    def _plain(self, weight: Tensor) -> nn.Linear:
        plain = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(weight.detach(), requires_grad=False)
        plain.bias = self.bias
        return plain

    @classmethod
    def extend(cls, layer: nn.Linear, rank: int, alpha: float, dropout: float) -> None:
        """Turn a linear layer into one of these; its parameters stay, under their names."""
        layer.__class__ = cls
        layer.lora_A = nn.Linear(layer.in_features, rank, bias=False).to(layer.weight)
        layer.lora_B = nn.Linear(rank, layer.out_features, bias=False).to(layer.weight)
        layer.lora_dropout = nn.Dropout(dropout)
        layer.scale = alpha / rank  # type: ignore[assignment]
        nn.init.kaiming_uniform_(layer.lora_A.weight, a=math.sqrt(5))  # Hu et al.'s own code
        nn.init.zeros_(layer.lora_B.weight)


def adapt(
    module: nn.Module,
    *,
    rank: int = 8,
    alpha: float = 16,
    dropout: float = 0.0,
    target_modules: Targets = None,
) -> nn.Module:
    """Put a low-rank change beside chosen linear layers.

    Args:
        module: a trained one.
        rank: r, columns of B.
        alpha: the change is multiplied by alpha / r.
        dropout: on the input of A.
        target_modules: names of layers, or how they end; all inside the blocks unless given.

    Raises:
        ConfigError: a rank below 1, an alpha of 0 or below, no such layer.
    """
    require_whole("LoRA rank", rank)
    require_share("LoRA dropout", dropout)
    if type(alpha) not in (int, float) or not 0 < alpha < math.inf:
        raise ConfigError(f"LoRA alpha must be a number above 0, got {alpha!r}")
    layers = chosen(module, target_modules, inner_linears(module))
    freeze(module)
    for layer in layers.values():
        LoraLinear.extend(layer, rank, alpha, dropout)
    return module
