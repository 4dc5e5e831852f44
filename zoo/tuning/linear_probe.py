"""Linear probe: only the last layer learns, on what the frozen rest computes.

Source: Alain & Bengio 2017, "Understanding intermediate layers using linear classifier probes",
arXiv:1610.01644, eq. 1: y = softmax(W h + b) with h the frozen features.

Difference: h is the last hidden state, as in later work. Where the last layer is the table of
embeddings (tied), it cannot learn without them, so W begins as a copy of the table, times the
factor that some models put on it (T5: 1/sqrt(D)); that is measured.
"""

import dataclasses
from typing import Any

import torch
from torch import nn

from zoo.errors import ConfigError
from zoo.tuning.parts import OTHERS, Targets, blocks, chosen, freeze, linears


def adapt(module: nn.Module, *, target_modules: Targets = None) -> nn.Module:
    """Let the last linear layer learn, or the linear layers named.

    Args:
        module: a trained one.
        target_modules: names, or how they end; the last layer outside the blocks unless given.

    Raises:
        ConfigError: no such layer.
    """
    freeze(module)
    if target_modules is None and (tied := _untied(module)):
        return tied
    for layer in chosen(module, target_modules, _last(module)).values():
        layer.requires_grad_(True)
    return module


def _last(module: nn.Module) -> list[str]:
    inside = {id(part) for block in blocks(module) for part in block.modules()}
    names = [name for name, part in linears(module).items() if id(part) not in inside]
    if not names:
        raise ConfigError(
            f"{type(module).__name__} has no linear layer besides its blocks, so none that names "
            "an answer by itself (its output may be the table of embeddings): name what shall "
            f"learn with target_modules, or use {OTHERS}"
        )
    return names[-1:]


def _untied(module: nn.Module) -> nn.Module | None:
    """The module with an output layer of its own where it has the embeddings' one."""
    embedding = getattr(module, "token_embedding", None)
    if not isinstance(embedding, nn.Embedding) or getattr(module, "head", module) is not None:
        return None
    if not getattr(module.config, "tie_embeddings", False):  # gives vectors, no logits
        return None
    vocabulary, width = embedding.weight.shape
    head = nn.Linear(width, vocabulary, bias=False).to(embedding.weight)
    head.weight = nn.Parameter(embedding.weight.detach().clone())
    ids = torch.arange(1, device=embedding.weight.device)[None]
    with torch.no_grad():
        training = module.training
        tied = module.eval()(ids)
        module.head = head
        untied = module(ids)
        head.weight.mul_((tied * untied).sum() / untied.square().sum())
        module.train(training)
    config: Any = module.config
    module.config = dataclasses.replace(config, tie_embeddings=False)
    return module
