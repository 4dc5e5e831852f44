"""RoPE: rotary position embedding, in the block that grew around it.

Sources:
    Su et al. 2021, "RoFormer: Enhanced Transformer with Rotary Position Embedding",
    arXiv:2104.09864, section 3.2 (eq. 12 to 16).
    Touvron et al. 2023, "LLaMA", arXiv:2302.13971: the block. Zhang & Sennrich 2019,
    arXiv:1910.07467: RMSNorm. Shazeer 2020, arXiv:2002.05202: SwiGLU. Ainslie et al. 2023,
    arXiv:2305.13245: grouped-query attention.

The idea: read each pair of a query's or key's coordinates as one complex number and turn it by an
angle proportional to its position. The product of a query at m and a key at n then depends on
their contents and on m - n alone.

Differences from the papers: none from Llama; the tests hold the two equal. Llama's checkpoints
store a pair as coordinates i and i + E/2, here they are neighbours 2i and 2i + 1 as in the paper;
the converter moves them.

Letters: B batch, T query length, S key length, D d_model, H heads, G key/value heads, E d_head,
F d_ff, V vocabulary.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import Config
from zoo.convert import load_renamed
from zoo.errors import ConfigError
from zoo.nn import Cache, RMSNorm, attend, unembed


@dataclass(frozen=True, kw_only=True)
class RopeConfig(Config):
    """Sizes of a RoPE decoder; `max_seq_len` is the length it is trained on, not a limit."""

    vocab_size: int
    max_seq_len: int
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_ff: int
    rope_theta: float = 10000.0  # the slowest pair turns once in about 2 pi rope_theta positions
    dropout: float = 0.0
    norm_eps: float = 1e-6
    tie_embeddings: bool = True

    def __post_init__(self) -> None:
        self.require_positive("vocab_size", "max_seq_len", "d_model", "n_layers", "n_heads", "d_ff")
        self.require_positive("rope_theta")
        self.require_divisible("d_model", "n_heads")
        self.require_divisible("n_heads", "n_kv_heads")
        if self.d_model // self.n_heads % 2:
            raise ConfigError(
                f"RopeConfig: a head's width must be even to be read as pairs, got "
                f"d_model / n_heads = {self.d_model // self.n_heads}"
            )


def rates_of(d_head: int, theta: float) -> Tensor:
    """By what angle each pair turns from one position to the next: theta^(-2j/E) (eq. 15).

    Args:
        d_head: E, even.
        theta: base of the wavelengths.

    Returns:
        Radians (E/2,) for j = 0 ... E/2 - 1.
    """
    pairs = torch.arange(0, d_head, 2, dtype=torch.float32, device="cpu")  # 2j
    return theta ** (-pairs / d_head)


def rotations(positions: Tensor, rates: Tensor) -> Tensor:
    """The complex numbers e^(i position rate) (eq. 14).

    Args:
        positions: (B or 1, T), counted from 0.
        rates: those of `rates_of` (E/2,).

    Returns:
        Unit complex numbers (B or 1, 1, T, E/2).
    """
    angles = positions[:, None, :, None] * rates  # (B or 1, 1, T, E/2)
    return torch.polar(angles.new_ones(()), angles)


def rotate(x: Tensor, rotations: Tensor) -> Tensor:
    """Turn each pair of neighbouring coordinates of x (B, H, T, E) by its rotation (eq. 12)."""
    pairs = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))  # (B, H, T, E/2)
    return torch.view_as_real(pairs * rotations).flatten(-2).to(x.dtype)  # (B, H, T, E)


class Attention(nn.Module):
    """Causal self-attention of turned queries and keys; H/G query heads share a key/value head."""

    def __init__(self, config: RopeConfig) -> None:
        super().__init__()
        self.n_heads, self.n_kv_heads = config.n_heads, config.n_kv_heads
        self.d_head = config.d_model // config.n_heads
        self.dropout = config.dropout
        width = (config.n_heads + 2 * config.n_kv_heads) * self.d_head
        self.qkv = nn.Linear(config.d_model, width, bias=False)
        self.out = nn.Linear(config.d_model, config.d_model, bias=False)

    def forward(
        self, x: Tensor, turns: Tensor, mask: Tensor | None, cache: Cache | None, layer: int
    ) -> Tensor:
        B, T, D = x.shape
        heads = self.qkv(x).view(B, T, -1, self.d_head).transpose(1, 2)  # (B, H + 2G, T, E)
        H, G = self.n_heads, self.n_kv_heads
        turning, v = heads.tensor_split([H + G], dim=1)
        q, k = rotate(turning, turns).tensor_split([H], dim=1)
        if cache is not None:
            k, v = cache.update(layer, k, v)  # (B, G, S, E)
        dropout = self.dropout if self.training else 0.0
        mixed = attend(q, k, v, mask, causal=True, dropout=dropout)  # (B, H, T, E)
        return self.out(mixed.transpose(1, 2).reshape(B, T, D))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """SwiGLU: down(silu(gate(x)) * up(x)), each position on its own."""

    def __init__(self, config: RopeConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.up = nn.Linear(config.d_model, config.d_ff, bias=False)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.silu(self.gate(x)) * self.up(x))  # type: ignore[no-any-return]


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: RopeConfig) -> None:
        super().__init__()
        self.norm_1 = RMSNorm(config.d_model, config.norm_eps)
        self.attention = Attention(config)
        self.norm_2 = RMSNorm(config.d_model, config.norm_eps)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, turns: Tensor, mask: Tensor | None, cache: Cache | None, layer: int
    ) -> Tensor:
        x = x + self.dropout(self.attention(self.norm_1(x), turns, mask, cache, layer))
        return x + self.dropout(self.feed_forward(self.norm_2(x)))  # type: ignore[no-any-return]


class RopeDecoder(nn.Module):
    """Token ids to logits: embed, `n_layers` blocks, norm, project to the vocabulary."""

    config_class = RopeConfig
    max_len: int | None = None  # any position has a rotation; quality past training is not promised

    def __init__(self, config: RopeConfig) -> None:
        super().__init__()
        self.config = config
        # no buffer, which would be rounded with the weights
        self.rates = rates_of(config.d_model // config.n_heads, config.rope_theta)
        self.token_embedding = nn.Embedding(config.vocab_size, config.d_model)
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
        """Normal with deviation 0.02, on the residual path divided by sqrt(2 n_layers) (GPT-2).

        Token embeddings that are not the output too begin at the scale that the blocks write on.
        """
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                residual = name.endswith(("out.weight", "down.weight"))
                deviation = 0.02 / math.sqrt(2 * self.config.n_layers) if residual else 0.02
                nn.init.normal_(parameter, std=deviation)
        if self.head is not None:
            nn.init.normal_(self.token_embedding.weight)

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
        if cache is None:
            positions, mask = torch.arange(T, device=ids.device)[None], None
        else:
            positions, mask = cache.positions(T), cache.mask(T)
        turns = rotations(positions, self.rates.to(ids.device))  # (B or 1, 1, T, E/2)
        x = self.dropout(self.token_embedding(ids))  # (B, T, D)
        for layer, block in enumerate(self.blocks):
            x = block(x, turns, mask, cache, layer)
        if cache is not None:
            cache.advance(T)
        x = self.norm(x[:, -logits_to_keep:])  # (B, N, D)
        if self.head is None:
            return unembed(x, self.token_embedding)  # (B, N, V)
        return self.head(x)  # type: ignore[no-any-return]

    @classmethod
    def from_transformers(
        cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> "RopeDecoder":
        """A Llama checkpoint: its `config.json` and its tensors, every one of which is used."""
        rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
        rope_type = rope.get("rope_type", rope.get("type", "default"))
        if rope_type != "default":
            raise ConfigError(f"Llama with rope_type={rope_type!r}: only default is read")
        if config.get("hidden_act", "silu") != "silu":
            raise ConfigError(f"Llama with hidden_act={config['hidden_act']!r}: only silu is read")
        if config.get("attention_bias") or config.get("mlp_bias"):
            raise ConfigError("Llama with attention_bias or mlp_bias is not read")
        d_model, n_heads = config["hidden_size"], config["num_attention_heads"]
        if config.get("head_dim") not in (None, d_model // n_heads):
            raise ConfigError(
                f"Llama with head_dim={config['head_dim']} is not read: it must be "
                f"hidden_size / num_attention_heads = {d_model // n_heads}"
            )
        module = cls(
            RopeConfig(
                vocab_size=config["vocab_size"],
                max_seq_len=config.get("max_position_embeddings", 2048),
                d_model=d_model,
                n_layers=config["num_hidden_layers"],
                n_heads=n_heads,
                n_kv_heads=config.get("num_key_value_heads") or n_heads,
                d_ff=config["intermediate_size"],
                rope_theta=float(rope.get("rope_theta", config.get("rope_theta", 10000.0))),
                norm_eps=config.get("rms_norm_eps", 1e-6),
                tie_embeddings=config.get("tie_word_embeddings", False),
            )
        )
        d_head = d_model // n_heads
        tensors = dict(tensors)
        for layer in range(module.config.n_layers):
            parts = [f"model.layers.{layer}.self_attn.{p}_proj.weight" for p in "qkv"]
            if all(part in tensors for part in parts):
                q, k, v = (tensors.pop(part) for part in parts)
                fused = torch.cat([neighbours(q, d_head), neighbours(k, d_head), v])
                tensors[f"model.layers.{layer}.self_attn.qkv.weight"] = fused
        ignored = ("lm_head.weight", "rotary_emb.inv_freq")
        load_renamed(module, tensors, transformers_names(module.config), ignored=ignored)
        return module

    def to_transformers(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The same model as a Llama checkpoint: `config.json` and tensors."""
        c = self.config
        d_head = c.d_model // c.n_heads
        config = {
            "model_type": "llama",
            "architectures": ["LlamaForCausalLM"],
            "vocab_size": c.vocab_size,
            "max_position_embeddings": c.max_seq_len,
            "hidden_size": c.d_model,
            "num_hidden_layers": c.n_layers,
            "num_attention_heads": c.n_heads,
            "num_key_value_heads": c.n_kv_heads,
            "head_dim": d_head,
            "intermediate_size": c.d_ff,
            "hidden_act": "silu",
            "rope_theta": c.rope_theta,
            "attention_dropout": c.dropout,
            "rms_norm_eps": c.norm_eps,
            "tie_word_embeddings": c.tie_embeddings,
        }
        state = self.state_dict()
        tensors = {theirs: state[ours] for ours, theirs in transformers_names(c).items()}
        for layer in range(c.n_layers):
            fused = tensors.pop(f"model.layers.{layer}.self_attn.qkv.weight")
            q, k, v = fused.split([n * d_head for n in (c.n_heads, c.n_kv_heads, c.n_kv_heads)])
            for part, tensor in zip(
                "qkv", (halves(q, d_head), halves(k, d_head), v.clone()), strict=True
            ):
                tensors[f"model.layers.{layer}.self_attn.{part}_proj.weight"] = tensor
        return config, tensors


