"""A decoder-only transformer, from first principles.

Sources:
    Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762: attention (eq. 1), the
    block, sinusoidal positions (section 3.5).
    Radford et al. 2019, "Language Models are Unsupervised Multitask Learners" (GPT-2): decoder
    only, norms before each part and one at the end, learned positions, GELU, scaled residuals.

Differences: none from GPT-2 with learned positions; the tests hold the two equal. With sinusoidal
positions the embeddings are multiplied by sqrt(D) (Vaswani et al., section 3.4): sines reach 1.

Letters: B batch, T query length, S key length, D d_model, H heads, E d_head, F d_ff, V vocabulary.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import Config
from zoo.convert import load_renamed
from zoo.errors import ConfigError, ContextLengthError
from zoo.nn import Cache, LayerNorm, attend, unembed


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(Config):
    """Sizes of a decoder; `d_ff` is 4 * `d_model` in both papers."""

    vocab_size: int
    max_seq_len: int
    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int
    positions: str = "learned"  # or "sinusoidal"
    dropout: float = 0.0
    norm_eps: float = 1e-5
    tie_embeddings: bool = True

    def __post_init__(self) -> None:
        self.require_positive("vocab_size", "max_seq_len", "d_model", "n_layers", "n_heads", "d_ff")
        self.require_divisible("d_model", "n_heads")
        if self.positions not in ("learned", "sinusoidal"):
            raise ConfigError(
                f"DecoderConfig: positions is 'learned' or 'sinusoidal', got {self.positions!r}"
            )


def sinusoids(length: int, width: int) -> Tensor:
    """Sinusoidal positions (Vaswani et al. 2017, section 3.5), as a table (length, width).

    Column 2i holds sin(position / 10000^(2i/width)), column 2i+1 the cosine of the same angle: a
    clock with width/2 hands, each slower than the one before.
    """
    position = torch.arange(length, dtype=torch.float64)[:, None]  # (length, 1)
    even = torch.arange(0, width, 2, dtype=torch.float64)  # 2i
    angle = position / 10000 ** (even / width)  # (length, ceil(width / 2))
    table = torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)  # sin, cos, sin, cos ...
    return table[:, :width].float()  # (length, width)


class Attention(nn.Module):
    """Causal multi-head self-attention: every position mixes in what stands before it."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.dropout = config.dropout
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model)
        self.out = nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor, mask: Tensor | None, cache: Cache | None, layer: int) -> Tensor:
        B, T, D = x.shape
        qkv = self.qkv(x).view(B, T, 3, self.n_heads, D // self.n_heads)  # (B, T, 3, H, E)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()  # each (B, H, T, E)
        if cache is not None:
            k, v = cache.update(layer, k, v)  # (B, H, S, E)
        mixed = attend(q, k, v, mask, causal=True, dropout=self.dropout if self.training else 0.0)
        return self.out(mixed.transpose(1, 2).reshape(B, T, D))  # type: ignore[no-any-return]


class FeedForward(nn.Module):
    """Each position on its own: widen to F, GELU (tanh form), back to D."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.d_model, config.d_ff)
        self.down = nn.Linear(config.d_ff, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate="tanh"))  # type: ignore[no-any-return]


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed_forward(norm(x))."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.norm_1 = LayerNorm(config.d_model, config.norm_eps)
        self.attention = Attention(config)
        self.norm_2 = LayerNorm(config.d_model, config.norm_eps)
        self.feed_forward = FeedForward(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor | None, cache: Cache | None, layer: int) -> Tensor:
        x = x + self.dropout(self.attention(self.norm_1(x), mask, cache, layer))
        return x + self.dropout(self.feed_forward(self.norm_2(x)))  # type: ignore[no-any-return]


class LearnedPositions(nn.Module):
    """One trained vector a position; there is none past `max_seq_len`."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(config.max_seq_len, config.d_model))

    def forward(self, positions: Tensor, length: int) -> Tensor:
        if length > len(self.weight):
            raise ContextLengthError(
                f"{length} tokens, but this model learned {len(self.weight)} positions. Shorten "
                "the text, or take a model whose positions go on (ALiBi, RoPE, relative)."
            )
        return F.embedding(positions, self.weight)


class SinusoidalPositions(nn.Module):
    """The fixed table of `sinusoids`, longer when asked for more."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.register_buffer(
            "table", sinusoids(config.max_seq_len, config.d_model), persistent=False
        )

    def forward(self, positions: Tensor, length: int) -> Tensor:
        if length > len(self.table):
            self.table: Tensor = sinusoids(2 * length, self.table.shape[1]).to(self.table)
        return F.embedding(positions, self.table)


class Decoder(nn.Module):
    """Token ids to logits: embed, add positions, `n_layers` blocks, norm, project to V."""

    config_class = DecoderConfig

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.token_embedding = nn.Embedding(config.vocab_size, config.d_model)
        learned = config.positions == "learned"
        self.positions = LearnedPositions(config) if learned else SinusoidalPositions(config)
        self.embedding_scale = 1 if learned else math.sqrt(config.d_model)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = LayerNorm(config.d_model, config.norm_eps)
        self.head = (
            None
            if config.tie_embeddings
            else nn.Linear(config.d_model, config.vocab_size, bias=False)
        )
        self.reset_parameters()

    @property
    def max_len(self) -> int | None:
        """Longest text in tokens; None for any length."""
        return self.config.max_seq_len if self.config.positions == "learned" else None

    def reset_parameters(self) -> None:
        """GPT-2's: normal with deviation 0.02, on the residual path divided by sqrt(2 n_layers).

        Token embeddings that are not the output too begin at the scale that the blocks write on.
        """
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                residual = name.endswith(("out.weight", "down.weight"))
                deviation = 0.02 / math.sqrt(2 * self.config.n_layers) if residual else 0.02
                nn.init.normal_(parameter, std=deviation)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)
        if self.head is not None:
            nn.init.normal_(self.token_embedding.weight, std=1 / self.embedding_scale)

    def forward(self, ids: Tensor, cache: Cache | None = None, logits_to_keep: int = 0) -> Tensor:
        """Logits of the next token at every position.

        Args:
            ids: token ids (B, T), the continuation of what `cache` holds.
            cache: keys and values so far; filled by T more columns.
            logits_to_keep: N, of the last so many tokens only; 0 for all.

        Returns:
            Logits (B, N, V).

        Raises:
            ContextLengthError: learned positions, and a position past `max_seq_len`.
        """
        T = ids.shape[1]
        if cache is None:
            length, positions, mask = T, torch.arange(T, device=ids.device)[None], None
        else:
            length, positions, mask = cache.length + T, cache.positions(T), cache.mask(T)
        x = self.token_embedding(ids)  # (B, T, D)
        if self.embedding_scale != 1:
            x = x * self.embedding_scale
        x = x + self.positions(positions, length)
        x = self.dropout(x)
        for layer, block in enumerate(self.blocks):
            x = block(x, mask, cache, layer)
        if cache is not None:
            cache.advance(T)
        x = self.norm(x[:, -logits_to_keep:])  # (B, N, D)
        if self.head is None:
            return unembed(x, self.token_embedding)  # (B, N, V)
        return self.head(x)  # type: ignore[no-any-return]

    @classmethod
    def from_transformers(
        cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> "Decoder":
        """A GPT-2 checkpoint: its `config.json` and its tensors, every one of which is used."""
        d_model = config["n_embd"]
        activation = config.get("activation_function", "gelu_new")
        if activation not in ("gelu_new", "gelu_pytorch_tanh"):
            raise ConfigError(
                f"GPT-2 with activation_function={activation!r}: only gelu_new is read"
            )
        if config.get("scale_attn_by_inverse_layer_idx") or not config.get(
            "scale_attn_weights", True
        ):
            raise ConfigError("GPT-2 with other attention scales than 1/sqrt(d_head) is not read")
        tied = config.get("tie_word_embeddings", True)
        module = cls(
            DecoderConfig(
                vocab_size=config["vocab_size"],
                max_seq_len=config["n_positions"],
                d_model=d_model,
                n_layers=config["n_layer"],
                n_heads=config["n_head"],
                d_ff=config.get("n_inner") or 4 * d_model,
                norm_eps=config.get("layer_norm_epsilon", 1e-5),
                tie_embeddings=tied,
            )
        )
        # GPT2Model's own checkpoints leave out the prefix that GPT2LMHeadModel's carry
        tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        load_renamed(module, tensors, transformers_names(module.config), turned, BUFFERS)
        return module

    def to_transformers(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The same model as a GPT-2 checkpoint: `config.json` and tensors.

        Sinusoidal positions become the table of learned ones, up to `max_seq_len`, and since GPT-2
        has no factor on its embeddings, the output gets a matrix of its own.
        """
        c, state = self.config, dict(self.state_dict())
        if c.positions == "sinusoidal":
            state["positions.weight"] = sinusoids(c.max_seq_len, c.d_model)
            state.setdefault("head.weight", state["token_embedding.weight"])
            state["token_embedding.weight"] = state["token_embedding.weight"] * self.embedding_scale
            c = replace(c, tie_embeddings=False)
        config = {
            "model_type": "gpt2",
            "architectures": ["GPT2LMHeadModel"],
            "vocab_size": c.vocab_size,
            "n_positions": c.max_seq_len,
            "n_embd": c.d_model,
            "n_layer": c.n_layers,
            "n_head": c.n_heads,
            "n_inner": c.d_ff,
            "activation_function": "gelu_new",
            "resid_pdrop": c.dropout,
            "embd_pdrop": c.dropout,
            "attn_pdrop": c.dropout,
            "layer_norm_epsilon": c.norm_eps,
            "tie_word_embeddings": c.tie_embeddings,
        }
        tensors = {}
        for ours, theirs in transformers_names(c).items():
            prefix = "" if theirs == "lm_head.weight" else "transformer."
            tensors[prefix + theirs] = turned(ours, state[ours])
        return config, tensors


# what GPT-2 checkpoints hold besides weights: masks, and the second name of tied embeddings
BUFFERS = (".attn.bias", ".attn.masked_bias", "lm_head.weight")


def turned(ours: str, tensor: Tensor) -> Tensor:
    """GPT-2 stores its blocks' matrices as (in, out), a linear layer here is (out, in)."""
    is_matrix = ours.startswith("blocks.") and tensor.dim() == 2
    return tensor.T.contiguous() if is_matrix else tensor


def transformers_names(config: DecoderConfig) -> dict[str, str]:
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
