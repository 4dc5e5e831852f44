"""An encoder-decoder of the Hub, computed by `transformers`: any that this zoo does not write out.

Source: `transformers` (Wolf et al. 2020, arXiv:1910.03771) and the papers that its documentation
names for each `model_type`; BART's is Lewis et al. 2020, arXiv:1910.13461.

The idea: the parts of a model of `transformers` become the parts of this module, under their own
names, as in `hf-encoder`. What is added is the zoo's way of calling an encoder-decoder: a
source is encoded once, several targets share it, and what their layers keep from one token to the
next lies in the zoo's own cache. Of a repository only its JSON and its safetensors are read,
nothing in it runs, and no weight is left random.

Differences: attention is ours, which computes the same and shows its weights; keys and values of a
source are not repeated for its beams.

Letters: P sources, R targets (several to a source in beam search), S source length, T target
length, D width, H heads, E width of a head, V vocabulary.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import Config
from zoo.convert import (
    DECODING,
    MOST_COUNT,
    NOT_READ,
    adopt,
    attention,
    building,
    check_checkpoint,
    check_sizes,
    class_of,
    is_body,
    library,
    load_theirs,
    untangle,
)
from zoo.errors import ConfigError, InputError
from zoo.nn import EncoderDecoder, SourceCache, causal_mask
from zoo_hf_seq2seq import BY_CONFIG, MODEL_TYPES

T5S = ("mt5", "t5", "umt5")  # know positions by distances, which go on
IDS = {  # our words to those of transformers
    "pad_id": "pad_token_id",
    "start_id": "decoder_start_token_id",
    "end_id": "eos_token_id",
    "first_id": "forced_bos_token_id",
}
OWN = ("vocab_size", *IDS.values(), "architectures", "is_decoder", "is_encoder_decoder", "prefix")
SIZES = {  # our words to those of transformers, of T5 and its relatives and of all others
    "n_layers": ("num_decoder_layers", "decoder_layers"),
    "n_heads": ("num_heads", "decoder_attention_heads"),
    "d_ff": ("d_ff", "decoder_ffn_dim"),
}
SOURCE_ATTENTION = ("EncDecAttention", "encoder_attn")  # ends of names
HEAD = "lm_head"
UNREAD = (  # tensors of older checkpoints that no model reads
    "encoder.version",
    "decoder.version",
    "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",
)
WRITERS, BODIES = "MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES", "MODEL_MAPPING_NAMES"


@dataclass(frozen=True, kw_only=True)
class HfSeq2SeqConfig(Config):
    """Sizes, tokens that stand for something, and what else `transformers` wants to know.

    A source is its tokens and `end_id`. A target is read as `start_id` and its tokens, and is to
    give its tokens and `end_id`.

    Attributes:
        vocab_size: V, of sources and targets.
        max_seq_len: S and T at most; for T5 and its relatives, whose positions go on, no limit.
        transformers: its configuration as JSON, `model_type` at least, without what stands here.
        pad_id: the token that stands for padding.
        start_id: what a target is begun with.
        end_id: what a source and a target end with.
        first_id: a token that every written target has at its first place, such as the language
            to translate into; None where the model chooses. Pipelines see to it: logits are the
            model's own.
        prefix: what stands before each source, such as "summarize: ".
        tie_output: whether the output matrix is that of the token embeddings. Where the table says
            `tie_word_embeddings=False` for BART and its relatives, it is none in any case.
    """

    vocab_size: int
    max_seq_len: int
    transformers: dict[str, Any]
    pad_id: int = 0
    start_id: int = 0
    end_id: int = 1
    first_id: int | None = None
    prefix: str = ""
    tie_output: bool = True

    def __post_init__(self) -> None:
        self.require_positive("vocab_size", "max_seq_len")
        for name in IDS:
            value = getattr(self, name)
            if name == "first_id" and value is None:
                continue
            if type(value) is not int or not 0 <= value < self.vocab_size:
                last = self.vocab_size - 1
                raise ConfigError(f"{name} must be a token, 0 to {last}, got {value!r}")
        if self.end_id == self.pad_id:
            raise ConfigError(f"end_id and pad_id are both {self.pad_id}: an end is no padding")
        if not isinstance(self.prefix, str):
            raise ConfigError(f"prefix must be a text, got {self.prefix!r}")
        if not isinstance(self.transformers, dict):
            raise ConfigError(f"transformers must be a table, got {self.transformers!r}")
        object.__setattr__(self, "transformers", copy.deepcopy(self.transformers))
        for key, value in self.transformers.items():
            if not_read(key):
                raise ConfigError(f"transformers: {key!r} is not read there")
            if key.endswith(("_layers", "_heads")) and type(value) is int and value > MOST_COUNT:
                raise ConfigError(f"transformers: {key}={value} is beyond {MOST_COUNT}")
        check_sizes(self.transformers)
        if self.kind not in MODEL_TYPES + BY_CONFIG:
            known = ", ".join(sorted(MODEL_TYPES + BY_CONFIG))
            raise ConfigError(f"transformers: model_type must be one of {known}, got {self.kind!r}")
        if self.kind not in T5S:
            least = self.max_seq_len
            positions = self.transformers.setdefault("max_position_embeddings", least)
            if type(positions) is not int or positions < least:
                raise ConfigError(
                    f"max_seq_len={least}, but max_position_embeddings={positions!r} has fewer"
                )

    @property
    def kind(self) -> Any:
        """The `model_type`."""
        return self.transformers.get("model_type")

    def settings(self) -> dict[str, Any]:
        """The whole configuration for `transformers`, as JSON."""
        ids = {theirs: getattr(self, ours) for ours, theirs in IDS.items()}
        if self.first_id is None:
            del ids[IDS["first_id"]]
        own = {"vocab_size": self.vocab_size} | ({"prefix": self.prefix} if self.prefix else {})
        return {**copy.deepcopy(self.transformers), **own, **ids}

    @cached_property
    def theirs(self) -> Any:
        """The configuration as `transformers` completes it.

        Raises:
            MissingExtraError: `transformers` is not installed.
            ConfigError: values that cannot be.
        """
        settings = self.settings()
        with building("configuration"):
            return library().CONFIG_MAPPING[settings.pop("model_type")](**settings)

    @property
    def d_model(self) -> int:
        """D."""
        return int(self.theirs.d_model)

    @property
    def n_layers(self) -> int:
        """Layers of the decoder."""
        return self._size("n_layers")

    @property
    def n_heads(self) -> int:
        """H of the decoder."""
        return self._size("n_heads")

    @property
    def d_ff(self) -> int:
        """The width inside the decoder's feed-forward layers."""
        return self._size("d_ff")

    @property
    def d_head(self) -> int:
        """E of the decoder."""
        return int(self.theirs.d_kv) if self.kind in T5S else self.d_model // self.n_heads

    def _size(self, name: str) -> int:
        return int(getattr(self.theirs, SIZES[name][self.kind not in T5S]))


