"""Checks of pipelines and tunings."""

import inspect

import torch

from zoo.registry import resolve
from zoo.testing.kit import Failed, Subject


def pipeline(subject: Subject) -> None:
    """`Target(model)` gives what `model(...)` calls."""
    kind = resolve(subject.thing.target)
    try:
        inspect.signature(kind).bind(object())
    except (TypeError, ValueError) as error:
        raise Failed(
            f"{subject.thing.target} must be called with a model alone: {error}"
        ) from error
    if isinstance(kind, type) and not any("__call__" in vars(base) for base in kind.__mro__):
        raise Failed(f"what {subject.thing.target} makes cannot be called")


def tuning(subject: Subject) -> None:
    """`target(module)` gives the adapted module, in which what shall be trained wants gradients."""
    adapt = resolve(subject.thing.target)
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4))
    x = torch.randn(3, 8)
    before = module(x).detach()
    adapted = adapt(module)
    if not isinstance(adapted, torch.nn.Module):
        raise Failed(f"it must return the adapted module, got {type(adapted).__name__}")
    after = adapted(x)
    if after.shape != before.shape or not after.isfinite().all():
        raise Failed(f"outputs {tuple(before.shape)} become {tuple(after.shape)}, or not finite")
    trained = [name for name, p in adapted.named_parameters() if p.requires_grad]
    if not trained:
        raise Failed("no parameter of the adapted module wants a gradient")
    after.square().mean().backward()
    named = dict(adapted.named_parameters())
    if all(named[name].grad is None for name in trained):
        raise Failed("no gradient reaches what shall be trained")
