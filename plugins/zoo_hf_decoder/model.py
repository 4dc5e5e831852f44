"""A decoder of the Hub, computed by `transformers`: any of those that this zoo does not write out.

Source: `transformers` (Wolf et al. 2020, arXiv:1910.03771) and the papers that its documentation
names for each `model_type`; OPT's is Zhang et al. 2022, arXiv:2205.01068.

The idea: the parts of a model of `transformers` become the parts of this module, under their own
names, as in `hf-encoder`. What is added is the zoo's way of calling a decoder: the cache says where
tokens stand and what they may see, and keeps keys and values. Of a repository only its JSON and its
safetensors are read, nothing in it runs, and no weight is left random.

Differences: attention is ours, which computes the same and shows its weights. A model whose layers
look back no farther than a window is read up to that window, where there is no difference.

Letters: B batch, T query length, S key length, D width, H heads, E width of a head, V vocabulary.
"""

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from zoo import Config
from zoo.convert import (
    DECODING,
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
from zoo.errors import ConfigError, ContextLengthError, FolderError
from zoo.folder import member
from zoo.nn import Cache, causal_mask
from zoo.plugins import one_line
from zoo_hf_decoder import BY_CONFIG, MODEL_TYPES

if TYPE_CHECKING:
    from tokenizers import Tokenizer

OWN = ("vocab_size", "eos_token_id", "tie_word_embeddings", "architectures", "is_decoder")
WRITERS, BODIES = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "MODEL_MAPPING_NAMES"
BUFFERS = ("rotary_emb.inv_freq", "attention.bias", "attention.masked_bias")  # ends of names
OLD_NAMES = {"gpt_neox": ("embed_out.", "lm_head.")}  # in files, and in today's classes
POSITIONS = "max_position_embeddings"
BYTE_PAIRS = ("vocab.json", "merges.txt")  # OPT's, in place of tokenizer.json


@dataclass(frozen=True, kw_only=True)
class HfDecoderConfig(Config):
    """Sizes, the token that ends a text, and what else `transformers` wants to know.

    Attributes:
        vocab_size: V.
        max_seq_len: T at most.
        transformers: its configuration as JSON, `model_type` at least, without what stands here.
        end_id: the token that ends a text; None where there is none.
        tie_embeddings: whether the output matrix is that of the token embeddings.
    """

    vocab_size: int
    max_seq_len: int
    transformers: dict[str, Any]
    end_id: int | None = None
    tie_embeddings: bool = True

    def __post_init__(self) -> None:
        self.require_positive("vocab_size", "max_seq_len")
        end = self.end_id
        if end is not None and (type(end) is not int or not 0 <= end < self.vocab_size):
            raise ConfigError(f"end_id must be a token, 0 to {self.vocab_size - 1}, got {end!r}")
        if not isinstance(self.transformers, dict):
            raise ConfigError(f"transformers must be a table, got {self.transformers!r}")
        object.__setattr__(self, "transformers", copy.deepcopy(self.transformers))
        for key in self.transformers:
            if not_read(key):
                raise ConfigError(f"transformers: {key!r} is not read there")
        check_sizes(self.transformers)
        if self.kind not in MODEL_TYPES + BY_CONFIG:
            known = ", ".join(sorted(MODEL_TYPES + BY_CONFIG))
            raise ConfigError(f"transformers: model_type must be one of {known}, got {self.kind!r}")
        key = "n_positions" if self.kind == "gpt2" else POSITIONS
        positions = self.transformers.setdefault(key, self.max_seq_len)
        if type(positions) is not int or positions < self.max_seq_len:
            raise ConfigError(f"max_seq_len={self.max_seq_len}, but {key}={positions!r} has fewer")

    @property
    def kind(self) -> Any:
        """The `model_type`."""
        return self.transformers.get("model_type")

    def settings(self) -> dict[str, Any]:
        """The whole configuration for `transformers`, as JSON."""
        return {
            **copy.deepcopy(self.transformers),
            "vocab_size": self.vocab_size,
            "eos_token_id": self.end_id,
            "tie_word_embeddings": self.tie_embeddings,
        }

    @cached_property
    def theirs(self) -> Any:
        """The configuration as `transformers` completes it.

        Raises:
            MissingExtraError: `transformers` is not installed.
            ConfigError: values that cannot be, or layers that look back less than `max_seq_len`.
        """
        settings = self.settings()
        with building("configuration"):
            made = library().CONFIG_MAPPING[settings.pop("model_type")](**settings)
        window = window_of(made)
        if window is not None and window < self.max_seq_len:
            raise ConfigError(
                f"max_seq_len={self.max_seq_len}, but its layers look back {window} tokens at most"
            )
        return made

    @property
    def d_model(self) -> int:
        """D."""
        return int(self.theirs.hidden_size)

    @property
    def n_layers(self) -> int:
        """Layers."""
        return int(self.theirs.num_hidden_layers)

    @property
    def n_heads(self) -> int:
        """H."""
        return int(self.theirs.num_attention_heads)

    @property
    def n_kv_heads(self) -> int:
        """Heads of keys and values, which may be fewer."""
        return int(getattr(self.theirs, "num_key_value_heads", None) or self.n_heads)

    @property
    def d_head(self) -> int:
        """E."""
        return int(getattr(self.theirs, "head_dim", None) or self.d_model // self.n_heads)


def not_read(key: str) -> bool:
    """Whether a key of a checkpoint's `config.json` is none of our table."""
    return key in OWN or key in DECODING or key in NOT_READ or key.startswith("_")


def window_of(theirs: Any) -> int | None:
    """How far back layers look; None for as far as there is text."""
    if getattr(theirs, "use_sliding_window", True) is False:
        return None
    window = getattr(theirs, "sliding_window", None)
    return window if type(window) is int else None


@cache
def bridge_class() -> Any:
    """The class of `bridge`; it derives from one that is imported late."""
    from transformers import DynamicCache

    class Bridge(DynamicCache):  # type: ignore[misc]
        def __init__(self, cache: Cache) -> None:
            super().__init__()
            self.ours = cache

        def update(self, k: Tensor, v: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
            return self.ours.update(layer, k, v)

        def get_seq_length(self, layer_idx: int = 0) -> int:
            return self.ours.length

    return Bridge


def bridge(cache: Cache) -> Any:
    """Our cache as `transformers` calls one."""
    return bridge_class()(cache)


class HfDecoder(nn.Module):
    """Token ids to logits of the next token at every position.

    Raises:
        MissingExtraError: `transformers` is not installed.
        ConfigError: it cannot build such a model.
    """

    config_class = HfDecoderConfig
    theirs: Any

    def __init__(self, config: HfDecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.max_len = config.max_seq_len
        made, their_config = class_of(WRITERS, config.kind), copy.deepcopy(config.theirs)
        with building(made.__name__):
            their_config._attn_implementation = attention()
            theirs = made(their_config)
        self.aliases = untangle(theirs)
        self.keeps = "logits_to_keep" in inspect.signature(theirs.forward).parameters
        adopt(self, theirs)

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
        before = 0 if cache is None else cache.length
        if before + T > self.max_len:
            raise ContextLengthError(
                f"{before + T} tokens, but this model has {self.max_len} positions: shorten the "
                "text"
            )
        mask = None if cache is None else cache.mask(T)
        if mask is None:  # as `attend` without a mask would
            mask = causal_mask(T, before + T, device=ids.device)
        if cache is None:
            positions = torch.arange(T, device=ids.device)[None]
        else:
            positions = cache.positions(T)
        output = self.theirs(
            input_ids=ids,
            attention_mask=mask,  # (B or 1, 1, T, S)
            position_ids=positions.expand(len(ids), T),
            past_key_values=None if cache is None else bridge(cache),
            use_cache=cache is not None,
            return_dict=True,
            **({"logits_to_keep": logits_to_keep} if self.keeps else {}),
        )
        if cache is not None:
            cache.advance(T)
        logits: Tensor = output.logits[:, -logits_to_keep:]  # all, of those that keep all
        return logits

    @classmethod
    def from_transformers(
        cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> "HfDecoder":
        """A checkpoint, of a model that writes or of its body alone, whose output is tied.

        Every tensor is used.

        Raises:
            MissingExtraError: `transformers` is not installed.
            ConfigError: another kind of model, or values that cannot be.
            WeightsError: a tensor is missing, left over or of another shape; names it.
        """
        check_checkpoint(config)
        made, body = (class_of(table, config["model_type"]) for table in (WRITERS, BODIES))
        found = {name: t for name, t in tensors.items() if not name.endswith(BUFFERS)}
        if is_body(config, made, body):
            prefix = f"{made.base_model_prefix}."
            found = {prefix + name.removeprefix(prefix): t for name, t in found.items()}
        elif config["model_type"] == "opt":  # older checkpoints leave out a part of the name
            found = {
                f"model.{name}" if name.startswith("decoder.") else name: t
                for name, t in found.items()
            }
        old, new = OLD_NAMES.get(config["model_type"], ("", ""))
        if old:
            found = {new + n.removeprefix(old) if n.startswith(old) else n: found[n] for n in found}
        module = cls(read_config(config))
        load_theirs(module, found, module.aliases, made.__name__)
        return module

    @staticmethod
    def read_tokenizer(folder: Path, config: Mapping[str, Any]) -> "Tokenizer | None":
        """The tokenizer of an OPT checkpoint without `tokenizer.json`; None of any other.

        Raises:
            FolderError: its files make none.
        """
        if config["model_type"] != "opt" or not all((folder / n).exists() for n in BYTE_PAIRS):
            return None
        return opt_tokenizer(*(member(folder, name) for name in BYTE_PAIRS))

    def to_transformers(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The same model as a checkpoint: `config.json` and tensors."""
        settings = {"architectures": [type(self.theirs).__name__], **self.config.settings()}
        old, new = OLD_NAMES.get(self.config.kind, ("", ""))
        tensors = dict(self.state_dict())
        if new:
            tensors = {
                old + n.removeprefix(new) if n.startswith(new) else n: t for n, t in tensors.items()
            }
        return settings, tensors


def read_config(config: Mapping[str, Any]) -> HfDecoderConfig:
    """Our configuration from the JSON of a checkpoint; what it lacks has `transformers`' values."""
    usual = library().CONFIG_MAPPING[config["model_type"]]()
    kept = {key: value for key, value in config.items() if not not_read(key)}
    given = {key: config.get(key, getattr(usual, key, None)) for key in OWN}
    end = given["eos_token_id"]
    if isinstance(end, list):  # Llama 3 has several; the first one is that of a text
        end = end[0] if end else None
    vocab_size = given["vocab_size"]
    if not (type(end) is int and type(vocab_size) is int and 0 <= end < vocab_size):
        end = None  # some name one of another vocabulary
    length: Any = kept.setdefault(POSITIONS, getattr(usual, POSITIONS, None))
    with building("configuration"):
        made = library().CONFIG_MAPPING[config["model_type"]](
            **{key: value for key, value in kept.items() if key != "model_type"}
        )
    window = window_of(made)
    return HfDecoderConfig(
        vocab_size=vocab_size,
        max_seq_len=length if window is None else min(length, window),
        transformers=kept,
        end_id=end,
        tie_embeddings=bool(given["tie_word_embeddings"]),
    )


def opt_tokenizer(vocabulary: Path, merges: Path) -> "Tokenizer":
    """GPT-2's byte pairs, with `</s>` before each text, as OPT was trained.

    Raises:
        FolderError: the files make none.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    try:
        made = Tokenizer(models.BPE.from_file(str(vocabulary), str(merges)))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of the Rust code below is no Exception
        raise FolderError(f"{vocabulary} makes no tokenizer: {one_line(error)}") from error
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    begin = "</s>"
    made.add_special_tokens([token for token in (begin, "<pad>") if made.token_to_id(token)])
    if (token := made.token_to_id(begin)) is None:
        raise FolderError(f"{vocabulary} has no token {begin!r}, which OPT begins a text with")
    made.post_processor = processors.TemplateProcessing(
        single=f"{begin} $A", special_tokens=[(begin, token)]
    )
    return made
