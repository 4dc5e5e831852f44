"""A captioner of the Hub, computed by `transformers`: BLIP, which this zoo does not write out.

Source: Li et al. 2022, "BLIP: Bootstrapping Language-Image Pre-training for Unified Vision-Language
Understanding and Generation", arXiv:2201.12086, section 3.1; `transformers` (Wolf et al. 2020,
arXiv:1910.03771).

The idea: a Vision Transformer reads the picture, and BERT, made to see no later words and given a
layer that looks at the picture, writes. The parts of `BlipForConditionalGeneration` become the
parts of this module, under their own names. What is added is the zoo's way of calling an
encoder-decoder: a picture is encoded once, several captions share it, and what layers keep from
one token to the next lies in the zoo's own cache. Of a repository only its JSON and its safetensors
are read, nothing in it runs, and no weight is left random.

Differences: none in what is computed. Its attention is BLIP's own, which shows no weights.

Letters: P pictures, R captions (several to a picture in beam search), C channels, N tokens of a
picture, T caption length, D width, H heads, E width of a head, V vocabulary.
"""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from zoo import Config
from zoo.convert import (
    adopt,
    building,
    check_checkpoint,
    check_sizes,
    library,
    load_theirs,
    untangle,
)
from zoo.errors import ConfigError, InputError
from zoo.nn import SourceCache, VisionEncoderDecoder, causal_mask

KIND = "BlipForConditionalGeneration"
IDS = {"pad_id": "pad_token_id", "start_id": "bos_token_id", "end_id": "sep_token_id"}
UNREAD = ("position_ids",)  # buffers of older checkpoints


