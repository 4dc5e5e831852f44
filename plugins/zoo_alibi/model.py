"""ALiBi: attention with linear biases.

Source:
    Press, Smith & Lewis 2022, "Train Short, Test Long: Attention with Linear Biases Enables Input
    Length Extrapolation", arXiv:2108.12409, section 3.

The idea: no position is ever added to a token. Instead each attention score loses a little for
every step between query and key, softmax(q k^T / sqrt(E) - slope * distance), and each head has
its own slope. Distances grow without end, so the model reads texts longer than it was trained on.

Differences from the paper: the block around it is BLOOM's (BigScience 2022, arXiv:2211.05100): a
norm after the token embedding (which can be left out), GELU in its tanh form. The tests hold the
two equal.

Letters: B batch, T query length, S key length, D d_model, H heads, E d_head, F d_ff, V vocabulary.
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
from zoo.nn import Cache, LayerNorm, attend, causal_mask, unembed


@dataclass(frozen=True, kw_only=True)
class AlibiConfig(Config):
    """Sizes of an ALiBi decoder; `max_seq_len` is the length it is trained on, not a limit."""

    vocab_size: int
    max_seq_len: int
    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int
    dropout: float = 0.0
    norm_eps: float = 1e-5
    tie_embeddings: bool = True
    embedding_norm: bool = True  # BLOOM's; the paper's own models have none

    def __post_init__(self) -> None:
        self.require_positive("vocab_size", "max_seq_len", "d_model", "n_layers", "n_heads", "d_ff")
        self.require_divisible("d_model", "n_heads")


def slopes(n_heads: int) -> Tensor:
    """What each head takes off a score for every step of distance, (H,), all above 0.

    For H a power of two: the geometric sequence that starts at 2^(-8/H) and multiplies by itself,
    so 1/2, 1/4, ... 1/256 for eight heads (section 3). For other H (the authors' code): the
    sequence of the next lower power of two, then every other value of the next higher one's.
    """

    def geometric(n: int) -> list[float]:
        return [2 ** (-8 * (head + 1) / n) for head in range(n)]

    power = 2 ** math.floor(math.log2(n_heads))
    return torch.tensor(geometric(power) + geometric(2 * power)[0::2][: n_heads - power])


def distance_bias(slopes: Tensor, mask: Tensor) -> Tensor:
    """What is added to the scores: -slope * distance where a query may look, -inf elsewhere.

    Args:
        slopes: (H,).
        mask: True = may attend, (B or 1, 1, T, S), the queries in the last T columns.

    Returns:
        The bias (B or 1, H, T, S).
    """
    T, S = mask.shape[-2:]
    columns = torch.arange(S, device=mask.device)
    distance = columns[S - T :, None] - columns[None, :]  # (T, S), how far back the key stands
    bias = -slopes[:, None, None] * distance  # (H, T, S)
    return torch.where(mask, bias, -math.inf)  # (B or 1, H, T, S)


class Attention(nn.Module):
    """Causal multi-head self-attention whose scores carry the distance bias."""

    def __init__(self, config: AlibiConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.dropout = config.dropout
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model)
        self.out = nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor, bias: Tensor, cache: Cache | None, layer: int) -> Tensor:
        B, T, D = x.shape
        qkv = self.qkv(x).view(B, T, 3, self.n_heads, D // self.n_heads)  # (B, T, 3, H, E)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()  # each (B, H, T, E)
        if cache is not None:
            k, v = cache.update(layer, k, v)  # (B, H, S, E)
        mixed = attend(q, k, v, bias, dropout=self.dropout if self.training else 0.0)
        return self.out(mixed.transpose(1, 2).reshape(B, T, D))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Each position on its own: widen to F, GELU (tanh form), back to D."""

    def __init__(self, config: AlibiConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.d_model, config.d_ff)
        self.down = nn.Linear(config.d_ff, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate="tanh"))  # type: ignore[no-any-return]


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: AlibiConfig) -> None:
        super().__init__()
        self.norm_1 = LayerNorm(config.d_model, config.norm_eps)
        self.attention = Attention(config)
        self.norm_2 = LayerNorm(config.d_model, config.norm_eps)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, bias: Tensor, cache: Cache | None, layer: int) -> Tensor:
        x = x + self.dropout(self.attention(self.norm_1(x), bias, cache, layer))
        return x + self.dropout(self.feed_forward(self.norm_2(x)))  # type: ignore[no-any-return]


