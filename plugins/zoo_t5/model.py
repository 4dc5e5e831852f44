"""T5: an encoder-decoder that knows positions by the distance between two tokens only.

Sources:
    Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
    Transformer" (T5), arXiv:1910.10683, section 2.1. Shazeer 2020, "GLU Variants Improve
    Transformer", arXiv:2002.05202: the gated GELU of T5 1.1. Chung et al. 2022, "Scaling
    Instruction-Finetuned Language Models" (Flan-T5), arXiv:2210.11416: T5 1.1, trained further.

The idea: every task is a text that becomes a text. How far a key stands from its query falls into
one of `n_buckets` buckets, exact for near keys and logarithmically wider for far ones; each bucket
has one learned number a head, added to the score. The encoder has buckets for both directions, the
decoder for what is past. A table serves all layers of its stack, and any length can be read.

The rest: RMSNorm before each sublayer, no biases in linear layers, scores not divided by sqrt(E).
Two kinds: T5 of 2020 has ReLU, and the embeddings give its output too, of states divided by
sqrt(D); T5 1.1 has gated GELU and an output matrix of its own.

Differences from the papers: none in what is computed. An output matrix begins with deviation
D^-0.5, so that the first guesses are even. The tests hold it equal to `T5ForConditionalGeneration`.

Letters: P sources, R targets (several to a source in beam search), S source or key length, T target
or query length, D d_model, H heads, E d_head, F d_ff, V vocabulary.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import Config
from zoo.convert import drop_copies, join, load_renamed, split
from zoo.errors import ConfigError
from zoo.nn import (
    Cache,
    EncoderDecoder,
    RMSNorm,
    SourceCache,
    attend,
    attend_source,
    causal_mask,
    unembed,
)

ACTIVATIONS = ("gated-gelu", "relu")


@dataclass(frozen=True, kw_only=True)
class T5Config(Config):
    """Sizes of a T5; `max_seq_len` is its training length, no limit.

    A source is its tokens and `end_id`. A target is read as `start_id` and its tokens, and is to
    give its tokens and `end_id`.
    """

    vocab_size: int
    max_seq_len: int
    d_model: int
    n_layers: int  # of the decoder
    n_encoder_layers: int
    n_heads: int
    d_head: int  # n_heads times d_head may be other than d_model
    d_ff: int
    n_buckets: int = 32
    max_distance: int = 128
    activation: str = "gated-gelu"  # or "relu", T5 of 2020
    tie_embeddings: bool = False  # True: T5 of 2020
    dropout: float = 0.0
    norm_eps: float = 1e-6
    pad_id: int = 0
    start_id: int = 0  # T5 begins a target with its padding
    end_id: int = 1
    prefix: str = ""  # before each source, such as "translate English to German: "

    def __post_init__(self) -> None:
        sizes = ("vocab_size", "max_seq_len", "d_model", "n_layers", "n_encoder_layers", "n_heads")
        self.require_positive(*sizes, "d_head", "d_ff")
        if not 4 <= self.n_buckets < 2 * self.max_distance:
            raise ConfigError(
                "n_buckets must be at least 4, and half of it below max_distance, "
                f"got n_buckets={self.n_buckets}, max_distance={self.max_distance}"
            )
        if self.activation not in ACTIVATIONS:
            choices = ", ".join(ACTIVATIONS)
            raise ConfigError(f"activation must be one of {choices}, got {self.activation!r}")
        for name in ("pad_id", "start_id", "end_id"):
            if not 0 <= (value := getattr(self, name)) < self.vocab_size:
                raise ConfigError(f"{name} must be a token, 0 to {self.vocab_size - 1}: {value}")
        if self.end_id == self.pad_id:
            raise ConfigError(f"end_id and pad_id are both {self.pad_id}: an end is no padding")


def bucket(distance: Tensor, n_buckets: int, max_distance: int, both: bool) -> Tensor:
    """Which bucket a distance falls into.

    Half of the buckets hold one distance each, 0 ... n/2 - 1. The other half grow
    logarithmically from there to `max_distance`; all that is farther falls into the last one.

    Args:
        distance: query position minus key position, any shape; below 0 the key comes later.
        n_buckets: how many there are.
        max_distance: where the last bucket begins to hold everything.
        both: keys that come later have the second half of the buckets; otherwise they count as 0.

    Returns:
        Bucket numbers from 0 to `n_buckets - 1`, of the same shape.
    """
    if both:
        n_buckets //= 2
        first = n_buckets * (distance < 0)
        distance = distance.abs()
    else:
        first = torch.zeros_like(distance)
        distance = distance.clamp(min=0)
    exact = n_buckets // 2
    ratio = torch.log(distance.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    far = exact + (ratio * (n_buckets - exact)).long()
    return first + torch.where(distance < exact, distance, far.clamp(max=n_buckets - 1))


class RelativeBias(nn.Module):
    """The learned table of a stack: one number a bucket and head."""

    def __init__(self, config: T5Config, both: bool) -> None:
        super().__init__()
        self.n_buckets, self.max_distance, self.both = config.n_buckets, config.max_distance, both
        self.weight = nn.Parameter(torch.empty(config.n_buckets, config.n_heads))

    def forward(self, mask: Tensor, T: int) -> Tensor:
        """Biases of the last T of S positions: (B, H, T, S), -inf where the mask is False.

        Args:
            mask: True = may attend, (B, 1, T or 1, S).
            T: number of queries.
        """
        S = mask.shape[-1]
        least = 1 - S if self.both else 0
        # every distance looks its number up once, then each pair of positions takes its distance's
        every = torch.arange(least, S, device=mask.device)
        buckets = bucket(every, self.n_buckets, self.max_distance, self.both)
        numbers = F.embedding(buckets, self.weight).T  # (H, distances)
        keys = torch.arange(S, device=mask.device)
        distance = (keys[S - T :, None] - keys).clamp(min=least)  # (T, S)
        return torch.where(mask, numbers[:, distance - least], -math.inf)


class SelfAttention(nn.Module):
    """Multi-head attention of a text to itself, with the biases added to scores."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.n_heads, self.dropout = config.n_heads, config.dropout
        width = config.n_heads * config.d_head
        self.qkv = nn.Linear(config.d_model, 3 * width, bias=False)
        self.out = nn.Linear(width, config.d_model, bias=False)

    def forward(
        self, x: Tensor, bias: Tensor, cache: Cache | None = None, layer: int = 0
    ) -> Tensor:
        R, T, _ = x.shape
        qkv = self.qkv(x).view(R, T, 3, self.n_heads, -1)  # (R, T, 3, H, E)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()  # each (R, H, T, E)
        if cache is not None:
            k, v = cache.update(layer, k, v)  # all so far
        mixed = attend(q, k, v, bias, scale=1.0, dropout=self.dropout if self.training else 0.0)
        return self.out(mixed.transpose(1, 2).reshape(R, T, -1))  # type: ignore[no-any-return]