def neighbours(weight: Tensor, d_head: int) -> Tensor:
    """Rows i and i + E/2 of each head moved to 2i and 2i + 1: from Llama's pairs to the paper's."""
    heads = weight.view(-1, 2, d_head // 2, weight.shape[1])
    return heads.transpose(1, 2).reshape(weight.shape)


def halves(weight: Tensor, d_head: int) -> Tensor:
    """The inverse of `neighbours`."""
    heads = weight.view(-1, d_head // 2, 2, weight.shape[1])
    return heads.transpose(1, 2).reshape(weight.shape)


def transformers_names(config: RopeConfig) -> dict[str, str]:
    """Our parameter names to Llama's, with its three attention projections under one name."""
    names = {"token_embedding.weight": "model.embed_tokens.weight"}
    parts = {
        "norm_1": "input_layernorm",
        "attention.qkv": "self_attn.qkv",
        "attention.out": "self_attn.o_proj",
        "norm_2": "post_attention_layernorm",
        "feed_forward.gate": "mlp.gate_proj",
        "feed_forward.up": "mlp.up_proj",
        "feed_forward.down": "mlp.down_proj",
    }
    for layer in range(config.n_layers):
        for ours, theirs in parts.items():
            names[f"blocks.{layer}.{ours}.weight"] = f"model.layers.{layer}.{theirs}.weight"
    names["norm.weight"] = "model.norm.weight"
    return names if config.tie_embeddings else names | {"head.weight": "lm_head.weight"}
