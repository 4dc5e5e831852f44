"""CLIP: a tower for pictures and one for texts, whose vectors meet where they belong together.

Sources:
    Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision",
    arXiv:2103.00020; its figure 3 is the whole model in ten lines.
    Ilharco et al. 2021, `open_clip`, whose classes compute it here.

The idea: each tower gives one vector, of length 1. How well a text fits a picture is their cosine,
times a learned scale. Trained on pictures and their captions, each against all others of its batch,
the towers can tell classes apart that nobody named in training: give each a sentence.

What is added to `open_clip`: a configuration of plain values that holds towers, tokenizer and
preprocessing together, so that no weights are ever read with another's preprocessing. Nothing here
asks the network.

Letters: B pictures or texts, C channels, S pixels a side, T context length, D width of the space.
"""

import copy
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import Config
from zoo.errors import ConfigError, ContextLengthError, InputError, MissingExtraError, PluginError
from zoo.pipelines.zero_shot import text_ids
from zoo.plugins import one_line

if TYPE_CHECKING:
    from PIL.Image import Image
    from tokenizers import Tokenizer

RESIZE = ("squash", "shortest", "longest")
INTERPOLATION = ("bicubic", "bilinear")
CLEAN = ("lower", "whitespace", "canonicalize")
MORE = ("quick_gelu", "init_logit_scale", "init_logit_bias", "nonscalar_logit_scale", "custom_text")
TOP_SCALE = math.log(100)  # training does not go beyond: section 2.5
MOST = 1 << 16  # of any size inside a tower


@dataclass(frozen=True, kw_only=True)
class OpenClipConfig(Config):
    """Towers, preprocessing and how texts are read.

    Attributes:
        vocab_size: of the tokenizer.
        max_seq_len: T.
        image_size: S.
        d_embed: D, `embed_dim` in `open_clip`.
        vision: the picture tower, keys of `open_clip`'s `CLIPVisionCfg`, without `image_size`.
        text: the text tower, keys of its `CLIPTextCfg`, without sizes and tokens said here.
        more: further arguments of its class, such as `quick_gelu`; `custom_text` for the class
            whose text tower is a part of its own.
        pad_id: fills up texts.
        end_id: ends a text; towers with `pool_type` "eos" read it off there.
        n_channels: 3.
        image_mean: is taken off each channel, of pixels from 0 to 1.
        image_std: each channel is divided by.
        resize: what brings a picture to S x S: "squash" both sides; "shortest" side, then the
            middle; "longest" side, then a border.
        interpolation: "bicubic" or "bilinear".
        fill: of the border, from 0 to 255.
        clean: what `open_clip` does to a text first.
        source: where pinned weights are from: model, pretrained tag, repository, commit, file,
            its SHA-256; empty for what is trained here.
    """

    vocab_size: int
    max_seq_len: int
    image_size: int
    d_embed: int
    vision: dict[str, Any]
    text: dict[str, Any]
    more: dict[str, Any] = field(default_factory=dict)
    pad_id: int = 0
    end_id: int = 0
    n_channels: int = 3
    image_mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: tuple[float, ...] = (0.5, 0.5, 0.5)
    resize: str = "squash"
    interpolation: str = "bilinear"
    fill: int = 0
    clean: str = "lower"
    source: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.require_positive("vocab_size", "max_seq_len", "image_size", "d_embed")
        for name in ("pad_id", "end_id"):
            if not 0 <= getattr(self, name) < self.vocab_size:
                raise ConfigError(f"{name}={getattr(self, name)} is none of {self.vocab_size}")
        if self.n_channels != 3:
            raise ConfigError(f"n_channels must be 3, got {self.n_channels}")
        for name in ("image_mean", "image_std"):
            numbers = getattr(self, name)
            if len(numbers) != 3 or not all(isinstance(n, int | float) for n in numbers):
                raise ConfigError(f"{name} must be three numbers, got {numbers!r}")
            object.__setattr__(self, name, tuple(float(n) for n in numbers))  # JSON has lists
        if not all(number > 0 for number in self.image_std):
            raise ConfigError(f"image_std must be above 0, got {self.image_std}")
        choices = {"resize": RESIZE, "interpolation": INTERPOLATION, "clean": CLEAN}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} must be one of {known}, got {getattr(self, name)!r}")
        for name in ("vision", "text", "more", "source"):
            values = getattr(self, name)
            if not isinstance(values, dict):
                raise ConfigError(f"{name} must be a table, got {values!r}")
            _check_sizes(name, values)
            object.__setattr__(self, name, copy.deepcopy(values))
        if unknown := set(self.more) - set(MORE):
            raise ConfigError(f"more: {sorted(unknown)} are not read; read are {', '.join(MORE)}")
        network = [key for key in ("hf_model_name", "hf_tokenizer_name") if self.text.get(key)]
        if network or self.vision.get("timm_model_pretrained"):
            raise ConfigError(f"{network or 'timm_model_pretrained'} would be asked of the network")

    @property
    def n_layers(self) -> int:
        """Of the picture tower; 0 of one that is no vision transformer of `open_clip`."""
        layers = self.vision.get("layers", 12)
        return 0 if self.vision.get("timm_model_name") or not isinstance(layers, int) else layers

    @property
    def grid(self) -> int:
        """Patches a side, G, behind a class token; 0 where pictures are not cut into patches."""
        patch = self.vision.get("patch_size", 16)
        return self.image_size // patch if self.n_layers and isinstance(patch, int) else 0

    @property
    def pooling(self) -> str:
        """What of the picture tower is read: the "first" token, or the "mean" of the patches."""
        return "first" if self.vision.get("pool_type", "tok") == "tok" else "mean"

    def preprocessing(self) -> dict[str, Any]:
        """As `open_clip`'s `PreprocessCfg` takes it."""
        return {
            "size": (self.image_size, self.image_size),
            "mean": self.image_mean,
            "std": self.image_std,
            "interpolation": self.interpolation,
            "resize_mode": self.resize,
            "fill_color": self.fill,
        }