def not_read(key: str) -> bool:
    """Whether a key of a checkpoint's `config.json` is none of our table."""
    return key in OWN or key in DECODING or key in NOT_READ or key.startswith("_")


class Table(nn.Module):
    """Token embeddings on numbers that another part holds; `zoo.convert.Tied` for tables.

    Args:
        table: the part that it replaces.
        source: the part that holds the numbers.
    """

    def __init__(self, table: nn.Embedding, source: nn.Embedding) -> None:
        super().__init__()
        self.sources = (source,)  # no part of this one
        self.padding_idx = table.padding_idx
        self.scale = float(getattr(table, "embed_scale", 1.0))

    @property
    def weight(self) -> Tensor:
        """The numbers (V, D)."""
        return self.sources[0].weight

    def forward(self, ids: Tensor) -> Tensor:
        x = F.embedding(ids, self.weight, self.padding_idx)
        return x * self.scale


def untangle_tables(model: nn.Module) -> dict[str, str]:
    """Let one table hold numbers that are many's; returns the second names, and the first of each.

    Linear layers tied to a table are left for `untangle`.
    """
    first: dict[int, tuple[str, nn.Embedding]] = {}
    aliases = {}
    for owner, part in list(model.named_modules(remove_duplicate=False)):
        if not isinstance(part, nn.Embedding):
            continue
        name, held = first.setdefault(id(part.weight), (owner, part))
        if name != owner:
            parent, _, last = owner.rpartition(".")
            setattr(model.get_submodule(parent), last, Table(part, held))
            aliases[f"{owner}.weight"] = f"{name}.weight"
    return aliases


