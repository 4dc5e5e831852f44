"""BitFit: only biases learn.

Source: Ben Zaken et al. 2022, "BitFit: Simple Parameter-efficient Fine-tuning for
Transformer-based Masked Language-models", arXiv:2106.10199, section 3: in y = W x + b and in the
norms' g * x + b only b changes.

Difference: a module without any bias (Llama's block) gets one on each linear layer inside its
blocks, zero at the start.
"""

import torch
from torch import nn

from zoo.tuning.parts import chosen, freeze, inner_linears


def adapt(module: nn.Module) -> nn.Module:
    """Let the biases learn.

    Raises:
        ConfigError: the module has neither a bias nor a linear layer.
    """
    freeze(module)
    biases = [p for name, p in module.named_parameters() if name.rsplit(".", 1)[-1] == "bias"]
    if not biases:
        for layer in chosen(module, None, inner_linears(module)).values():
            zeros = torch.zeros(layer.out_features).to(layer.weight)
            layer.bias = nn.Parameter(zeros)
            biases.append(layer.bias)
    for bias in biases:
        bias.requires_grad_(True)
    return module
