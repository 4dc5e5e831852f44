"""Muon: momentum, orthogonalised (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/).

`torch.optim.Muon` computes the same update in bfloat16, which takes many times as long on a
processor without bfloat16 arithmetic; this one works in the gradient's own type. The tests hold the
two together.
"""

from collections.abc import Callable, Iterable
from typing import overload

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest matrix with all singular values near 1, by Newton-Schulz iteration.

    Each step applies x -> a x + b x^3 + c x^5 to every singular value at once.

    Args:
        matrix: (M, N).
        steps: iterations.
    """
    a, b, c = COEFFICIENTS
    X = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    X = X / X.norm().clamp(min=1e-7)
    for _ in range(steps):
        A = X @ X.T
        X = torch.addmm(X, torch.addmm(A, A, A, beta=b, alpha=c), X, beta=a)
    return X.T if matrix.shape[0] > matrix.shape[1] else X


class Muon(torch.optim.Optimizer):
    """Momentum (Nesterov) whose update has no preferred direction; for matrices inside a model.

    Args:
        parameters: matrices only.
        lr: learning rate on AdamW's scale: the update's root mean square is 0.2 lr (Liu et al.
            2025, "Muon is Scalable for LLM Training", arXiv:2502.16982).
        momentum: share of the past in the running gradient.
        weight_decay: decoupled, as in AdamW.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(
            list(parameters), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        )

    @overload
    def step(self, closure: None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], float]) -> float: ...
    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update every parameter that has a gradient."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            lr, momentum = group["lr"], group["momentum"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                running = state["momentum_buffer"].lerp_(parameter.grad, 1 - momentum)
                update = orthogonalise(parameter.grad.lerp(running, momentum))
                scale = 0.2 * max(parameter.shape) ** 0.5
                parameter.mul_(1 - lr * group["weight_decay"])
                parameter.add_(update, alpha=-lr * scale)
        return loss