class SourceAttention(nn.Module):
    """Multi-head attention of a target to its source; distances between the two mean nothing."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.n_heads, self.dropout = config.n_heads, config.dropout
        width = config.n_heads * config.d_head
        self.query = nn.Linear(config.d_model, width, bias=False)
        self.key_value = nn.Linear(config.d_model, 2 * width, bias=False)
        self.out = nn.Linear(width, config.d_model, bias=False)

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        mask: Tensor | None,
        cache: SourceCache | None = None,
        layer: int = 0,
    ) -> Tensor:
        R, T, _ = x.shape
        q = self.query(x).view(R, T, self.n_heads, -1).transpose(1, 2)  # (R, H, T, E)
        if cache is None:
            k, v = self.keys_values(memory)
        else:
            k, v = cache.source(layer, lambda: self.keys_values(memory))
        dropout = self.dropout if self.training else 0.0
        mixed = attend_source(q, k, v, mask, scale=1.0, dropout=dropout)  # (R, H, T, E)
        return self.out(mixed.transpose(1, 2).reshape(R, T, -1))  # type: ignore[no-any-return]

    def keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """What every target of a source looks at, and every step of a target: (P, H, S, E) each."""
        P, S, _ = memory.shape
        both = self.key_value(memory).view(P, S, 2, self.n_heads, -1)
        k, v = both.permute(2, 0, 3, 1, 4)
        return k, v


class FeedForward(nn.Module):
    """Each position on its own: down(relu(up(x))), or down(gelu(gate(x)) * up(x))."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        D, d_ff = config.d_model, config.d_ff
        gated = config.activation == "gated-gelu"
        self.gate = nn.Linear(D, d_ff, bias=False) if gated else None
        self.up = nn.Linear(D, d_ff, bias=False)
        self.dropout = nn.Dropout(config.dropout)
        self.down = nn.Linear(d_ff, D, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        up = self.up(x)  # (R, T, F)
        wide = F.relu(up) if self.gate is None else F.gelu(self.gate(x), approximate="tanh") * up
        return self.down(self.dropout(wide))  # type: ignore[no-any-return]


class Residual(nn.Module):
    """x + sublayer(norm(x))."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.norm = RMSNorm(config.d_model, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, sublayer: Callable[[Tensor], Tensor]) -> Tensor:
        return x + self.dropout(sublayer(self.norm(x)))  # type: ignore[no-any-return]


class EncoderBlock(nn.Module):
    """Every token of the source looks at all others, then each is changed on its own."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.attention = SelfAttention(config)
        self.residual_1 = Residual(config)
        self.feed_forward = FeedForward(config)
        self.residual_2 = Residual(config)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        x = self.residual_1(x, lambda x: self.attention(x, bias))
        return self.residual_2(x, self.feed_forward)  # type: ignore[no-any-return]


class DecoderBlock(nn.Module):
    """A token looks back, then at the source, then is changed on its own."""

    def __init__(self, config: T5Config) -> None:
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
        bias: Tensor,
        mask: Tensor | None,
        cache: SourceCache | None,
        layer: int,
    ) -> Tensor:
        x = self.residual_1(x, lambda x: self.attention(x, bias, cache, layer))
        x = self.residual_2(x, lambda x: self.source_attention(x, memory, mask, cache, layer))
        return self.residual_3(x, self.feed_forward)  # type: ignore[no-any-return]


