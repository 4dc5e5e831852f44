"""An encoder-decoder: the encoder reads a source, the decoder writes a target that looks at it.

Source:
    Vaswani et al. 2017, "Attention Is All You Need", arXiv:1706.03762, sections 3.1 to 3.5 and 5.4.

The idea: the encoder sees all of the source at once and gives a vector for each of its tokens, the
memory. The decoder writes one token after the other. In each of its layers a token looks back at
what is written already (self-attention), then at the memory (source attention, or cross-attention:
its queries come from the target, its keys and values from the source).

Differences from the paper: the sines stand in the first half of a position and the cosines in the
second, as in the authors' code and in Marian (Junczys-Dowmunt et al. 2018, arXiv:1804.00344), which
is the paper's order of columns renumbered; linear layers of attention and the output have biases,
as in Marian. By choice: the norm before each sublayer and at the end of each stack (Xiong et al.
2020, arXiv:2002.04745), GELU or SiLU. The tests hold it equal to `MarianMTModel`.

Letters: P sources, R targets (several to a source in beam search), S source length, T target
length, D d_model, H heads, E d_head, F d_ff, V vocabulary.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import Config
from zoo.convert import drop_copies, join, load_renamed, split
from zoo.errors import ConfigError, WeightsError
from zoo.nn import Cache, EncoderDecoder, LayerNorm, SourceCache, attend, attend_source, unembed

NORMS = ("post", "pre")
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "silu": F.silu,
}
FIRST_POSITIONS = 1024  # rows of the table of positions to begin with; it grows up to max_seq_len


@dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig(Config):
    """Sizes of an encoder-decoder; one vocabulary for source and target.

    A source is its tokens and `end_id`. A target is read as `start_id` and its tokens, and is to
    give its tokens and `end_id`.
    """

    vocab_size: int
    max_seq_len: int  # of a source and of a target
    d_model: int
    n_layers: int  # of the decoder
    n_encoder_layers: int
    n_heads: int
    d_ff: int
    norm: str = "post"  # or "pre"
    activation: str = "relu"  # or "gelu", "silu"
    dropout: float = 0.0  # on embeddings and on what a sublayer adds; 0.1 in the paper
    norm_eps: float = 1e-5
    pad_id: int = 0
    start_id: int = 0  # Marian and T5 begin a target with their padding
    end_id: int = 1

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "max_seq_len", "d_model", "n_layers", "n_encoder_layers", "n_heads")
        self.require_positive(*sizes, "d_ff")
        self.require_divisible("d_model", "n_heads")
        for name, choices in (("norm", NORMS), ("activation", tuple(ACTIVATIONS))):
            if (value := getattr(self, name)) not in choices:
                raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        for name in ("pad_id", "start_id", "end_id"):
            if not 0 <= (value := getattr(self, name)) < self.vocab_size:
                raise ConfigError(f"{name} must be a token, 0 to {self.vocab_size - 1}: {value}")
        if self.end_id == self.pad_id:
            raise ConfigError(f"end_id and pad_id are both {self.pad_id}: an end is no padding")


def sinusoids(length: int, width: int) -> Tensor:
    """Positions (Vaswani et al. 2017, section 3.5), as a table (length, width).

    Column i of the first half holds sin(position / 10000^(2i/width)), the same column of the second
    half the cosine: a clock with width/2 hands, each slower than the one before.
    """
    position = torch.arange(length, dtype=torch.float64)[:, None]  # (length, 1)
    even = torch.arange(0, width, 2, dtype=torch.float64)  # 2i
    angle = position / 10000 ** (even / width)  # (length, ceil(width / 2))
    return torch.cat([angle.sin(), angle.cos()], dim=-1)[:, :width].float()


class SelfAttention(nn.Module):
    """Multi-head attention of a text to itself."""

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model)
        self.out = nn.Linear(config.d_model, config.d_model)

    def forward(
        self,
        x: Tensor,
        mask: Tensor | None,
        causal: bool = False,
        cache: Cache | None = None,
        layer: int = 0,
    ) -> Tensor:
        R, T, D = x.shape
        qkv = self.qkv(x).view(R, T, 3, self.n_heads, D // self.n_heads)  # (R, T, 3, H, E)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()  # each (R, H, T, E)
        if cache is not None:
            k, v = cache.update(layer, k, v)  # all so far
        mixed = attend(q, k, v, mask, causal=causal)  # (R, H, T, E)
        return self.out(mixed.transpose(1, 2).reshape(R, T, D))  # type: ignore[no-any-return]


class SourceAttention(nn.Module):
    """Multi-head attention of a target to its source: where to look while writing."""

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.query = nn.Linear(config.d_model, config.d_model)
        self.key_value = nn.Linear(config.d_model, 2 * config.d_model)
        self.out = nn.Linear(config.d_model, config.d_model)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        mask: Tensor | None,
        cache: SourceCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        R, T, D = x.shape
        q = self.query(x).view(R, T, self.n_heads, D // self.n_heads).transpose(1, 2)
        if cache is None:
            k, v = self.keys_values(memory)
        else:
            k, v = cache.source(layer, lambda: self.keys_values(memory))
        mixed = attend_source(q, k, v, mask)  # (R, H, T, E)
        return self.out(mixed.transpose(1, 2).reshape(R, T, D))  # type: ignore[no-any-return]

    def keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """What every target of a source looks at, and every step of a target: (P, H, S, E) each."""
        P, S, D = memory.shape
        both = self.key_value(memory).view(P, S, 2, self.n_heads, D // self.n_heads)
        k, v = both.permute(2, 0, 3, 1, 4)
        return k, v


class FeedForward(nn.Module):
    """Each position on its own: widen to F, activation, back to D (section 3.3)."""

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[config.activation]
        self.up = nn.Linear(config.d_model, config.d_ff)
        self.down = nn.Linear(config.d_ff, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.activation(self.up(x)))  # type: ignore[no-any-return]


class Residual(nn.Module):
    """norm(x + sublayer(x)) (section 3.1), or with the norm before: x + sublayer(norm(x))."""

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        self.pre = config.norm == "pre"
        self.norm = LayerNorm(config.d_model, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        if self.pre:
            return x + self.dropout(sublayer(self.norm(x)))  # type: ignore[no-any-return]
        return self.norm(x + self.dropout(sublayer(x)))  # type: ignore[no-any-return]


class EncoderBlock(nn.Module):
    """Every token of the source looks at all others, then each is changed on its own."""

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.residual_1 = Residual(config)
        self.feed_forward = FeedForward(config)
        self.residual_2 = Residual(config)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.residual_1(x, lambda x: self.attention(x, mask))
        return self.residual_2(x, self.feed_forward)  # type: ignore[no-any-return]


class DecoderBlock(nn.Module):
    """A token looks back, then at the source, then is changed on its own."""

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.residual_1 = Residual(config)
        self.source_attention = SourceAttention(config)
        self.residual_2 = Residual(config)
        self.feed_forward = FeedForward(config)
        self.residual_3 = Residual(config)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        mask: Tensor | None,
        source_mask: Tensor | None,
        cache: SourceCache | None,
        layer: int,
    ) -> Tensor:
        x = self.residual_1(x, lambda x: self.attention(x, mask, True, cache, layer))
        x = self.residual_2(
            x, lambda x: self.source_attention(x, memory, source_mask, cache, layer)
        )
        return self.residual_3(x, self.feed_forward)  # type: ignore[no-any-return]


class Positions(nn.Module):
    """The vectors of positions, from a table that grows with the texts."""

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        self.max_len = config.max_seq_len
        table = sinusoids(min(self.max_len, FIRST_POSITIONS), config.d_model)
        self.register_buffer("table", table, persistent=False)

    def forward(self, positions: Tensor, length: int) -> Tensor:
        if length > len(self.table):
            rows = min(2 * length, self.max_len)
            self.table: Tensor = sinusoids(rows, self.table.shape[1]).to(self.table)
        return F.embedding(positions, self.table)


class Seq2Seq(EncoderDecoder):
    """Source and target ids to logits of the target's next tokens."""

    config_class = Seq2SeqConfig

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        self.config = config
        self.max_len = config.max_seq_len
        D, pre = config.d_model, config.norm == "pre"
        # of both texts, times sqrt(D), and the output matrix (section 3.4)
        self.embedding = nn.Embedding(
            config.vocab_size, D, _weight=torch.empty(config.vocab_size, D)
        )
        self.embed_scale = math.sqrt(D)
        self.positions = Positions(config)
        self.dropout = nn.Dropout(config.dropout)
        self.encoder = nn.ModuleList(EncoderBlock(config) for _ in range(config.n_encoder_layers))
        self.encoder_norm = LayerNorm(D, config.norm_eps) if pre else None
        self.decoder = nn.ModuleList(DecoderBlock(config) for _ in range(config.n_layers))
        self.decoder_norm = LayerNorm(D, config.norm_eps) if pre else None
        self.output_bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Embeddings normal with deviation D^-0.5, so that the factor sqrt(D) makes them 1.

        Matrices uniform after Glorot & Bengio 2010, eq. 16; queries, keys and values as if they
        were one matrix (3 D, D), which keeps attention even at first. Biases 0.
        """
        D = self.config.d_model
        for name, parameter in self.named_parameters():
            if name == "embedding.weight":
                nn.init.normal_(parameter, std=D**-0.5)
            elif name.endswith(("qkv.weight", "query.weight", "key_value.weight")):
                bound = math.sqrt(6 / (3 * D + D))
                nn.init.uniform_(parameter, -bound, bound)
            elif parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def embed(self, ids: Tensor, positions: Tensor, length: int) -> Tensor:
        """Vectors (R, T, D) of ids (R, T) that stand at positions below `length`."""
        x = self.embedding(ids) * self.embed_scale + self.positions(positions, length)
        return self.dropout(x)  # type: ignore[no-any-return]

    def read(self, source: Tensor, real: Tensor) -> Tensor:
        """Memory (P, S, D) of sources (P, S); `real` (P, S) is True where a token is no padding."""
        S = source.shape[1]
        mask = real[:, None, None, :]  # (P, 1, 1, S): nobody looks at padding
        x = self.embed(source, torch.arange(S, device=source.device), S)  # (P, S, D)
        for block in self.encoder:
            x = block(x, mask)
        return x if self.encoder_norm is None else self.encoder_norm(x)

    def write(
        self, ids: Tensor, memory: Tensor, real: Tensor | None, cache: SourceCache | None
    ) -> Tensor:
        """Logits (R, T, V) of targets (R, T), with a cache of what goes on from it."""
        T = ids.shape[1]
        length = T if cache is None else cache.length + T
        if cache is None:
            positions, mask = torch.arange(T, device=ids.device)[None], None
        else:
            positions, mask = cache.positions(T), cache.mask(T)
        source_mask = None if real is None else real[:, None, None, :]  # (P, 1, 1, S)
        x = self.embed(ids, positions, length)  # (R, T, D)
        for layer, block in enumerate(self.decoder):
            x = block(x, memory, mask, source_mask, cache, layer)
        x = x if self.decoder_norm is None else self.decoder_norm(x)
        return unembed(x, self.embedding) + self.output_bias  # (R, T, V)

    @classmethod
    def from_transformers(
        cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> "Seq2Seq":
        """A Marian checkpoint: its `config.json` and its tensors, every one of which is used.

        Raises:
            ConfigError: a kind of Marian that this file is not.
            WeightsError: a tensor is missing, left over, or not what it must be.
        """
        kind = (config.get("architectures") or [KIND])[0]
        if kind != KIND:
            raise ConfigError(f"{kind} is not read; read is {KIND}")
        config = {"scale_embedding": False, **config}  # Marian's own default
        for name, wanted in FIXED.items():
            if config.get(name, wanted) != wanted:
                raise ConfigError(f"Marian with {name}={config[name]!r} is not read")
        for name, twin in TWINS.items():
            if (config.get(twin) or config[name]) != config[name]:
                both = f"{name}={config[name]!r} but {twin}={config[twin]!r}"
                raise ConfigError(f"Marian with {both} is not read")
        values = {ours: config[theirs] for ours, theirs in FIELDS.items()}
        if values["activation"] == "swish":  # as Marian calls it
            values["activation"] = "silu"
        module = cls(Seq2SeqConfig.from_dict(values))
        names = transformers_names(module.config)
        load_renamed(module, joined(tensors, names.values()), names)
        return module

    def to_transformers(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The same model as a Marian checkpoint: `config.json` and tensors.

        Raises:
            ConfigError: the norm stands before the sublayers, or has another epsilon than Marian's.
        """
        c = self.config
        if c.norm != "post" or c.norm_eps != 1e-5:
            raise ConfigError(
                "Marian has its norm after each sublayer, with an epsilon of 1e-5; this model has "
                f"norm={c.norm!r} and norm_eps={c.norm_eps}"
            )
        config = {
            "model_type": "marian",
            "architectures": [KIND],
            "is_encoder_decoder": True,
            "bos_token_id": None,
            "forced_eos_token_id": None,
            **FIXED,
            **{theirs: getattr(c, ours) for ours, theirs in FIELDS.items()},
        }
        config |= {twin: config[name] for name, twin in TWINS.items()}
        tensors = split(self.state_dict(), transformers_names(c))
        tensors[BIAS] = tensors[BIAS][None]  # (1, V)
        return config, tensors


