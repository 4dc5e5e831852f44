"""GPT-2, complete: any checkpoint of it loads, and what is trained here opens as one.

Source:
    Radford et al. 2019, "Language Models are Unsupervised Multitask Learners", section 2.3, and the
    code that OpenAI published with it; the switches besides are those of `GPT2LMHeadModel` in
    transformers, of which Mistral's and others' GPT-2s make use.

The idea: a transformer that only decodes, large and trained on much text, needs no task of its own:
what it is asked stands in the text that it goes on from. Against the first GPT the norms moved
before each part, one more stands at the end, and the matrices that write to the residual stream
begin smaller, by the root of their number. Every position has a learned vector.

Differences from the paper: none in what is computed. Scores are divided by sqrt(E), unless
`scale_scores` is False, and also by the number of the block, from 1, if `scale_by_layer` is True.
Keys are never multiplied before queries in another order for the sake of half precision, as
`reorder_and_upcast_attn` would: in float32 the numbers are the same. The tests hold it equal to
`GPT2LMHeadModel`.

Letters: B batch, T query length, S key length, D d_model, H heads, E d_head, F d_ff, V vocabulary.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import Config
from zoo.convert import drop_copies, load_renamed
from zoo.errors import ConfigError, ContextLengthError
from zoo.nn import Cache, LayerNorm, attend, unembed


def gelu_new(x: Tensor) -> Tensor:
    """GELU by a hyperbolic tangent: GPT-2's own."""
    return F.gelu(x, approximate="tanh")


def quick_gelu(x: Tensor) -> Tensor:
    """GELU by a sigmoid: x * sigmoid(1.702 x)."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu_new": gelu_new,
    "gelu": F.gelu,
    "quick_gelu": quick_gelu,
    "relu": F.relu,
    "silu": F.silu,
    "tanh": torch.tanh,
}
SYNONYMS = {  # of transformers, for the same numbers
    "gelu_accurate": "gelu_new",
    "gelu_fast": "gelu_new",
    "gelu_python": "gelu",
    "gelu_python_tanh": "gelu_new",
    "gelu_pytorch_tanh": "gelu_new",
    "swish": "silu",
}


@dataclass(frozen=True, kw_only=True)
class GPT2Config(Config):
    """Sizes of a GPT-2; `d_ff` is 4 * `d_model` in all that OpenAI published."""

    vocab_size: int
    max_seq_len: int
    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int
    activation: str = "gelu_new"
    scale_scores: bool = True  # False: scores are not divided by sqrt(E)
    scale_by_layer: bool = False  # True: they are divided by the number of the block too
    embedding_dropout: float = 0.0
    attention_dropout: float = 0.0
    dropout: float = 0.0  # of what a part adds to the stream
    norm_eps: float = 1e-5
    tie_embeddings: bool = True

    def __post_init__(self) -> None:
        self.require_positive("vocab_size", "max_seq_len", "d_model", "n_layers", "n_heads", "d_ff")
        self.require_divisible("d_model", "n_heads")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(
                f"GPT2Config: activation must be one of {', '.join(ACTIVATIONS)}, "
                f"got {self.activation!r}"
            )


class Attention(nn.Module):
    """Causal multi-head self-attention: every position mixes in what stands before it."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.n_heads, self.dropout = config.n_heads, config.attention_dropout
        d_head = config.d_model // config.n_heads
        self.scale = 1 / math.sqrt(d_head) if config.scale_scores else 1.0
        if config.scale_by_layer:
            self.scale /= layer + 1
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model)
        self.out = nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor, mask: Tensor | None, cache: Cache | None, layer: int) -> Tensor:
        B, T, D = x.shape
        qkv = self.qkv(x).view(B, T, 3, self.n_heads, D // self.n_heads)  # (B, T, 3, H, E)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()  # each (B, H, T, E)
        if cache is not None:
            k, v = cache.update(layer, k, v)  # (B, H, S, E)
        dropout = self.dropout if self.training else 0.0
        mixed = attend(q, k, v, mask, causal=True, scale=self.scale, dropout=dropout)
        return self.out(mixed.transpose(1, 2).reshape(B, T, D))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Each position on its own: widen to F, bend, back to D."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.up = nn.Linear(config.d_model, config.d_ff)
        self.bend = ACTIVATIONS[config.activation]
        self.down = nn.Linear(config.d_ff, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.bend(self.up(x)))  # type: ignore[no-any-return]


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: GPT2Config, layer: int) -> None:
        super().__init__()
        self.norm_1 = LayerNorm(config.d_model, config.norm_eps)
        self.attention = Attention(config, layer)
        self.norm_2 = LayerNorm(config.d_model, config.norm_eps)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor | None, cache: Cache | None, layer: int) -> Tensor:
        x = x + self.dropout(self.attention(self.norm_1(x), mask, cache, layer))
        return x + self.dropout(self.feed_forward(self.norm_2(x)))  # type: ignore[no-any-return]