class AlibiDecoder(nn.Module):
    """Token ids to logits: embed, norm, `n_layers` blocks, norm, project to the vocabulary."""

    config_class = AlibiConfig
    max_len: int | None = None  # distances never end

    def __init__(self, config: AlibiConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.norm_embedding = (
            LayerNorm(config.d_model, config.norm_eps) if config.embedding_norm else nn.Identity()
        )
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = LayerNorm(config.d_model, config.norm_eps)
        self.head = (
            None
            if config.tie_embeddings
            else nn.Linear(config.d_model, config.vocab_size, bias=False)
        )
        self.slopes: Tensor
        self.register_buffer("slopes", slopes(config.n_heads), persistent=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal with deviation 0.02, on the residual path divided by sqrt(2 n_layers) (GPT-2)."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                residual = name.endswith(("out.weight", "down.weight"))
                deviation = 0.02 / math.sqrt(2 * self.config.n_layers) if residual else 0.02
                nn.init.normal_(parameter, std=deviation)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

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
        bias = distance_bias(self.slopes, mask)  # (B or 1, H, T, S), the same in every layer
        x = self.dropout(self.norm_embedding(self.token_embedding(ids)))  # (B, T, D)
        for layer, block in enumerate(self.blocks):
            x = block(x, bias, cache, layer)
        if cache is not None:
            cache.advance(T)
        x = self.norm(x[:, -logits_to_keep:])  # (B, N, D)
        if self.head is None:
            return unembed(x, self.token_embedding)  # (B, N, V)
        return self.head(x)  # type: ignore[no-any-return]

    @classmethod
    def from_transformers(
        cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> "AlibiDecoder":
        """A BLOOM checkpoint: its `config.json` and its tensors, every one of which is used."""
        if config.get("apply_residual_connection_post_layernorm"):
            raise ConfigError("BLOOM with residuals taken after the norm is not read")
        d_model = config.get("hidden_size") or config["n_embed"]
        module = cls(
            AlibiConfig(
                vocab_size=config["vocab_size"],
                max_seq_len=config.get("seq_length", 2048),
                d_model=d_model,
                n_layers=config["n_layer"],
                n_heads=config["n_head"],
                d_ff=4 * d_model,
                norm_eps=config.get("layer_norm_epsilon", 1e-5),
                tie_embeddings=config.get("tie_word_embeddings", True),
            )
        )

        def ours(name: str, tensor: Tensor) -> Tensor:
            if ".qkv." not in name:
                return tensor
            H = module.config.n_heads  # BLOOM's rows stand head by head: (H, 3, E, ...)
            heads = tensor.view(H, 3, d_model // H, *tensor.shape[1:])
            return heads.transpose(0, 1).reshape(tensor.shape)

        # BloomModel's own checkpoints leave out the prefix that BloomForCausalLM's carry
        tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        load_renamed(module, tensors, transformers_names(module.config), ours, ("lm_head.weight",))
        return module

    def to_transformers(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The same model as a BLOOM checkpoint: `config.json` and tensors.

        BLOOM's F is 4 D; a narrower feed-forward is filled up with zeros, which change nothing.

        Raises:
            ConfigError: `d_ff` above 4 * `d_model`, or no norm after the embedding.
        """
        c = self.config
        if not c.embedding_norm:
            raise ConfigError(
                "BLOOM has a norm after the embedding, and this model has none "
                "(embedding_norm is False): it cannot be written as BLOOM"
            )
        missing = 4 * c.d_model - c.d_ff
        if missing < 0:
            raise ConfigError(
                f"BLOOM's d_ff is 4 * d_model = {4 * c.d_model}, this one is {c.d_ff}"
            )
        config = {
            "model_type": "bloom",
            "architectures": ["BloomForCausalLM"],
            "vocab_size": c.vocab_size,
            "seq_length": c.max_seq_len,
            "hidden_size": c.d_model,
            "n_layer": c.n_layers,
            "n_head": c.n_heads,
            "hidden_dropout": c.dropout,
            "attention_dropout": c.dropout,
            "layer_norm_epsilon": c.norm_eps,
            "tie_word_embeddings": c.tie_embeddings,
        }
        state = self.state_dict()
        tensors = {}
        for ours, theirs in transformers_names(c).items():
            tensor = state[ours]
            if ".qkv." in ours:
                heads = tensor.view(3, c.n_heads, c.d_model // c.n_heads, *tensor.shape[1:])
                tensor = heads.transpose(0, 1).reshape(tensor.shape)
            elif ours.endswith("up.weight"):
                tensor = F.pad(tensor, (0, 0, 0, missing))
            elif ours.endswith(("up.bias", "down.weight")):
                tensor = F.pad(tensor, (0, missing))
            tensors["lm_head.weight" if ours == "head.weight" else f"transformer.{theirs}"] = tensor
        return config, tensors


def transformers_names(config: AlibiConfig) -> dict[str, str]:
    """Our parameter names to BLOOM's, without the `transformer.` prefix."""
    names = {"token_embedding.weight": "word_embeddings.weight"}
    parts = {
        "norm_1": "input_layernorm",
        "attention.qkv": "self_attention.query_key_value",
        "attention.out": "self_attention.dense",
        "norm_2": "post_attention_layernorm",
        "feed_forward.up": "mlp.dense_h_to_4h",
        "feed_forward.down": "mlp.dense_4h_to_h",
    }
    for layer in range(config.n_layers):
        for ours, theirs in parts.items():
            for kind in ("weight", "bias"):
                names[f"blocks.{layer}.{ours}.{kind}"] = f"h.{layer}.{theirs}.{kind}"
    for ours, theirs in {"norm_embedding": "word_embeddings_layernorm", "norm": "ln_f"}.items():
        for kind in ("weight", "bias"):
            names[f"{ours}.{kind}"] = f"{theirs}.{kind}"
    return names if config.tie_embeddings else names | {"head.weight": "lm_head.weight"}