class T5(EncoderDecoder):
    """Source and target ids to logits of the target's next tokens."""

    config_class = T5Config
    max_len: int | None = None  # every distance has a bucket

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.config = config
        D, eps = config.d_model, config.norm_eps
        self.embedding = nn.Embedding(config.vocab_size, D)  # of both texts
        self.dropout = nn.Dropout(config.dropout)  # where a stack begins and where it ends
        self.encoder_bias = RelativeBias(config, both=True)
        self.encoder = nn.ModuleList(EncoderBlock(config) for _ in range(config.n_encoder_layers))
        self.encoder_norm = RMSNorm(D, eps)
        self.decoder_bias = RelativeBias(config, both=False)
        self.decoder = nn.ModuleList(DecoderBlock(config) for _ in range(config.n_layers))
        self.decoder_norm = RMSNorm(D, eps)
        self.head = None if config.tie_embeddings else nn.Linear(D, config.vocab_size, bias=False)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """T5's: normal, each matrix by its fan-in, the tables of biases by D, embeddings with 1.

        Queries also by E: scores are not divided by its root.
        """
        c = self.config
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                fan_in = c.d_model if name.endswith("_bias.weight") else parameter.shape[1]
                nn.init.normal_(parameter, std=fan_in**-0.5)
        nn.init.normal_(self.embedding.weight, std=1.0)
        with torch.no_grad():
            for part in self.modules():
                if isinstance(part, SelfAttention):
                    part.qkv.weight[: c.n_heads * c.d_head] *= c.d_head**-0.5
                elif isinstance(part, SourceAttention):
                    part.query.weight *= c.d_head**-0.5

    def read(self, source: Tensor, real: Tensor) -> Tensor:
        """Memory (P, S, D) of sources (P, S); `real` (P, S) is True where a token is no padding."""
        bias = self.encoder_bias(real[:, None, None, :], source.shape[1])  # (P, H, S, S)
        x = self.dropout(self.embedding(source))  # (P, S, D)
        for block in self.encoder:
            x = block(x, bias)
        return self.dropout(self.encoder_norm(x))  # type: ignore[no-any-return]

    def write(
        self, ids: Tensor, memory: Tensor, real: Tensor | None, cache: SourceCache | None
    ) -> Tensor:
        """Logits (R, T, V) of targets (R, T), with a cache of what goes on from it."""
        T = ids.shape[1]
        before = None if cache is None else cache.mask(T)
        if before is None:  # nothing is padded: the queries are all columns, or the last one
            length = T if cache is None else cache.length + T
            before = causal_mask(T, length, device=ids.device)  # (1, 1, T, all so far)
        bias = self.decoder_bias(before, T)  # (1 or R, H, T, all so far)
        mask = None if real is None else real[:, None, None, :]  # (P, 1, 1, S)
        x = self.dropout(self.embedding(ids))  # (R, T, D)
        for layer, block in enumerate(self.decoder):
            x = block(x, memory, bias, mask, cache, layer)
        x = self.dropout(self.decoder_norm(x))
        if self.head is None:
            return unembed(x * self.config.d_model**-0.5, self.embedding)
        return self.head(x)  # type: ignore[no-any-return]  # (R, T, V)

    @classmethod
    def from_transformers(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "T5":
        """A checkpoint of T5, T5 1.1 or Flan-T5: its `config.json` and its tensors, all used.

        Raises:
            ConfigError: a kind of T5 that this file is not.
            WeightsError: a tensor is missing, left over, or not what it must be.
        """
        kind = (config.get("architectures") or KINDS)[0]
        if kind not in KINDS:
            raise ConfigError(f"{kind} is not read; read is {' or '.join(KINDS)}")
        given = {name: value for name, value in config.items() if value is not None}
        config = {**DEFAULTS, "num_decoder_layers": given.get("num_layers"), **given}
        values = {ours: config[theirs] for ours, theirs in FIELDS.items() if theirs in config}
        # transformers 5 writes tie_word_embeddings=True always, and this beside it
        scaled = config.get("scale_decoder_outputs", config["tie_word_embeddings"])
        module = cls(T5Config.from_dict({**values, "tie_embeddings": scaled}))
        names = transformers_names(module.config)
        state = joined(tensors, list(names.values()))
        if config["tie_word_embeddings"] and not scaled and SHARED in state:
            state.setdefault(OUTPUT, state[SHARED])  # so transformers 5 makes a new T5 1.1
        load_renamed(module, state, names, ignored=UNUSED)
        return module

    def to_transformers(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The same model as a checkpoint of T5: `config.json` and tensors."""
        c = self.config
        config = {
            "model_type": "t5",
            "architectures": [KINDS[0]],
            "is_encoder_decoder": True,
            "tie_word_embeddings": c.tie_embeddings,
            **{theirs: getattr(c, ours) for ours, theirs in FIELDS.items()},
        }
        return config, split(self.state_dict(), transformers_names(c))


KINDS = ("T5ForConditionalGeneration", "T5WithLMHeadModel")  # the second is its first name
SHARED, OUTPUT = "shared.weight", "lm_head.weight"
COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
UNUSED = (".EncDecAttention.relative_attention_bias.weight",)  # old files have it; T5 reads it not
FIELDS = {  # our words to T5's
    "vocab_size": "vocab_size",
    "max_seq_len": "n_positions",
    "d_model": "d_model",
    "n_layers": "num_decoder_layers",
    "n_encoder_layers": "num_layers",
    "n_heads": "num_heads",
    "d_head": "d_kv",
    "d_ff": "d_ff",
    "n_buckets": "relative_attention_num_buckets",
    "max_distance": "relative_attention_max_distance",
    "activation": "feed_forward_proj",
    "dropout": "dropout_rate",
    "norm_eps": "layer_norm_epsilon",
    "pad_id": "pad_token_id",
    "start_id": "decoder_start_token_id",
    "end_id": "eos_token_id",
    "prefix": "prefix",  # as older versions of transformers read it
}
DEFAULTS: dict[str, Any] = {  # what published files leave out
    "n_positions": 512,  # section 3.1.2
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "feed_forward_proj": "relu",
    "dropout_rate": 0.1,
    "layer_norm_epsilon": 1e-6,
    "tie_word_embeddings": True,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
    "eos_token_id": 1,
}


def transformers_names(config: T5Config) -> dict[str, str]:
    """Our parameter names to T5's; what is one matrix here stands as `qkv`, `kv`."""
    names = {"embedding": "shared"} | ({} if config.tie_embeddings else {"head": "lm_head"})
    feed_forward = {"up": "wi_1", "gate": "wi_0", "down": "wo"}
    if config.activation == "relu":
        feed_forward = {"up": "wi", "down": "wo"}
    own = {"attention.qkv": "SelfAttention.qkv", "attention.out": "SelfAttention.o"}
    cross = {
        "source_attention.query": "EncDecAttention.q",
        "source_attention.key_value": "EncDecAttention.kv",
        "source_attention.out": "EncDecAttention.o",
    }
    last = {f"feed_forward.{ours}": f"DenseReluDense.{t}" for ours, t in feed_forward.items()}
    stacks = {
        "encoder": (config.n_encoder_layers, (own, last)),
        "decoder": (config.n_layers, (own, cross, last)),
    }
    for stack, (n_layers, sublayers) in stacks.items():
        names[f"{stack}_norm"] = f"{stack}.final_layer_norm"
        bias = "block.0.layer.0.SelfAttention.relative_attention_bias"
        names[f"{stack}_bias"] = f"{stack}.{bias}"
        for layer in range(n_layers):
            for number, pairs in enumerate(sublayers):
                norm = {f"residual_{number + 1}.norm": "layer_norm"}
                for ours, theirs in (pairs | norm).items():
                    names[f"{stack}.{layer}.{ours}"] = (
                        f"{stack}.block.{layer}.layer.{number}.{theirs}"
                    )
    return {f"{ours}.weight": f"{theirs}.weight" for ours, theirs in names.items()}


def joined(tensors: Mapping[str, Tensor], wanted: Sequence[str]) -> dict[str, Tensor]:
    """A checkpoint with q, k and v in one, and without its copies of the embeddings.

    Raises:
        WeightsError: parts are missing or do not fit together, or a copy is none.
    """
    found = dict(tensors)
    drop_copies(found, SHARED, COPIES if OUTPUT in wanted else (*COPIES, OUTPUT))
    join(found, wanted)
    return found
