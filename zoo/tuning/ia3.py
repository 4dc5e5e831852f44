"""(IA)3: one learned factor for each key, value and hidden unit of the feed-forward part.

Source: Liu et al. 2022, "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than
In-Context Learning", arXiv:2205.05638, section 3.3: softmax(Q (l_k * K)^T / sqrt(E)) (l_v * V), and
W_down (l_ff * f(W_up x)), with l_k, l_v, l_ff one at the start.

Differences: none from PEFT; the tests hold the two equal. Where one matrix makes queries, keys and
values together, the queries get factors too; with l_k they are a product that l_k alone could be.
"""

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.tuning.parts import Targets, blocks, chosen, freeze, linears, sublayers

# names of matrices that make queries alone
QUERIES = ("q", "query", "q_proj", "q_lin", "query_proj")


class Ia3Linear(nn.Linear):
    """A linear layer with factors on its outputs, or on its inputs; made in place by `extend`."""

    ia3_l: nn.Parameter
    on_inputs: bool

    def forward(self, x: Tensor) -> Tensor:
        """W (l * x) + b, or l * (W x + b)."""
        if self.on_inputs:
            return super().forward(x * self.ia3_l.flatten())
        return super().forward(x) * self.ia3_l.flatten()

    def merge(self) -> nn.Linear:
        """Multiply the factors into the weight and bias; returns the plain layer."""
        return self._plain(self.ia3_l)

    def unmerge(self) -> nn.Linear:
        """Divide weight and bias by factors that are in them; returns the plain layer.

        Raises:
            ConfigError: a factor is 0, so that what it multiplied is gone.
        """
        if (self.ia3_l == 0).any():
            raise ConfigError("a factor of the (IA)3 adapter is 0: what it was put into is gone")
        return self._plain(1 / self.ia3_l)

    def _plain(self, factors: Tensor) -> nn.Linear:
        plain = nn.Linear(self.in_features, self.out_features, bias=False, device="meta")
        # (1, N) on columns, (M, 1) on rows
        plain.weight = nn.Parameter((self.weight * factors).detach(), requires_grad=False)
        plain.bias = self.bias
        if self.bias is not None and not self.on_inputs:
            plain.bias = nn.Parameter((self.bias * factors.flatten()).detach(), False)
        return plain

    @classmethod
    def extend(cls, layer: nn.Linear, *, on_inputs: bool) -> None:
        """Turn a linear layer into one of these; its parameters stay, under their names."""
        shape = (1, layer.in_features) if on_inputs else (layer.out_features, 1)  # PEFT's
        layer.__class__ = cls
        layer.ia3_l = nn.Parameter(torch.ones(shape).to(layer.weight))
        layer.on_inputs = on_inputs  # type: ignore[assignment]


def adapt(
    module: nn.Module, *, target_modules: Targets = None, feedforward_modules: Targets = None
) -> nn.Module:
    """Put factors on chosen linear layers.

    Args:
        module: a trained one.
        target_modules: layers with factors, by name or how names end; unless given, those that make
            keys and values, and the last one of each feed-forward part.
        feedforward_modules: those of them whose inputs get the factors; none when only
            `target_modules` is given.

    Raises:
        ConfigError: no such layer.
    """
    inputs = _feed_forward(module)
    if target_modules is not None or feedforward_modules is not None:
        inputs = set(chosen(module, feedforward_modules, ())) if feedforward_modules else set()
    usual = _keys_and_values(module) | inputs
    layers = chosen(module, target_modules, usual)
    freeze(module)
    for name, layer in layers.items():
        Ia3Linear.extend(layer, on_inputs=name in inputs)
    return module


def _feed_forward(module: nn.Module) -> set[str]:
    """Names of the matrix that ends each block."""
    ends = [list(linears(block).values())[-1:] for block in blocks(module) or [module]]
    return _names(module, [layer for end in ends for layer in end])


def _keys_and_values(module: nn.Module) -> set[str]:
    """Names of the matrices before the one that ends each attention, without the queries'."""
    attentions = [part for block in blocks(module) for part in sublayers(block)[:-1]]
    names = _names(module, [m for a in attentions for m in list(linears(a).values())[:-1]])
    return {name for name in names if name.rsplit(".", 1)[-1] not in QUERIES}


def _names(module: nn.Module, layers: list[nn.Linear]) -> set[str]:
    wanted = {id(layer) for layer in layers}
    return {name for name, layer in linears(module).items() if id(layer) in wanted}