@cache
def bridge_class() -> Any:
    """The class of `bridge`; it derives from one that is imported late."""
    from transformers import EncoderDecoderCache

    class Bridge(EncoderDecoderCache):  # type: ignore[misc]
        def __init__(self, cache: SourceCache, n_layers: int) -> None:
            self.self_attention_cache = _Written(cache)
            self.cross_attention_cache = _Source(cache)
            self.is_updated = dict.fromkeys(range(n_layers), cache.length > 0)

        def get_seq_length(self, layer_idx: int = 0) -> int:
            return self.self_attention_cache.get_seq_length(layer_idx)

    return Bridge


def bridge(cache: SourceCache, n_layers: int) -> Any:
    """Our cache as `transformers` calls one of an encoder-decoder."""
    return bridge_class()(cache, n_layers)


class _Written:
    """The keys and values of targets."""

    def __init__(self, cache: SourceCache) -> None:
        self.cache = cache

    def update(self, k: Tensor, v: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        return self.cache.update(layer, k, v)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.cache.length


class _Source:
    """The keys and values of sources."""

    def __init__(self, cache: SourceCache) -> None:
        self.cache = cache

    @property
    def layers(self) -> "_Source":
        return self

    def __getitem__(self, layer: int) -> SimpleNamespace:
        k, v = self.cache.source(layer, self.unknown)
        return SimpleNamespace(keys=k, values=v)

    def update(self, k: Tensor, v: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        return self.cache.source(layer, lambda: (k, v))

    def unknown(self) -> tuple[Tensor, Tensor]:
        raise InputError("This cache has read a target without its source: begin with a new one")


class HfSeq2Seq(EncoderDecoder):
    """Source and target ids to logits of the target's next tokens.

    Raises:
        MissingExtraError: `transformers` is not installed.
        ConfigError: it cannot build such a model.
    """

    config_class = HfSeq2SeqConfig
    # where newer checkpoints name the tokens of IDS
    beside = {"generation": "generation_config.json"}
    theirs: Any

    def __init__(self, config: HfSeq2SeqConfig) -> None:
        super().__init__()
        self.config = config
        self.max_len = None if config.kind in T5S else config.max_seq_len
        made, their_config = class_of(WRITERS, config.kind), copy.deepcopy(config.theirs)
        with building(made.__name__):
            their_config._attn_implementation = attention()
            theirs = made(their_config)
        if not config.tie_output:
            head = getattr(theirs, HEAD)
            head.weight = nn.Parameter(head.weight.detach().clone())
        self.aliases = untangle_tables(theirs)
        self.aliases |= untangle(theirs)
        for name, part in theirs.named_modules():
            part.reads_source = name.endswith(SOURCE_ATTENTION)
        adopt(self, theirs)

    def token_table(self) -> nn.Module:
        """What gives a vector for each token of a source."""
        table: nn.Module = self.theirs.get_encoder().embed_tokens
        return table

    def read(self, source: Tensor, real: Tensor) -> Tensor:
        """Memory (P, S, D) of sources (P, S); `real` (P, S) is True where a token is no padding."""
        encoder = self.theirs.get_encoder()
        output = encoder(source, attention_mask=real[:, None, None, :], return_dict=True)
        memory: Tensor = output.last_hidden_state
        return memory

    def write(
        self, ids: Tensor, memory: Tensor, real: Tensor | None, cache: SourceCache | None
    ) -> Tensor:
        """Logits (R, T, V) of targets (R, T), with a cache of what goes on from it.

        Raises:
            InputError: a cache of targets that are padded on the left.
        """
        R, T = ids.shape
        before = 0 if cache is None else cache.length
        if cache is not None and cache.padding is not None:
            raise InputError("Targets of this model begin together: pad them on the right")
        if real is None:
            real = torch.ones(memory.shape[:2], dtype=torch.bool, device=memory.device)
        if self.config.kind == "umt5":  # it wants as many sources as targets
            memory = memory.repeat_interleave(R // len(memory), dim=0)
            real = real.repeat_interleave(R // len(real), dim=0)
        logits: Tensor = self.theirs(
            attention_mask=real[:, None, None, :],  # (P, 1, 1, S)
            encoder_outputs=(memory,),
            decoder_input_ids=ids,
            decoder_attention_mask=causal_mask(T, before + T, device=ids.device),  # (1, 1, T, .)
            past_key_values=None if cache is None else bridge(cache, self.config.n_layers),
            use_cache=cache is not None,
            return_dict=True,
        ).logits
        return logits

    @classmethod
    def from_transformers(
        cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> "HfSeq2Seq":
        """A checkpoint, of a model that writes or of its body alone, whose output is tied.

        Every tensor is used.

        Raises:
            MissingExtraError: `transformers` is not installed.
            ConfigError: another kind of model, or values that cannot be.
            WeightsError: a tensor is missing, left over or of another shape; names it.
        """
        said = config.get("generation", {})
        told = {key: said[key] for key in IDS.values() if config.get(key) is None and key in said}
        config = {key: value for key, value in config.items() if key != "generation"} | told
        check_checkpoint(config)
        made, body = (class_of(table, config["model_type"]) for table in (WRITERS, BODIES))
        found = {name: t for name, t in tensors.items() if not name.endswith(UNREAD)}
        prefix = f"{made.base_model_prefix}."
        if is_body(config, made, body) and made.base_model_prefix == "model":
            found = {prefix + name.removeprefix(prefix): t for name, t in found.items()}
        shared = "model.shared.weight" if made.base_model_prefix == "model" else "shared.weight"
        head = found.get(f"{HEAD}.weight")
        tied = head is None or torch.equal(head, found.get(shared, head))
        module = cls(read_config(config, tied))
        for name, own in module.state_dict(keep_vars=True).items():
            if not own.requires_grad:  # sinusoids, and a bias that begins as 0
                found.setdefault(name, own)
        load_theirs(module, found, module.aliases, made.__name__)
        return module

    def to_transformers(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The same model as a checkpoint: `config.json` and tensors."""
        settings = {"architectures": [type(self.theirs).__name__], **self.config.settings()}
        return settings, dict(self.state_dict())


def read_config(config: Mapping[str, Any], tied: bool) -> HfSeq2SeqConfig:
    """Our configuration from the JSON of a checkpoint; what it lacks has `transformers`' values.

    Raises:
        ConfigError: no token to begin a target with, or several that end one.
    """
    kind = config["model_type"]
    usual = library().CONFIG_MAPPING[kind]()
    kept = {key: value for key, value in config.items() if not not_read(key)}
    given = {key: config.get(key, getattr(usual, key, None)) for key in OWN}
    if given["decoder_start_token_id"] is None:
        raise ConfigError("decoder_start_token_id is missing: nothing begins a target")
    if kind in T5S:
        length = config.get("n_positions", 512)
    else:
        length = kept.setdefault("max_position_embeddings", usual.max_position_embeddings)
    return HfSeq2SeqConfig(
        vocab_size=given["vocab_size"],
        max_seq_len=length,
        transformers=kept,
        prefix=given["prefix"] or "",
        tie_output=tied,
        **{ours: given[theirs] for ours, theirs in IDS.items()},
    )
