"""Prefix tuning: learned keys and values that stand before every text.

Source: Li & Liang 2021, "Prefix-Tuning: Optimizing Continuous Prompts for Generation",
arXiv:2101.00190, section 4.2: in each layer attention reads [P_K; K] and [P_V; V] with P learned.
In an encoder-decoder each attention has a P of its own, as in the authors' code for BART: of the
source to itself, of the target to itself, and of the target to the source.

Differences: P is learned itself, not made by another network (the paper drops that one after
training). It begins with the keys and values of random words (the paper, section 7.4: of words).
None from PEFT without projection on decoders; the tests hold the two equal. The texts of an encoder
and of an encoder-decoder keep their positions and distances, which do not count the prefix (nor has
it a position bias in T5). PEFT moves an encoder's text up by P positions; in an encoder-decoder it
has a prefix for the target's attention to itself alone, and moves the target.

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
from zoo.nn import Cache, EncoderDecoder, causal_mask
from zoo.nn.attention import AttentionMode
from zoo.tuning.parts import OTHERS, freeze, require_whole, wrap

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
        module: a trained one: a decoder, `module(ids, cache)`, an encoder, `module(ids, real)`, or
            a `zoo.nn.EncoderDecoder` of texts.
        num_virtual_tokens: P.

    Raises:
        ConfigError: P below 1, or beyond the model's positions; a module of no such kind.
    """
    prepare(module, num_virtual_tokens, "Prefix tuning")
    table = token_table(module, "Prefix tuning")
    ids = torch.randint(len(table.weight), (1, num_virtual_tokens), device=table.weight.device)
    pairs = record(module, ids)
    parts = [part[0].detach().transpose(0, 1) for pair in pairs for part in pair]  # (P, G, E) each
    flat = torch.cat([part.flatten(1) for part in parts], dim=1)
    shapes, sizes = [part.shape for part in parts], [part[0].numel() for part in parts]
    module.prompt_embeddings = nn.Parameter(flat)

    def prefix(adapted: nn.Module) -> list[Pair]:
        numbers: Tensor = adapted.prompt_embeddings  # type: ignore[assignment]
        learned = zip(torch.split(numbers, sizes, 1), shapes, strict=True)
        found = [part.view(shape).transpose(0, 1)[None] for part, shape in learned]
        return list(zip(found[::2], found[1::2], strict=True))  # (1, G, P, E) each

    put_before(module, num_virtual_tokens, prefix)
    return module


def prepare(module: nn.Module, length: int, method: str) -> None:
    """Check that so many virtual tokens fit before the text, and freeze the module."""
    require_whole("num_virtual_tokens", length)
    config = getattr(module, "config", None)
    if hasattr(config, "image_size"):
        raise ConfigError(
            f"{method} puts tokens before the text that a model reads, and "
            f"{type(module).__name__} reads pictures: use {OTHERS}"
        )
    most = getattr(config, "max_seq_len", None)
    if most is not None and length >= most:
        raise ConfigError(
            f"{method} with {length} virtual tokens leaves no room: this model reads {most} tokens"
        )
    freeze(module)


def token_table(module: nn.Module, method: str) -> nn.Embedding:
    """The embeddings of the vocabulary: the first table in the module.

    A module that looks its text up elsewhere says where by a method `token_table()` of its own.
    """
    own = getattr(module, "token_table", None)
    if own is not None:
        return own()  # type: ignore[no-any-return]
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
    real = torch.ones_like(ids, dtype=torch.bool)
    training = module.training
    module.eval()  # no dropout on what stands before every text
    try:
        if isinstance(module, EncoderDecoder):
            with mode:
                memory = module.encode(ids, real)
                encoder = len(mode.pairs)
                module.decode(ids, memory, real)
            seen = len(mode.pairs) - encoder == 2 * module.config.n_layers
            return mode.pairs if encoder and seen else []
        if takes_cache(module):
            module(ids, recorder)
        else:
            with mode:
                module(ids, real)
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
    if not isinstance(module, EncoderDecoder) and len({pair[0].shape for pair in pairs}) > 1:
        raise ConfigError(
            f"{type(module).__name__} has layers of keys of several shapes: use {OTHERS}"
        )
    return pairs


def put_before(module: nn.Module, length: int, prefix: Callable[[nn.Module], list[Pair]]) -> None:
    """From now on every call of the module reads a prefix first.

    A decoder's texts get so much shorter; elsewhere the prefix takes up no positions.
    """

    def encode(called: nn.Module, plain: Callable[..., Tensor], *given: Any) -> Tensor:
        with PrefixAttention(prefix(called)):
            return plain(*given)

    def decode(called: Any, plain: Callable[..., Tensor], *given: Any) -> Tensor:
        # each of its layers attends to the target and to the source
        with PrefixAttention(prefix(called)[-2 * called.config.n_layers :]):
            return plain(*given)

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

    if isinstance(module, EncoderDecoder):
        wrap(module, "read", encode)
        wrap(module, "write", decode)
    elif takes_cache(module):
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
    if isinstance(module, EncoderDecoder) and module.max_len is not None:
        module.max_len -= length