def _check_sizes(key: str, value: Any) -> None:
    """Raise `ConfigError` for what no JSON holds, and for sizes that would fill the memory."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            _check_sizes(f"{key}.{name}", inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            _check_sizes(key, inner)
    elif type(value) is int and abs(value) > MOST:
        raise ConfigError(f"{key}={value} is beyond {MOST}, the most there is")
    elif not isinstance(value, str | int | float | bool | None):
        raise ConfigError(f"{key}={value!r} is no plain value")


def library() -> Any:
    """The package `open_clip`.

    Raises:
        MissingExtraError: it is not installed.
        PluginError: the installed torchvision belongs to another torch.
    """
    try:
        import open_clip
    except ImportError as error:
        raise MissingExtraError("The architecture open-clip", "clip") from error
    except RuntimeError as error:  # operator torchvision::nms does not exist
        raise PluginError(
            f"torchvision does not fit torch: {one_line(error)}: txzoo doctor says which one does"
        ) from error
    return open_clip


class OpenClip(nn.Module):
    """Pixels and token ids to vectors in one space.

    Raises:
        MissingExtraError: `open_clip` is not installed.
        ConfigError: it cannot build such towers.
    """

    config_class = OpenClipConfig

    def __init__(self, config: OpenClipConfig) -> None:
        super().__init__()
        self.config = config
        package = library()
        more = dict(config.more)
        kind = package.CustomTextCLIP if more.pop("custom_text", False) else package.CLIP
        vision = {**config.vision, "image_size": config.image_size}
        text = {
            "pool_type": "eos",
            **config.text,
            "context_length": config.max_seq_len,
            "vocab_size": config.vocab_size,
            "pad_id": config.pad_id,
            "eos_id": config.end_id,
        }
        try:
            self.clip = kind(config.d_embed, vision, text, **more)
        except (TypeError, ValueError, AssertionError, ZeroDivisionError, KeyError) as error:
            raise ConfigError(f"open_clip builds no model of this: {one_line(error)}") from error

    def forward(self, pixels: Tensor, ids: Tensor | None = None) -> Tensor:
        """How well texts fit pictures.

        Args:
            pixels: preprocessed pictures (B, C, S, S).
            ids: texts (B', T); none for the pictures' vectors alone.

        Returns:
            Scaled similarities (B, B'), or vectors of length 1 (B, D).
        """
        pictures = self.encode_image(pixels)
        if ids is None:
            return pictures
        return self.similarity(pictures, self.encode_text(ids))

    def encode_image(self, pixels: Tensor) -> Tensor:
        """Vectors of length 1 (B, D) of pictures (B, C, S, S).

        Raises:
            InputError: pictures of another size.
        """
        S = self.config.image_size
        if pixels.shape[1:] != (3, S, S):
            raise InputError(f"pictures are {tuple(pixels.shape[1:])}, this model reads {3, S, S}")
        return F.normalize(self.clip.encode_image(pixels), dim=-1)

    def encode_text(self, ids: Tensor) -> Tensor:
        """Vectors of length 1 (B, D) of texts (B, T), each filled up with padding.

        Raises:
            ContextLengthError: texts longer than T.
        """
        T = self.config.max_seq_len
        if ids.shape[1] > T:
            raise ContextLengthError(f"The text has {ids.shape[1]} tokens, this model reads {T}")
        ids = F.pad(ids, (0, T - ids.shape[1]), value=self.config.pad_id)
        return F.normalize(self.clip.encode_text(ids), dim=-1)

    @property
    def pairwise(self) -> bool:
        """Whether each pair was trained for itself, by a sigmoid with a bias, as SigLIP's are.

        Zhai et al. 2023, "Sigmoid Loss for Language Image Pre-Training", arXiv:2303.15343.
        """
        return self.clip.logit_bias is not None

    def similarity(self, pictures: Tensor, texts: Tensor) -> Tensor:
        """Scaled cosines (B, B') of vectors of length 1."""
        scale, bias = self.clip.logit_scale, self.clip.logit_bias
        if self.training:
            scale = scale.clamp(max=TOP_SCALE)
        logits = scale.exp() * pictures @ texts.T
        found: Tensor = logits if bias is None else logits + bias
        return found

    @cached_property
    def _transform(self) -> Any:
        package = library()
        found = package.transform.PreprocessCfg(**self.config.preprocessing())
        return package.transform.image_transform_v2(found, is_train=False)

    def read_pictures(self, pictures: "Sequence[Image]") -> Tensor:
        """Pictures in red, green and blue as this model reads them (B, C, S, S)."""
        return torch.stack([self._transform(picture) for picture in pictures])

    def read_texts(self, tokenizer: "Tokenizer", texts: Sequence[str]) -> Tensor:
        """Token ids (B, T); of a longer text the end is left out, as `open_clip` does."""
        clean = library().tokenizer.get_clean_fn(self.config.clean)
        texts = [clean(text) for text in texts]
        return text_ids(tokenizer, texts, self.config.max_seq_len, self.config.pad_id)


def config_fields(kind: Any) -> set[str]:
    """Names of the fields of one of `open_clip`'s configurations."""
    return {field.name for field in dataclasses.fields(kind)}
