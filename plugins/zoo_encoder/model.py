"""A bidirectional encoder: every token sees every other one.

Source:
    Devlin, Chang, Lee & Toutanova 2019, "BERT: Pre-training of Deep Bidirectional Transformers for
    Language Understanding", arXiv:1810.04805, section 3.

The idea: without a causal mask each position gathers from both sides. What comes out is not the
next token but a vector for each token, which a head turns into what is wanted: a label for the
text, a label for each token, the token that a mask hides, or an embedding.

Differences from the paper: besides BERT's own (norm after each sublayer, the first token's vector
through a tanh layer for the text) there are the norm before each sublayer (Xiong et al. 2020,
arXiv:2002.04745) and two other ways of pooling. Nothing drops out of the attention weights, as in
Vaswani et al. 2017: a processor's fused attention cannot, and is three times as fast. The tests
hold BERT's equal to `transformers`.

Letters: B batch, T length, D d_model, H heads, E d_head, F d_ff, V vocabulary, L labels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import Config
from zoo.convert import load_renamed
from zoo.errors import ConfigError, ContextLengthError, WeightsError
from zoo.nn import LayerNorm, attend

HEADS = ("none", "classification", "token-classification", "masked-language")
POOLINGS = ("first", "mean", "attention")
NORMS = ("post", "pre")


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(Config):
    """Sizes of an encoder, what its head gives, and the names of the labels."""

    vocab_size: int
    max_seq_len: int
    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int
    n_segments: int = 2
    norm: str = "post"
    pooling: str = "first"
    head: str = "none"
    labels: tuple[str, ...] = ()
    dropout: float = 0.0
    norm_eps: float = 1e-12
    init_std: float = 0.02
    pad_id: int = 0

    def __post_init__(self) -> None:
        self.require_positive("vocab_size", "max_seq_len", "d_model", "n_layers", "n_heads", "d_ff")
        self.require_divisible("d_model", "n_heads")
        if isinstance(self.labels, str) or not all(isinstance(name, str) for name in self.labels):
            raise ConfigError(f"labels must be a list of names, got {self.labels!r}")
        object.__setattr__(self, "labels", tuple(self.labels))  # JSON has lists
        if not self.init_std > 0:  # NaN is not
            raise ConfigError(f"init_std must be above 0, got {self.init_std}")
        for name, choices in (("norm", NORMS), ("pooling", POOLINGS), ("head", HEADS)):
            if (value := getattr(self, name)) not in choices:
                raise ConfigError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
        if self.head.endswith("classification") and len(set(self.labels)) < 2:
            raise ConfigError(f"A head for {self.head} needs two labels or more: {self.labels}")


class Attention(nn.Module):
    """Multi-head self-attention over all real tokens."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.n_heads = config.n_heads
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model)
        self.out = nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        B, T, D = x.shape
        qkv = self.qkv(x).view(B, T, 3, self.n_heads, D // self.n_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()  # each (B, H, T, E)
        mixed = attend(q, k, v, mask)
        return self.out(mixed.transpose(1, 2).reshape(B, T, D))  # type: ignore[no-any-return]


class Block(nn.Module):
    """Attention and feed-forward, each added to the stream; the norm after it, or before."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        D = config.d_model
        self.pre = config.norm == "pre"
        self.attention = Attention(config)
        self.norm_1 = LayerNorm(D, config.norm_eps)
        self.up = nn.Linear(D, config.d_ff)
        self.down = nn.Linear(config.d_ff, D)
        self.norm_2 = LayerNorm(D, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        if self.pre:
            x = x + self.dropout(self.attention(self.norm_1(x), mask))
            return x + self.feed_forward(self.norm_2(x))
        x = self.norm_1(x + self.dropout(self.attention(x, mask)))
        return self.norm_2(x + self.feed_forward(x))  # type: ignore[no-any-return]

    def feed_forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.down(F.gelu(self.up(x))))  # type: ignore[no-any-return]


class Pooling(nn.Module):
    """One vector for a text from the vectors of its tokens, (B, T, D) to (B, D).

    `first` is BERT's: tanh of a linear map of the first token. `mean` is the mean of the real
    tokens. `attention` is their mean under softmax weights that a learned query gives.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.kind = config.pooling
        self.dense = nn.Linear(config.d_model, config.d_model) if self.kind == "first" else None
        self.query = nn.Linear(config.d_model, 1, bias=False) if self.kind == "attention" else None

    def forward(self, hidden: Tensor, real: Tensor) -> Tensor:
        if self.dense is not None:
            return self.dense(hidden[:, 0]).tanh()  # type: ignore[no-any-return]
        if self.query is not None:
            scores = self.query(hidden).squeeze(-1).masked_fill(~real, float("-inf"))  # (B, T)
            return (scores.softmax(-1).unsqueeze(-1) * hidden).sum(1)  # type: ignore[no-any-return]
        weights = real.to(hidden.dtype).unsqueeze(-1)  # (B, T, 1)
        return (hidden * weights).sum(1) / weights.sum(1)


class MaskedLanguageHead(nn.Module):
    """Logits of the token at each position: a layer, a norm, then the token embeddings again."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.d_model, config.d_model)
        self.norm = LayerNorm(config.d_model, config.norm_eps)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.norm(F.gelu(self.dense(hidden)))
        return F.linear(hidden, embedding, self.bias)


class Encoder(nn.Module):
    """Token ids to what the head gives."""

    config_class = EncoderConfig

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.max_len: int | None = config.max_seq_len
        D = config.d_model
        self.token_embedding = nn.Embedding(config.vocab_size, D)
        self.position_embedding: nn.Embedding | None = nn.Embedding(config.max_seq_len, D)
        self.segment_embedding = nn.Embedding(config.n_segments, D)
        self.norm = LayerNorm(D, config.norm_eps)  # after the embeddings, or (pre) after the blocks
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        pools = config.head in ("none", "classification")
        self.pooling = Pooling(config) if pools else None
        self.head: nn.Module | None = None
        if config.head == "masked-language":
            self.head = MaskedLanguageHead(config)
        elif config.head != "none":
            self.head = nn.Linear(D, len(config.labels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Normal; with deviation 0.02 the embeddings, `init_std` the other matrices; biases 0."""
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                std = 0.02 if "embedding" in name else self.config.init_std
                nn.init.normal_(parameter, std=std)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def hidden(
        self, ids: Tensor, real: Tensor | None = None, segments: Tensor | None = None
    ) -> Tensor:
        """The vector of each token.

        Args:
            ids: token ids (B, T).
            real: True where a token is no padding (B, T); all but `pad_id` unless given.
            segments: which of two texts a token belongs to (B, T); all the first unless given.

        Returns:
            Vectors (B, T, D); those of padding mean nothing.

        Raises:
            ContextLengthError: more tokens than there are positions.
        """
        T = ids.shape[1]
        if self.max_len is not None and T > self.max_len:
            raise ContextLengthError(
                f"The text has {T} tokens, this model has {self.max_len} positions: cut it"
            )
        real = ids != self.config.pad_id if real is None else real
        segments = torch.zeros_like(ids) if segments is None else segments
        x = self.token_embedding(ids) + self.segment_embedding(segments)  # (B, T, D)
        if self.position_embedding is not None:
            x = x + self.position_embedding.weight[:T]
        pre = self.config.norm == "pre"
        x = self.dropout(x if pre else self.norm(x))
        mask = self.mask(real)
        for block in self.blocks:
            x = block(x, mask)
        return self.norm(x) if pre else x  # type: ignore[no-any-return]

    def mask(self, real: Tensor) -> Tensor:
        """What `zoo.nn.attend` takes as mask, (B, 1, 1, T): nobody looks at padding."""
        return real[:, None, None, :]

    def forward(
        self,
        ids: Tensor,
        real: Tensor | None = None,
        segments: Tensor | None = None,
        where: Tensor | None = None,
    ) -> Tensor:
        """What the head gives.

        Args:
            ids: as in `hidden`.
            real: as in `hidden`.
            segments: as in `hidden`.
            where: at which tokens a masked-language head is asked (B, T); at all unless given.

        Returns:
            By `head`: "classification" logits (B, L), "token-classification" (B, T, L),
            "masked-language" (B, T, V), or (N, V) for the N tokens `where`; "none" the pooled
            vectors (B, D).
        """
        real = ids != self.config.pad_id if real is None else real
        hidden = self.hidden(ids, real, segments)
        if isinstance(self.head, MaskedLanguageHead):
            hidden = hidden if where is None else hidden[where]
            return self.head(hidden, self.token_embedding.weight)  # type: ignore[no-any-return]
        if self.pooling is not None:
            hidden = self.pooling(hidden, real)
        return hidden if self.head is None else self.head(self.dropout(hidden))

    @classmethod
    def from_transformers(
        cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> "Encoder":
        """A BERT checkpoint, with the head that its `architectures` names.

        Every tensor is used, but for what pre-training left and that head does not read: a pooling
        layer, and which sentence comes next.
        """
        if config.get("hidden_act", "gelu") != "gelu":
            raise ConfigError(f"BERT with the activation {config['hidden_act']!r} is not read")
        if config.get("position_embedding_type", "absolute") != "absolute":
            raise ConfigError("BERT with relative positions is not read")
        kind = (config.get("architectures") or ["BertModel"])[0]
        if kind not in KINDS:
            raise ConfigError(f"{kind} is not read; read are {', '.join(KINDS)}")
        labels = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
        names = tuple(labels[key] for key in sorted(labels, key=int))
        pools = KINDS[kind] in ("none", "classification")
        aside = ("cls.seq_relationship.",) if pools else ("cls.seq_relationship.", "pooler.")
        renamed = {new_name(name): tensor for name, tensor in tensors.items()}
        tensors = {name: t for name, t in renamed.items() if not name.startswith(aside)}
        pooler = "pooler.dense.weight" in tensors
        if KINDS[kind] == "classification" and not pooler:
            raise WeightsError("A BERT that classifies has a pooler, this checkpoint has none")
        module = cls(
            EncoderConfig(
                vocab_size=config["vocab_size"],
                max_seq_len=config["max_position_embeddings"],
                d_model=config["hidden_size"],
                n_layers=config["num_hidden_layers"],
                n_heads=config["num_attention_heads"],
                d_ff=config["intermediate_size"],
                n_segments=config.get("type_vocab_size", 2),
                pooling="first" if pooler else "mean",
                head=KINDS[kind],
                labels=names if KINDS[kind].endswith("classification") else (),
                norm_eps=config.get("layer_norm_eps", 1e-12),
                pad_id=config.get("pad_token_id") or 0,
            )
        )
        for layer in range(module.config.n_layers):
            for part in ("weight", "bias"):  # ours are one matrix
                own = f"encoder.layer.{layer}.attention.self"
                found = [tensors.pop(f"{own}.{name}.{part}", None) for name in QKV]
                if any(tensor is None for tensor in found):
                    raise WeightsError(f"The checkpoint lacks {own}.query, key or value .{part}")
                tensors[f"{own}.qkv.{part}"] = torch.cat([t for t in found if t is not None])
        load_renamed(
            module,
            tensors,
            transformers_names(module.config),
            ignored=("position_ids", "predictions.decoder.weight", "predictions.decoder.bias"),
        )
        return module

    def to_transformers(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The same model as a BERT checkpoint: `config.json` and tensors.

        Raises:
            ConfigError: the norm stands before the sublayers, or the pooling is not BERT's.
        """
        c = self.config
        if c.norm != "post" or (c.head == "classification" and c.pooling != "first"):
            raise ConfigError(
                f"BERT has its norm after each sublayer and classifies by the first token; this "
                f"encoder has norm={c.norm!r} and pooling={c.pooling!r}"
            )
        kind = next(name for name, head in KINDS.items() if head == c.head)
        config = {
            "model_type": "bert",
            "architectures": [kind],
            "vocab_size": c.vocab_size,
            "max_position_embeddings": c.max_seq_len,
            "hidden_size": c.d_model,
            "num_hidden_layers": c.n_layers,
            "num_attention_heads": c.n_heads,
            "intermediate_size": c.d_ff,
            "type_vocab_size": c.n_segments,
            "hidden_act": "gelu",
            "hidden_dropout_prob": c.dropout,
            "attention_probs_dropout_prob": 0.0,
            "layer_norm_eps": c.norm_eps,
            "pad_token_id": c.pad_id,
        }
        if c.labels:
            config["id2label"] = {str(index): label for index, label in enumerate(c.labels)}
            config["label2id"] = {label: index for index, label in enumerate(c.labels)}
        state, tensors = self.state_dict(), {}
        prefix = "" if c.head == "none" else "bert."
        for ours, theirs in transformers_names(c).items():
            outside = theirs.startswith(("classifier", "cls."))
            full = theirs if outside else prefix + theirs
            if ".self.qkv." in theirs:
                for name, part in zip(QKV, state[ours].chunk(3), strict=True):
                    tensors[full.replace("qkv", name)] = part.contiguous()
            else:
                tensors[full] = state[ours]
        return config, tensors


def new_name(name: str) -> str:
    """A tensor's name today, without the `bert.` prefix: norms had a `gamma` and a `beta` once."""
    name = name.removeprefix("bert.")
    if name.endswith(("LayerNorm.gamma", "LayerNorm.beta")):
        return name.replace(".gamma", ".weight").replace(".beta", ".bias")
    return name


QKV = ("query", "key", "value")
KINDS = {  # what a checkpoint's `architectures` says, and our head
    "BertModel": "none",
    "BertForSequenceClassification": "classification",
    "BertForTokenClassification": "token-classification",
    "BertForMaskedLM": "masked-language",
}


def transformers_names(config: EncoderConfig) -> dict[str, str]:
    """Our parameter names to BERT's, without the `bert.` prefix; q, k and v stand as one `qkv`."""
    names = {
        "token_embedding.weight": "embeddings.word_embeddings.weight",
        "position_embedding.weight": "embeddings.position_embeddings.weight",
        "segment_embedding.weight": "embeddings.token_type_embeddings.weight",
    }
    pairs = {"norm": "embeddings.LayerNorm"}
    parts = {
        "attention.qkv": "attention.self.qkv",
        "attention.out": "attention.output.dense",
        "norm_1": "attention.output.LayerNorm",
        "up": "intermediate.dense",
        "down": "output.dense",
        "norm_2": "output.LayerNorm",
    }
    for layer in range(config.n_layers):
        for ours, theirs in parts.items():
            pairs[f"blocks.{layer}.{ours}"] = f"encoder.layer.{layer}.{theirs}"
    if config.head in ("none", "classification") and config.pooling == "first":
        pairs["pooling.dense"] = "pooler.dense"
    if config.head.endswith("classification"):
        pairs["head"] = "classifier"
    if config.head == "masked-language":
        pairs["head.dense"] = "cls.predictions.transform.dense"
        pairs["head.norm"] = "cls.predictions.transform.LayerNorm"
        names["head.bias"] = "cls.predictions.bias"
    for ours, theirs in pairs.items():
        for kind in ("weight", "bias"):
            names[f"{ours}.{kind}"] = f"{theirs}.{kind}"
    return names