KIND = "MarianMTModel"
SHARED, BIAS = "model.shared.weight", "final_logits_bias"
COPIES = (  # further names that checkpoints hold the shared embeddings under
    "model.encoder.embed_tokens.weight",
    "model.decoder.embed_tokens.weight",
    "lm_head.weight",
)
POSITIONS = ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight")
FIXED = {  # what a Marian may have otherwise
    "scale_embedding": True,
    "share_encoder_decoder_embeddings": True,
    "tie_word_embeddings": True,
    "static_position_embeddings": True,
    "normalize_before": False,
    "normalize_embedding": False,
    "add_final_layer_norm": False,
}
FIELDS = {  # our words to Marian's
    "vocab_size": "vocab_size",
    "max_seq_len": "max_position_embeddings",
    "d_model": "d_model",
    "n_layers": "decoder_layers",
    "n_encoder_layers": "encoder_layers",
    "n_heads": "decoder_attention_heads",
    "d_ff": "decoder_ffn_dim",
    "activation": "activation_function",
    "dropout": "dropout",
    "pad_id": "pad_token_id",
    "start_id": "decoder_start_token_id",
    "end_id": "eos_token_id",
}
TWINS = {  # a second size that Marian has, and this file has not
    "vocab_size": "decoder_vocab_size",
    "decoder_attention_heads": "encoder_attention_heads",
    "decoder_ffn_dim": "encoder_ffn_dim",
}


