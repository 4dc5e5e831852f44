"""Prefix tuning: learned keys and values that stand before every text.

Source: Li & Liang 2021, "Prefix-Tuning: Optimizing Continuous Prompts for Generation",
arXiv:2101.00190, section 4.2: in each layer attention reads [P_K; K] and [P_V; V] with P learned.

Differences: P is learned itself, not made by another network (the paper drops that one after
training). It begins with the keys and values of random words (the paper, section 7.4: of words).
None from PEFT without projection; the tests hold the two equal. An encoder's text keeps its
positions and distances, which do not count the prefix; PEFT's moves it up by P positions.

Letters: P prefix length, B batch, G key/value heads, S key length, E d_head, L layers.
"""

import dataclasses
import inspect
from collections.abc import Callable
from typing import Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.errors import ConfigError
from zoo.nn import Cache, causal_mask
from zoo.nn.attention import AttentionMode
from zoo.tuning.parts import freeze, require_whole

Pair = tuple[Tensor, Tensor]  # keys and values (1, G, P, E) of a layer
OTHERS = "lora, ia3, houlsby, pfeiffer or bitfit"


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


class PrefixAttention(AttentionMode):
    """While it is entered, each attention reads its prefix first; for modules without a cache.

    Args:
        prefix: keys and values for each attention in the order of their computation; None to
            write down those of the text alone, in `pairs`.
    """

    def __init__(self, prefix: list[Pair] | None = None) -> None:
        super().__init__()
        self.prefix = prefix
        self.pairs: list[Pair] = []

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **more: Any,
    ) -> Tensor:
        """As `torch.nn.functional.scaled_dot_product_attention`, whose arguments these are."""
        self.pairs.append((key, value))
        if self.prefix is not None:
            if is_causal:
                attn_mask = causal_mask(query.shape[2], key.shape[2], device=key.device)
            keys, values = self.prefix[len(self.pairs) - 1]
            B, P = len(key), keys.shape[2]
            key = torch.cat([keys.expand(B, -1, -1, -1).to(key), key], dim=2)  # (B, G, P + S, E)
            value = torch.cat([values.expand(B, -1, -1, -1).to(value), value], dim=2)
            if attn_mask is not None:  # all see the prefix, and no score is taken off for distance
                free = True if attn_mask.dtype == torch.bool else 0.0
                attn_mask = F.pad(attn_mask, (P, 0), value=free)
            is_causal = False
        mixed: Tensor = F.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, **more
        )
        return mixed


def adapt(module: nn.Module, *, num_virtual_tokens: int = 16) -> nn.Module:
    """Let keys and values before the text learn.

    Args:
        module: a trained one: a decoder, `module(ids, cache)`, or an encoder, `module(ids, real)`.
        num_virtual_tokens: P.

    Raises:
        ConfigError: P below 1, or beyond the model's positions; a module of neither kind.
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


def takes_cache(module: nn.Module) -> bool:
    """Whether it is a decoder, called as `module(ids, cache)`."""
    return "cache" in inspect.signature(module.forward).parameters


def read(module: nn.Module, ids: Tensor) -> list[Pair]:
    """The keys and values of tokens (1, P) that can be seen: maybe none."""
    recorder = Recorder(token_table(module, "This").weight)
    mode = PrefixAttention()
    training = module.training
    module.eval()  # no dropout on what stands before every text
    try:
        if takes_cache(module):
            module(ids, recorder)
        else:
            with mode:
                module(ids, torch.ones_like(ids, dtype=torch.bool))
    except TypeError as error:
        raise ConfigError(
            f"{type(module).__name__} is called neither as module(ids, cache) nor as "
            f"module(ids, real), so nothing can stand before its texts: use {OTHERS}"
        ) from error
    finally:
        module.train(training)
    return recorder.pairs or mode.pairs


def record(module: nn.Module, ids: Tensor) -> list[Pair]:
    """The keys and values of each layer for tokens (1, P) that nothing stands before."""
    pairs = read(module, ids)
    if not pairs:
        raise ConfigError(
            f"{type(module).__name__} has keys and values neither in a cache nor in torch's "
            f"scaled_dot_product_attention, so nothing can stand before them: use {OTHERS}"
        )
    if any(pair[0].shape != pairs[0][0].shape for pair in pairs):
        raise ConfigError(
            f"{type(module).__name__} has layers of keys of several shapes: use {OTHERS}"
        )
    return pairs


def put_before(module: nn.Module, length: int, prefix: Callable[[nn.Module], list[Pair]]) -> None:
    """From now on every call of the module reads a prefix first.

    A decoder's texts get so much shorter; in an encoder the prefix takes up no positions.
    """

    def cached(called: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        cache = args[1] if len(args) > 1 else kwargs.get("cache")
        if isinstance(cache, Recorder):
            return None
        more = {name: value for name, value in kwargs.items() if name != "cache"}
        return (args[0], PrefixCache(prefix(called), cache), *args[2:]), more

    entered: list[PrefixAttention] = []

    def enter(called: nn.Module, _: Any) -> None:
        mode = PrefixAttention(prefix(called))
        mode.__enter__()  # type: ignore[no-untyped-call]
        entered.append(mode)

    def leave(*_: Any) -> None:
        if entered:  # not where the prefix itself could not be made
            entered.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]

    if takes_cache(module):
        module.register_forward_pre_hook(cached, with_kwargs=True)
        shorten(module, length)
    else:
        module.register_forward_pre_hook(enter)
        module.register_forward_hook(leave, always_call=True)


def shorten(module: nn.Module, length: int) -> None:
    """Its texts get so much shorter."""
    config: Any = getattr(module, "config", None)
    if hasattr(config, "max_seq_len"):
        module.config = dataclasses.replace(config, max_seq_len=config.max_seq_len - length)
