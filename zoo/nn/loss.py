"""Cross-entropy that keeps one buffer instead of three."""

from typing import Any

import torch
from torch import Tensor

ROWS = 512  # a block of rows that stays in the processor's cache while it is read four times


class _CrossEntropy(torch.autograd.Function):
    """Loss and gradient in one pass over blocks of rows: d loss / d logits = softmax - one-hot."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        gradient = torch.empty_like(logits)
        total = torch.zeros((), dtype=torch.float64, device=logits.device)
        for start in range(0, len(logits), ROWS):
            rows, right = logits[start : start + ROWS].float(), targets[start : start + ROWS, None]
            chances = rows - rows.amax(dim=1, keepdim=True)  # (R, V)
            logits_of_right = chances.gather(1, right)  # (R, 1)
            sums = chances.exp_().sum(dim=1, keepdim=True)  # (R, 1)
            total += (sums.log() - logits_of_right).sum()
            chances.div_(sums)
            chances.scatter_add_(1, right, torch.full_like(sums, -1.0))
            gradient[start : start + ROWS] = chances
        ctx.save_for_backward(gradient)
        return (total / len(logits)).float()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient.mul_(gradients[0] / len(gradient)), None


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean of -log softmax(logits)[target], in nats, as `torch.nn.functional.cross_entropy`.

    A log-softmax over the whole vocabulary is neither kept nor read again in the backward pass. It
    can be differentiated once.

    Args:
        logits: (N, V), any floating type.
        targets: class indices (N,).
    """
    loss: Tensor = _CrossEntropy.apply(logits, targets)
    return loss