@dataclass(frozen=True, kw_only=True)
class HfCaptionerConfig(Config):
    """Sizes, tokens that stand for something, and what else `transformers` wants to know.

    A caption is read as `start_id` and its tokens, and is to give its tokens and `end_id`.

    Attributes:
        vocab_size: V.
        max_seq_len: T at most.
        image_size: pixels a side, which pictures are brought to.
        transformers: its configuration as JSON: `model_type`, and in `text_config` and
            `vision_config` what does not stand here.
        n_channels: C.
        image_mean: of each channel, from 0 to 1; taken away before the model sees a pixel.
        image_std: likewise; what is left is divided by it.
        resample: how pictures are brought to their size.
        pad_id: the token that stands for padding.
        start_id: what a caption is begun with.
        end_id: what a caption ends with.
    """

    vocab_size: int
    max_seq_len: int
    image_size: int
    transformers: dict[str, Any]
    n_channels: int = 3
    image_mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)  # CLIP's
    image_std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    resample: str = "bicubic"
    pad_id: int = 0
    start_id: int = 0
    end_id: int = 1

    def __post_init__(self) -> None:
        self.require_positive("vocab_size", "max_seq_len", "image_size", "n_channels")
        for name in ("image_mean", "image_std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON has lists
            if len(getattr(self, name)) != self.n_channels:
                raise ConfigError(
                    f"{name} has {len(getattr(self, name))} numbers, n_channels={self.n_channels}"
                )
        if not all(value > 0 for value in self.image_std):
            raise ConfigError(f"image_std must be above 0, got {self.image_std}")
        if self.resample not in ("bilinear", "bicubic"):
            raise ConfigError(f"resample must be bilinear or bicubic, got {self.resample!r}")
        for name in IDS:
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value < self.vocab_size:
                raise ConfigError(f"{name} must be a token, 0 to {self.vocab_size - 1}: {value!r}")
        if self.end_id == self.pad_id:
            raise ConfigError(f"end_id and pad_id are both {self.pad_id}: an end is no padding")
        if not isinstance(self.transformers, dict):
            raise ConfigError(f"transformers must be a table, got {self.transformers!r}")
        if self.transformers.get("model_type") != "blip":
            found = self.transformers.get("model_type")
            raise ConfigError(f"transformers: model_type must be blip, got {found!r}")
        for part in ("text_config", "vision_config"):
            if not isinstance(self.transformers.get(part, {}), dict):
                raise ConfigError(f"transformers: {part} must be a table")
        check_sizes(self.transformers)
        object.__setattr__(self, "transformers", copy.deepcopy(self.transformers))

    def settings(self) -> dict[str, Any]:
        """The whole configuration for `transformers`, as JSON."""
        whole = copy.deepcopy(self.transformers)
        text = {theirs: getattr(self, ours) for ours, theirs in IDS.items()}
        text |= {"vocab_size": self.vocab_size, "max_position_embeddings": self.max_seq_len}
        # of its own copies of these nothing is read
        text |= {"eos_token_id": self.end_id, "is_decoder": True}
        shown = {"image_size": self.image_size, "num_channels": self.n_channels}
        whole["text_config"] = {**whole.get("text_config", {}), **text}
        whole["vision_config"] = {**whole.get("vision_config", {}), **shown}
        return whole

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
        """D of the decoder."""
        return int(self.theirs.text_config.hidden_size)

    @property
    def n_layers(self) -> int:
        """Layers of the decoder."""
        return int(self.theirs.text_config.num_hidden_layers)

    @property
    def n_heads(self) -> int:
        """H of the decoder."""
        return int(self.theirs.text_config.num_attention_heads)


@cache
def bridge_class() -> Any:
    """Our cache as BLIP calls one; the class derives from one that is imported late."""
    from transformers import EncoderDecoderCache

    class Bridge(EncoderDecoderCache):  # type: ignore[misc]
        def __init__(self, cache: SourceCache, n_layers: int, rows: int) -> None:
            self.self_attention_cache = _Written(cache)
            self.cross_attention_cache = _Seen(cache, rows)
            self.is_updated = dict.fromkeys(range(n_layers), cache.length > 0)

        def get_seq_length(self, layer_idx: int = 0) -> int:
            return self.self_attention_cache.get_seq_length(layer_idx)

    return Bridge


class _Written:
    """The keys and values of captions."""

    def __init__(self, cache: SourceCache) -> None:
        self.cache = cache

    def update(self, k: Tensor, v: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        return self.cache.update(layer, k, v)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.cache.length


class _Seen:
    """The keys and values of pictures, each as often as it has captions: BLIP wants as many."""

    def __init__(self, cache: SourceCache, rows: int) -> None:
        self.cache, self.rows = cache, rows

    @property
    def layers(self) -> "_Seen":
        return self

    def __getitem__(self, layer: int) -> SimpleNamespace:
        k, v = self.repeated(*self.cache.source(layer, self.unknown))
        return SimpleNamespace(keys=k, values=v)

    def update(self, k: Tensor, v: Tensor, layer: int, *_: Any) -> tuple[Tensor, Tensor]:
        return self.repeated(*self.cache.source(layer, lambda: (k, v)))

    def repeated(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        times = self.rows // len(k)
        return k.repeat_interleave(times, 0), v.repeat_interleave(times, 0)

    def unknown(self) -> tuple[Tensor, Tensor]:
        raise InputError("This cache has read a caption without its picture: begin with a new one")


class HfCaptioner(VisionEncoderDecoder):
    """Pixels and the ids of captions to logits of the captions' next tokens.

    Raises:
        MissingExtraError: `transformers` is not installed.
        ConfigError: it cannot build such a model.
    """

    config_class = HfCaptionerConfig
    beside = {"preprocessor": "preprocessor_config.json"}  # how checkpoints want their pixels
    theirs: Any

    def __init__(self, config: HfCaptionerConfig) -> None:
        super().__init__()
        self.config: HfCaptionerConfig = config
        self.max_len = config.max_seq_len
        made, their_config = getattr(library(), KIND), copy.deepcopy(config.theirs)
        with building(KIND):
            theirs: nn.Module = made(their_config)
        self.aliases = untangle(theirs)
        adopt(self, theirs)

    def read(self, source: Tensor, real: Tensor) -> Tensor:
        """Memory (P, N, D) of pictures (P, C, S, S)."""
        memory: Tensor = self.theirs.vision_model(source, return_dict=True).last_hidden_state
        return memory

    def write(
        self, ids: Tensor, memory: Tensor, real: Tensor | None, cache: SourceCache | None
    ) -> Tensor:
        """Logits (R, T, V) of captions (R, T), with a cache of what goes on from it.

        Raises:
            InputError: a cache of captions that are padded on the left.
        """
        R, T = ids.shape
        before = 0 if cache is None else cache.length
        if cache is not None and cache.padding is not None:
            raise InputError("Captions of this model begin together: pad them on the right")
        if cache is None:
            memory = memory.repeat_interleave(R // len(memory), dim=0)
        hidden = ~causal_mask(T, before + T, device=ids.device)  # (1, 1, T, before + T)
        scores = torch.zeros_like(hidden, dtype=memory.dtype)
        scores = scores.masked_fill(hidden, torch.finfo(memory.dtype).min)
        kept = None if cache is None else bridge_class()(cache, self.config.n_layers, R)
        text = (
            self.theirs.text_decoder
        )  # its parts one by one: as a whole it makes masks of its own
        x = text.bert.embeddings(ids, past_key_values_length=before)  # (R, T, D)
        x = text.bert.encoder(
            x,
            attention_mask=scores,
            encoder_hidden_states=memory,
            past_key_values=kept,
            use_cache=kept is not None,
        ).last_hidden_state
        logits: Tensor = text.cls(x)
        return logits

    @classmethod
    def from_transformers(
        cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> "HfCaptioner":
        """A `BlipForConditionalGeneration` checkpoint; every tensor is used.

        Raises:
            MissingExtraError: `transformers` is not installed.
            ConfigError: another kind of model, or values that cannot be.
            WeightsError: a tensor is missing, left over or of another shape; names it.
        """
        kind = (config.get("architectures") or [KIND])[0]
        if kind != KIND:
            raise ConfigError(f"{kind} is not read; {KIND} is")
        check_checkpoint({key: value for key, value in config.items() if key != "preprocessor"})
        found = {name: t for name, t in tensors.items() if not name.endswith(UNREAD)}
        module = cls(read_config(config))
        load_theirs(module, found, module.aliases, KIND)
        return module

    def to_transformers(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The same model as a checkpoint: `config.json` and tensors."""
        c = self.config
        colours = {
            "image_processor_type": "BlipImageProcessor",
            "size": {"height": c.image_size, "width": c.image_size},
            "image_mean": list(c.image_mean),
            "image_std": list(c.image_std),
            "resample": RESAMPLES[c.resample],
        }
        settings = {"architectures": [KIND], **c.settings(), "preprocessor": colours}
        return settings, dict(self.state_dict())


RESAMPLES = {"bilinear": 2, "bicubic": 3}  # Pillow's numbers, which processors say
OWN = ("vocab_size", "max_position_embeddings", "image_size", "num_channels", *IDS.values())
KEPT = ("model_type", "projection_dim", "image_text_hidden_size", "initializer_factor")


def read_config(config: Mapping[str, Any]) -> HfCaptionerConfig:
    """Our configuration from the JSON of a checkpoint; what it lacks has `transformers`' values."""
    usual = library().CONFIG_MAPPING["blip"]()
    parts: dict[str, dict[str, Any]] = {}
    for part in ("text_config", "vision_config"):
        given = config.get(part) or {}
        parts[part] = {**{key: getattr(getattr(usual, part), key, None) for key in OWN}, **given}
    text, shown = parts["text_config"], parts["vision_config"]
    colours = config.get("preprocessor", {})
    numbers = {number: name for name, number in RESAMPLES.items()}
    more = {key: colours[key] for key in ("image_mean", "image_std") if key in colours}
    if "resample" in colours:
        more["resample"] = numbers.get(colours["resample"], str(colours["resample"]))
    kept: dict[str, Any] = {key: config[key] for key in KEPT if key in config}
    for part in ("text_config", "vision_config"):
        given = config.get(part) or {}
        plain = {k: v for k, v in given.items() if k not in OWN and not k.startswith("_")}
        kept[part] = {key: value for key, value in plain.items() if key not in NOT_OURS}
    return HfCaptionerConfig(
        vocab_size=text["vocab_size"],
        max_seq_len=text["max_position_embeddings"],
        image_size=shown["image_size"],
        n_channels=shown["num_channels"] or 3,
        transformers=kept,
        **{ours: text[theirs] for ours, theirs in IDS.items()},
        **more,
    )


NOT_OURS = (  # what a checkpoint's tables say besides sizes
    "torch_dtype",
    "dtype",
    "transformers_version",
    "eos_token_id",
    "is_decoder",
    "use_cache",
)
