"""Cross-entropy that keeps one buffer instead of three."""

from typing import Any

import torch
from torch import Tensor

IGNORED = -100  # target of a row that does not count
ROWS = 512  # a block of rows that stays in the processor's cache while it is read four times


class _CrossEntropy(torch.autograd.Function):
    """Loss and gradient in one pass over blocks of rows: d loss / d logits = softmax - wanted."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, smoothing: float) -> Tensor:
        gradient = torch.empty_like(logits)
        total = torch.zeros((), dtype=torch.float64, device=logits.device)
        share = smoothing / logits.shape[1]  # of every token, the right one too
        for start in range(0, len(logits), ROWS):
            rows, right = logits[start : start + ROWS].float(), targets[start : start + ROWS, None]
            counted = right != IGNORED  # (R, 1)
            right = right.where(counted, 0)
            chances = rows - rows.amax(dim=1, keepdim=True)  # (R, V)
            wanted = (1 - smoothing) * chances.gather(1, right)  # (R, 1)
            if smoothing:
                wanted += smoothing * chances.mean(dim=1, keepdim=True)
            sums = chances.exp_().sum(dim=1, keepdim=True)  # (R, 1)
            total += ((sums.log() - wanted) * counted).sum()
            chances.div_(sums)
            if smoothing:
                chances.sub_(share)
            chances.scatter_add_(1, right, torch.full_like(sums, smoothing - 1))
            gradient[start : start + ROWS] = chances.mul_(counted) if not counted.all() else chances
        ctx.count = (targets != IGNORED).sum()
        ctx.save_for_backward(gradient)
        loss: Tensor = (total / ctx.count).float()
        return loss

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient.mul_(gradients[0] / ctx.count), None, None


def cross_entropy(logits: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """Mean of -log softmax(logits)[target], in nats, as `torch.nn.functional.cross_entropy`.

    A log-softmax over the whole vocabulary is neither kept nor read again in the backward pass. It
    can be differentiated once.

    Args:
        logits: (N, V), any floating type.
        targets: class indices (N,); rows whose target is -100 do not count.
        label_smoothing: how much of the wanted probability all V tokens share evenly (Szegedy et
            al. 2016, arXiv:1512.00567, section 7).
    """
    loss: Tensor = _CrossEntropy.apply(logits, targets, label_smoothing)
    return loss