class Positions(nn.Module):
    """One trained vector a position; there is none past `max_seq_len`."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.max_seq_len, config.d_model))

    def forward(self, positions: Tensor, length: int) -> Tensor:
        if length > len(self.weight):
            raise ContextLengthError(
                f"{length} tokens, but this model learned {len(self.weight)} positions. Shorten "
                "the text, or take a model whose positions go on (ALiBi, RoPE, relative)."
            )
        return F.embedding(positions, self.weight)


class GPT2(nn.Module):
    """Token ids to logits: embed, add positions, `n_layers` blocks, norm, project to V."""

    config_class = GPT2Config

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        self.config = config
        D, V = config.d_model, config.vocab_size
        self.token_embedding = nn.Embedding(V, D)
        self.positions = Positions(config)
        self.dropout = nn.Dropout(config.embedding_dropout)
        self.blocks = nn.ModuleList(Block(config, layer) for layer in range(config.n_layers))
        self.norm = LayerNorm(D, config.norm_eps)
        self.head = None if config.tie_embeddings else nn.Linear(D, V, bias=False)
        self.reset_parameters()

    @property
    def max_len(self) -> int:
        """Longest text in tokens."""
        return self.config.max_seq_len

    def reset_parameters(self) -> None:
        """Normal with deviation 0.02, on the residual path divided by sqrt(2 n_layers)."""
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

        Raises:
            ContextLengthError: a position past `max_seq_len`.
        """
        T = ids.shape[1]
        if cache is None:
            length, positions, mask = T, torch.arange(T, device=ids.device)[None], None
        else:
            length, positions, mask = cache.length + T, cache.positions(T), cache.mask(T)
        x = self.dropout(self.token_embedding(ids) + self.positions(positions, length))  # (B, T, D)
        for layer, block in enumerate(self.blocks):
            x = block(x, mask, cache, layer)
        if cache is not None:
            cache.advance(T)
        x = self.norm(x[:, -logits_to_keep:])  # (B, N, D)
        if self.head is None:
            return unembed(x, self.token_embedding)  # (B, N, V)
        return self.head(x)  # type: ignore[no-any-return]

    @classmethod
    def from_transformers(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "GPT2":
        """A GPT-2 checkpoint: its `config.json` and its tensors, every one of which is used.

        Raises:
            ConfigError: it also reads a source, or has an activation that is not known here.
            WeightsError: a tensor is missing, left over, or not what it must be.
        """
        if config.get("add_cross_attention"):
            raise ConfigError(
                "GPT-2 with add_cross_attention reads a source: only decoders are read"
            )
        values = {ours: config[theirs] for ours, theirs in FIELDS.items() if theirs in config}
        values["d_ff"] = config.get("n_inner") or 4 * config["n_embd"]
        activation = values.get("activation", "gelu_new")
        values["activation"] = SYNONYMS.get(activation, activation)
        module = cls(GPT2Config.from_dict({**DEFAULTS, **values}))
        # GPT2Model's own checkpoints leave out the prefix that GPT2LMHeadModel's carry
        found = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        if module.config.tie_embeddings:
            drop_copies(found, "wte.weight", ["lm_head.weight"])
        load_renamed(module, found, transformers_names(module.config), turned, BUFFERS)
        return module

    def to_transformers(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The same model as a GPT-2 checkpoint: `config.json` and tensors."""
        config = {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "n_inner": self.config.d_ff,
            **{theirs: getattr(self.config, ours) for ours, theirs in FIELDS.items()},
        }
        tensors, state = {}, self.state_dict()
        for ours, theirs in transformers_names(self.config).items():
            prefix = "" if theirs == "lm_head.weight" else "transformer."
            tensors[prefix + theirs] = turned(ours, state[ours])
        return config, tensors


FIELDS = {  # our words to GPT-2's
    "vocab_size": "vocab_size",
    "max_seq_len": "n_positions",
    "d_model": "n_embd",
    "n_layers": "n_layer",
    "n_heads": "n_head",
    "activation": "activation_function",
    "scale_scores": "scale_attn_weights",
    "scale_by_layer": "scale_attn_by_inverse_layer_idx",
    "embedding_dropout": "embd_pdrop",
    "attention_dropout": "attn_pdrop",
    "dropout": "resid_pdrop",
    "norm_eps": "layer_norm_epsilon",
    "tie_embeddings": "tie_word_embeddings",
}
DEFAULTS = {"embedding_dropout": 0.1, "attention_dropout": 0.1, "dropout": 0.1}  # left out
BUFFERS = (".attn.bias", ".attn.masked_bias")  # masks, which old checkpoints hold


def turned(ours: str, tensor: Tensor) -> Tensor:
    """GPT-2 stores its blocks' matrices as (in, out), a linear layer here is (out, in)."""
    is_matrix = ours.startswith("blocks.") and tensor.dim() == 2
    return tensor.T.contiguous() if is_matrix else tensor


def transformers_names(config: GPT2Config) -> dict[str, str]:
    """Our parameter names to GPT-2's, without the `transformer.` prefix."""
    names = {"token_embedding.weight": "wte.weight", "positions.weight": "wpe.weight"}
    parts = {
        "norm_1": "ln_1",
        "attention.qkv": "attn.c_attn",
        "attention.out": "attn.c_proj",
        "norm_2": "ln_2",
        "feed_forward.up": "mlp.c_fc",
        "feed_forward.down": "mlp.c_proj",
    }
    for layer in range(config.n_layers):
        for ours, theirs in parts.items():
            for kind in ("weight", "bias"):
                names[f"blocks.{layer}.{ours}.{kind}"] = f"h.{layer}.{theirs}.{kind}"
    names |= {"norm.weight": "ln_f.weight", "norm.bias": "ln_f.bias"}
    return names if config.tie_embeddings else names | {"head.weight": "lm_head.weight"}
