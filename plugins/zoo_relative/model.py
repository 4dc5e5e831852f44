"""Relative position biases as in T5, in a decoder-only model.

Sources:
    Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
    Transformer" (T5), arXiv:1910.10683, section 2.1. Shaw et al. 2018, arXiv:1803.02155, had the
    first relative positions. Shazeer 2020, arXiv:2002.05202: the gated GELU of T5 1.1.

The idea: how far back a key stands falls into one of `n_buckets` buckets, exact for near keys and
logarithmically wider for far ones, and every bucket has one learned number a head, added to the
score. All distances past `max_distance` share the last bucket, so any length can be read.

Differences from T5: the decoder stands alone, without encoder and cross-attention. The rest is T5
1.1's decoder: RMSNorm, no biases, scores not divided by sqrt(E), one bias table for all layers.
With tied embeddings the last states are divided by sqrt(D), as in T5 1.0. The tests hold it equal
to T5's decoder stack and to T5's bias computation.

Letters: B batch, T query length, S key length, D d_model, H heads, E d_head, F d_ff, V vocabulary.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import Config
from zoo.errors import ConfigError
from zoo.nn import Cache, RMSNorm, attend, causal_mask, unembed


@dataclass(frozen=True, kw_only=True)
class RelativeConfig(Config):
    """Sizes of a decoder with relative biases; `max_seq_len` is its training length, no limit."""

    vocab_size: int
    max_seq_len: int
    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int
    n_buckets: int = 32
    max_distance: int = 128
    dropout: float = 0.0
    norm_eps: float = 1e-6
    tie_embeddings: bool = True

    def __post_init__(self) -> None:
        self.require_positive("vocab_size", "max_seq_len", "d_model", "n_layers", "n_heads", "d_ff")
        self.require_divisible("d_model", "n_heads")
        if not 2 <= self.n_buckets < 2 * self.max_distance:
            raise ConfigError(
                "RelativeConfig: n_buckets must be at least 2, and half of it below max_distance, "
                f"got n_buckets={self.n_buckets}, max_distance={self.max_distance}"
            )


def bucket(distance: Tensor, n_buckets: int, max_distance: int) -> Tensor:
    """Which bucket a distance falls into.

    Half of the buckets hold one distance each, 0 ... n/2 - 1. The other half grow
    logarithmically from there to `max_distance`; all that is farther falls into the last one.

    Args:
        distance: query position minus key position, any shape; below 0 (the future) counts as 0.
        n_buckets: how many there are.
        max_distance: where the last bucket begins to hold everything.

    Returns:
        Bucket numbers from 0 to `n_buckets - 1`, of the same shape.
    """
    distance = distance.clamp(min=0)
    exact = n_buckets // 2
    ratio = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far = exact + (ratio * (n_buckets - exact)).long()
    return torch.where(distance < exact, distance, far.clamp(max=n_buckets - 1))


class RelativeBias(nn.Module):
    """The learned table: one number a bucket and head."""

    def __init__(self, config: RelativeConfig) -> None:
        super().__init__()
        self.n_buckets, self.max_distance = config.n_buckets, config.max_distance
        self.weight = nn.Parameter(torch.empty(config.n_buckets, config.n_heads))

    def forward(self, mask: Tensor) -> Tensor:
        """Bias (B or 1, H, T, S) for a mask (B or 1, 1, T, S): -inf where it is False."""
        T, S = mask.shape[-2:]
        # every distance looks its number up once: 0 ... S - 1, then each row takes its window
        numbers = F.embedding(
            bucket(torch.arange(S, device=mask.device), self.n_buckets, self.max_distance),
            self.weight,
        ).T  # (H, S), by distance
        columns = torch.arange(S, device=mask.device)
        distance = (columns[S - T :, None] - columns[None, :]).clamp(min=0)  # (T, S)
        return torch.where(mask, numbers[:, distance], -math.inf)  # (B or 1, H, T, S)


class Attention(nn.Module):
    """Causal multi-head self-attention with the bias added; scores are not scaled."""

    def __init__(self, config: RelativeConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.dropout = config.dropout
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)

    def forward(self, x: Tensor, bias: Tensor, cache: Cache | None, layer: int) -> Tensor:
        B, T, D = x.shape
        qkv = self.qkv(x).view(B, T, 3, self.n_heads, D // self.n_heads)  # (B, T, 3, H, E)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()  # each (B, H, T, E)
        if cache is not None:
            k, v = cache.update(layer, k, v)  # (B, H, S, E)
        mixed = attend(q, k, v, bias, scale=1.0, dropout=self.dropout if self.training else 0.0)
        return self.out(mixed.transpose(1, 2).reshape(B, T, D))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Gated GELU: down(gelu(gate(x)) * up(x)), each position on its own."""

    def __init__(self, config: RelativeConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.up = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        gated = F.gelu(self.gate(x), approximate="tanh") * self.up(x)
        return self.down(gated)  # type: ignore[no-any-return]


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: RelativeConfig) -> None:
        super().__init__()
        self.norm_1 = RMSNorm(config.d_model, config.norm_eps)
        self.attention = Attention(config)
        self.norm_2 = RMSNorm(config.d_model, config.norm_eps)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, bias: Tensor, cache: Cache | None, layer: int) -> Tensor:
        x = x + self.dropout(self.attention(self.norm_1(x), bias, cache, layer))
        return x + self.dropout(self.feed_forward(self.norm_2(x)))  # type: ignore[no-any-return]


class RelativeDecoder(nn.Module):
    """Token ids to logits: embed, `n_layers` blocks, norm, project to the vocabulary."""

    config_class = RelativeConfig
    max_len: int | None = None  # every distance has a bucket

    def __init__(self, config: RelativeConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.relative_bias = RelativeBias(config)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.head = (
            None
            if config.tie_embeddings
            else nn.Linear(config.d_model, config.vocab_size, bias=False)
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """T5's: each matrix by its fan-in, queries also by sqrt(E) since scores are not scaled."""
        c = self.config
        for parameter in self.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)
        nn.init.normal_(self.token_embedding.weight, std=1.0)
        nn.init.zeros_(self.relative_bias.weight)
        for block in self.blocks:
            queries = block.attention.qkv.weight[: c.d_model]  # type: ignore[union-attr,index]
            nn.init.normal_(queries, std=(c.d_model * c.d_model // c.n_heads) ** -0.5)

    def forward(self, ids: Tensor, cache: Cache | None = None, logits_to_keep: int = 0) -> Tensor:
        """Logits of the next token at every position.

        Args:
            ids: token ids (B, T), the continuation of what `cache` holds.
            cache: keys and values so far; filled by T more columns.
            logits_to_keep: N, of the last so many tokens only; 0 for all.

        Returns:
            Logits (B, N, V).
        """
        T = ids.shape[1]
        mask = None if cache is None else cache.mask(T)
        if mask is None:  # nothing is padded: the queries are all columns, or the last one
            before = 0 if cache is None else cache.length
            mask = causal_mask(T, before + T, device=ids.device)  # (1, 1, T, S)
        bias = self.relative_bias(mask)  # (B or 1, H, T, S), the same in every layer
        x = self.dropout(self.token_embedding(ids))  # (B, T, D)
        for layer, block in enumerate(self.blocks):
            x = block(x, bias, cache, layer)
        if cache is not None:
            cache.advance(T)
        x = self.norm(x[:, -logits_to_keep:])  # (B, N, D)
        if self.head is None:
            return unembed(x * self.config.d_model**-0.5, self.token_embedding)
        return self.head(x)  # type: ignore[no-any-return]  # (B, N, V)