def transformers_names(config: Seq2SeqConfig) -> dict[str, str]:
    """Our parameter names to Marian's; what is one matrix here stands as `qkv_proj`, `kv_proj`."""
    names = {"embedding.weight": SHARED, "output_bias": BIAS}
    own = {"attention.qkv": "self_attn.qkv_proj", "attention.out": "self_attn.out_proj"}
    own |= {"residual_1.norm": "self_attn_layer_norm"}
    cross = {
        "source_attention.query": "encoder_attn.q_proj",
        "source_attention.key_value": "encoder_attn.kv_proj",
        "source_attention.out": "encoder_attn.out_proj",
        "residual_2.norm": "encoder_attn_layer_norm",
    }
    last = {"feed_forward.up": "fc1", "feed_forward.down": "fc2"}
    stacks = {
        "encoder": (config.n_encoder_layers, own | last | {"residual_2.norm": "final_layer_norm"}),
        "decoder": (config.n_layers, own | cross | last | {"residual_3.norm": "final_layer_norm"}),
    }
    for stack, (n_layers, pairs) in stacks.items():
        for layer in range(n_layers):
            for ours, theirs in pairs.items():
                for kind in ("weight", "bias"):
                    names[f"{stack}.{layer}.{ours}.{kind}"] = (
                        f"model.{stack}.layers.{layer}.{theirs}.{kind}"
                    )
    return names


def joined(tensors: Mapping[str, Tensor], wanted: Iterable[str]) -> dict[str, Tensor]:
    """A checkpoint with q, k and v in one, and without its copies and its tables of positions.

    Raises:
        WeightsError: parts are missing or do not fit together, a copy is none, or the positions are
            not sinusoidal.
    """
    found = dict(tensors)
    drop_copies(found, SHARED, COPIES)
    for name in POSITIONS:
        table = found.pop(name, None)
        if table is None:
            continue
        # float16 of numbers up to 1 is off by 5e-4 at most
        if table.dim() != 2 or not (table - sinusoids(*table.shape)).abs().max() < 1e-3:
            raise WeightsError(f"{name} is not the table of sinusoidal positions")
    join(found, wanted)
    if BIAS in found:
        found[BIAS] = found[BIAS].flatten()  # Marian's is (1, V)
    return found
