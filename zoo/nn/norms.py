"""Normalisation layers, as fast as PyTorch has them; `spelled_out` has the formula step by step."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + eps) * weight + bias over the last axis.

    Ba, Kiros & Hinton 2016, "Layer Normalization", arXiv:1607.06450, eq. 4.

    Args:
        width: size of the last axis.
        eps: added to the variance, so that a constant input does not divide by zero.
    """

    def __init__(self, width: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)

    def spelled_out(self, x: Tensor) -> Tensor:
        """The same, step by step; the tests hold the two together."""
        centred = x - x.mean(dim=-1, keepdim=True)
        variance = centred.square().mean(dim=-1, keepdim=True)
        return centred / torch.sqrt(variance + self.eps) * self.weight + self.bias


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last axis.

    Zhang & Sennrich 2019, "Root Mean Square Layer Normalization", arXiv:1910.07467, eq. 4.

    Args:
        width: size of the last axis.
        eps: added to the mean square.
    """

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps
        self.least = torch.tensor(eps, device="cpu")

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or torch.compiler.is_exporting():
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        # there that is no kernel of its own: six calls, and a mean that is slow
        wide = torch.promote_types(x.dtype, torch.float32)
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide)
        mean = torch.addcmul(self.least, length, length, value=1 / x.shape[-1])  # mean(x^2) + eps
        return (x * mean.rsqrt() * self.weight).to(x.dtype)

    def spelled_out(self, x: Tensor) -> Tensor:
        """The same, step by step; the tests hold the two together."""
        return x / torch.sqrt(x.square().mean(dim=-1, keepdim=True) + self.eps) * self.weight
