"""Prefix tuning: learned keys and values that stand before every text.

Source: Li & Liang 2021, "Prefix-Tuning: Optimizing Continuous Prompts for Generation",
arXiv:2101.00190, section 4.2: in each layer attention reads [P_K; K] and [P_V; V] with P learned.

Differences: P is learned itself, not made by another network (the paper drops that one after
training). It begins with the keys and values of random words (the paper, section 7.4: of words).
None from PEFT without projection; the tests hold the two equal.

Letters: P prefix length, B batch, G key/value heads, S key length, E d_head, L layers.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.nn import Cache
from zoo.tuning.parts import freeze, require_whole

Pair = tuple[Tensor, Tensor]  # keys and values (1, G, P, E) of a layer


class Recorder(Cache):
    """An empty cache that only writes down each layer's keys and values, and lets gradients by."""

    def __init__(self, like: Tensor) -> None:
        self.memory, self.padding, self.length = like, None, 0
        self.pairs: list[Pair] = []

    def update(self, layer: int, k: Tensor, v: Tensor) -> Pair:
        """Write keys and values down, and return them."""
        self.pairs.append((k, v))
        return k, v


class PrefixCache(Cache):
    """A text's cache, with a prefix between its padding and its first token.

    Args:
        prefix: keys and values of each layer.
        text: what holds the text so far; None for a text read at once.
    """

    def __init__(self, prefix: list[Pair], text: Cache | None) -> None:
        self.prefix, self.text = prefix, text
        self.memory = prefix[0][0]  # tells the device
        self.padding = text.padding if text is not None else None
        self.length = prefix[0][0].shape[2] + (text.length if text is not None else 0)

    def update(self, layer: int, k: Tensor, v: Tensor) -> Pair:
        """The prefix and all of the text so far: (B, G, P + S, E)."""
        if self.text is not None:
            k, v = self.text.update(layer, k, v)
        keys, values = self.prefix[layer]
        return self._before(keys, k), self._before(values, v)

    def _before(self, prefix: Tensor, text: Tensor) -> Tensor:
        B, P, S = text.shape[0], prefix.shape[2], text.shape[2]
        joined = torch.cat([prefix.expand(B, -1, -1, -1).to(text), text], dim=2)  # (B, G, P + S, E)
        if self.padding is None:
            return joined
        column = torch.arange(P + S, device=text.device)[None]  # (1, P + S)
        pad = self.padding[:, None]
        inside = torch.where(column < pad + P, column - pad, column)
        order = torch.where(column < pad, column + P, inside)  # padding, prefix, text
        return joined.gather(2, order[:, None, :, None].expand_as(joined))

    def advance(self, T: int) -> None:
        """Count T more columns as filled."""
        self.length += T
        if self.text is not None:
            self.text.advance(T)

    def reorder(self, rows: Tensor) -> NoReturn:
        """It lives for one call; the text's own cache is what gets reordered."""
        raise NotImplementedError


def adapt(module: nn.Module, *, num_virtual_tokens: int = 16) -> nn.Module:
    """Let keys and values before the text learn.

    Args:
        module: a trained one that takes a cache: `module(ids, cache)`.
        num_virtual_tokens: P.

    Raises:
        ConfigError: P below 1, or beyond the model's positions; a module that takes no cache.
    """
    prepare(module, num_virtual_tokens, "Prefix tuning")
    table = token_table(module, "Prefix tuning")
    ids = torch.randint(len(table.weight), (1, num_virtual_tokens), device=table.weight.device)
    pairs = [(k[0].detach(), v[0].detach()) for k, v in record(module, ids)]  # (G, P, E) each
    flat = torch.stack([part for pair in pairs for part in pair])  # (2L, G, P, E)
    shape = flat.shape
    module.prompt_embeddings = nn.Parameter(flat.permute(2, 0, 1, 3).flatten(1).contiguous())

    def prefix(adapted: nn.Module) -> list[Pair]:
        numbers: Tensor = adapted.prompt_embeddings  # type: ignore[assignment]
        layers = numbers.view(len(numbers), shape[0], shape[1], shape[3])  # (P, 2L, G, E)
        return [(kv[:1], kv[1:]) for kv in torch.split(layers.permute(1, 2, 0, 3), 2)]

    put_before(module, num_virtual_tokens, prefix)
    return module


def prepare(module: nn.Module, length: int, method: str) -> None:
    """Check that so many virtual tokens fit before the text, and freeze the module."""
    require_whole("num_virtual_tokens", length)
    most = getattr(getattr(module, "config", None), "max_seq_len", None)
    if most is not None and length >= most:
        raise ConfigError(
            f"{method} with {length} virtual tokens leaves no room: this model reads {most} tokens"
        )
    freeze(module)


def token_table(module: nn.Module, method: str) -> nn.Embedding:
    """The embeddings of the vocabulary: the first table in the module."""
    for part in module.modules():
        if isinstance(part, nn.Embedding):
            return part
    raise ConfigError(f"{method} needs embeddings of tokens, {type(module).__name__} has none")


def record(module: nn.Module, ids: Tensor) -> list[Pair]:
    """The keys and values of each layer for tokens (1, P) that nothing stands before."""
    table = token_table(module, "This")
    recorder = Recorder(table.weight)
    training = module.training
    module.eval()  # no dropout on what stands before every text
    try:
        module(ids, recorder)
    except TypeError as error:
        raise ConfigError(
            f"{type(module).__name__} takes no cache, so nothing can stand before its texts: "
            f"use lora, ia3, houlsby, pfeiffer or bitfit"
        ) from error
    finally:
        module.train(training)
    if not recorder.pairs:
        raise ConfigError(f"{type(module).__name__} writes no keys and values into a cache")
    return recorder.pairs


def put_before(module: nn.Module, length: int, prefix: Callable[[nn.Module], list[Pair]]) -> None:
    """From now on every call of the module reads a prefix first; its texts get so much shorter."""

    def before(called: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        cache = args[1] if len(args) > 1 else kwargs.get("cache")
        if isinstance(cache, Recorder):
            return None
        return (args[0], PrefixCache(prefix(called), cache)), {}

    module.register_forward_pre_hook(before, with_kwargs=True)
    config: Any = getattr(module, "config", None)
    if hasattr(config, "max_seq_len"):
        module.config = dataclasses.replace(config, max_seq_len=config.max_seq_len - length)
