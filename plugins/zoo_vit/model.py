"""The Vision Transformer: a picture read as a text of patches.

Source:
    Dosovitskiy et al. 2021, "An Image is Worth 16x16 Words: Transformers for Image Recognition at
    Scale", arXiv:2010.11929, section 3.1.

The idea: nothing in an encoder knows that its input was a text. Cut a picture into squares, map
each square's pixels to a vector, add where it stood, and the same blocks that read words read
pictures. A learned class token in front gathers what the classifier needs; the mean of the patches
does as well (appendix D.3).

Differences from the paper: the head is one linear layer from the beginning, as in published
checkpoints; positions may be fixed sinusoids of row and column. The tests hold it equal to
`transformers`.

Letters: B batch, C channels, P patch size, G patches a side, N = G * G patches, T tokens,
D d_model, H heads, F d_ff, L labels.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo import Config
from zoo.convert import load_renamed
from zoo.errors import ConfigError, InputError, WeightsError
from zoo.nn import LayerNorm, attend

POOLINGS = ("first", "mean")
POSITIONS = ("learned", "sinusoidal")


@dataclass(frozen=True, kw_only=True)
class PictureConfig(Config):
    """What all readers of square pictures have: sizes in pixels, colours, the names of labels.

    Attributes:
        image_size: pixels a side, which pictures are brought to.
        image_mean: of each channel, from 0 to 1; taken away before the model sees a pixel.
        image_std: likewise; what is left is divided by it.
    """

    image_size: int
    d_model: int
    n_layers: int
    n_heads: int
    d_ff: int
    n_channels: int = 3
    labels: tuple[str, ...] = ()
    positions: str = "learned"
    dropout: float = 0.0
    norm_eps: float = 1e-6
    image_mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    image_std: tuple[float, ...] = (0.5, 0.5, 0.5)

    def __post_init__(self) -> None:
        self.require_positive("image_size", "d_model", "n_layers", "n_heads", "d_ff", "n_channels")
        self.require_divisible("d_model", "n_heads")
        if isinstance(self.labels, str) or not all(isinstance(name, str) for name in self.labels):
            raise ConfigError(f"labels must be a list of names, got {self.labels!r}")
        if len(set(self.labels)) < 2:
            raise ConfigError(f"A classifier needs two labels or more, got {self.labels!r}")
        for name in ("labels", "image_mean", "image_std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))  # JSON has lists
        for name in ("image_mean", "image_std"):
            if len(getattr(self, name)) != self.n_channels:
                raise ConfigError(
                    f"{name} has {len(getattr(self, name))} numbers, n_channels={self.n_channels}"
                )
        if not all(value > 0 for value in self.image_std):
            raise ConfigError(f"image_std must be above 0, got {self.image_std}")
        if self.positions not in POSITIONS:
            raise ConfigError(f"positions must be one of {', '.join(POSITIONS)}")
        if self.positions == "sinusoidal" and self.d_model % 4:
            raise ConfigError(
                f"sinusoids of row and column need d_model in fours, got {self.d_model}"
            )

    @property
    def grid(self) -> int:
        """Patches a side, G."""
        raise NotImplementedError

    @property
    def max_seq_len(self) -> int:
        """Tokens of a picture of `image_size`."""
        return self.grid * self.grid


@dataclass(frozen=True, kw_only=True)
class ViTConfig(PictureConfig):
    """Sizes of a Vision Transformer."""

    patch_size: int
    pooling: str = "first"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("patch_size")
        self.require_divisible("image_size", "patch_size")
        if self.pooling not in POOLINGS:
            raise ConfigError(f"pooling must be one of {', '.join(POOLINGS)}, got {self.pooling!r}")

    @property
    def grid(self) -> int:
        """Patches a side, G."""
        return self.image_size // self.patch_size

    @property
    def max_seq_len(self) -> int:
        """Tokens of a picture of `image_size`, the class token among them."""
        return self.grid * self.grid + (self.pooling == "first")


class Attention(nn.Module):
    """Multi-head self-attention over all tokens."""

    def __init__(self, config: PictureConfig) -> None:
        super().__init__()
        self.n_heads, self.dropout = config.n_heads, config.dropout
        self.qkv = nn.Linear(config.d_model, 3 * config.d_model)
        self.out = nn.Linear(config.d_model, config.d_model)

    def forward(self, x: Tensor) -> Tensor:
        B, T, D = x.shape
        qkv = self.qkv(x).view(B, T, 3, self.n_heads, D // self.n_heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind()  # each (B, H, T, E)
        mixed = attend(q, k, v, dropout=self.dropout if self.training else 0.0)
        return self.out(mixed.transpose(1, 2).reshape(B, T, D))  # type: ignore[no-any-return]


class Block(nn.Module):
    """x + attention(norm(x)), then x + feed-forward(norm(x)): equations 2 and 3."""

    def __init__(self, config: PictureConfig) -> None:
        super().__init__()
        D = config.d_model
        self.norm_1 = LayerNorm(D, config.norm_eps)
        self.attention = Attention(config)
        self.norm_2 = LayerNorm(D, config.norm_eps)
        self.up = nn.Linear(D, config.d_ff)
        self.down = nn.Linear(config.d_ff, D)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.dropout(self.attention(self.norm_1(x)))
        return x + self.dropout(self.down(F.gelu(self.up(self.norm_2(x)))))  # type: ignore[no-any-return]


class GridPositions(nn.Module):
    """A vector for each place of a grid of patches; other grids get them interpolated.

    Args:
        config: `positions` "learned" is a table, "sinusoidal" the fixed vectors of `sinusoids`.
        first: how many learned vectors stand before the grid's, for class tokens.
    """

    def __init__(self, config: PictureConfig, first: int = 0) -> None:
        super().__init__()
        self.grid, self.first, self.d_model = config.grid, first, config.d_model
        self.weight: nn.Parameter | None = None
        if config.positions == "learned":
            self.weight = nn.Parameter(torch.zeros(first + self.grid**2, self.d_model))

    def forward(self, x: Tensor, rows: int, columns: int) -> Tensor:
        """Tokens x (B, first + rows * columns, D) with their places added."""
        return x + self.places(rows, columns).to(x)

    def places(self, rows: int, columns: int) -> Tensor:
        """The vectors of a grid (first + rows * columns, D); sinusoids have zeros for `first`."""
        if self.weight is None:
            return F.pad(sinusoids(rows, columns, self.d_model), (0, 0, self.first, 0))
        if (rows, columns) == (self.grid, self.grid):
            return self.weight
        own, table = self.weight[: self.first], self.weight[self.first :]
        square = table.view(1, self.grid, self.grid, -1).permute(0, 3, 1, 2)  # (1, D, G, G)
        other = F.interpolate(square.float(), (rows, columns), mode="bicubic")
        return torch.cat([own, other.flatten(2)[0].T.to(own.dtype)])

    def resized(self, config: PictureConfig) -> Tensor:
        """The table for pictures of another size, for a module that is adapted to them."""
        return self.places(config.grid, config.grid)


def sinusoids(rows: int, columns: int, d_model: int) -> Tensor:
    """Sines and cosines of the column in the first half, of the row in the second.

    Chen, Xie & He 2021, "An Empirical Study of Training Self-Supervised Vision Transformers",
    arXiv:2104.02057: the 1-D ones of Vaswani et al. 2017, one for each axis.

    Returns:
        (rows * columns, d_model), row by row.
    """
    quarter = d_model // 4
    rates = 10_000 ** (-torch.arange(quarter) / quarter)  # (D/4,)
    y = (torch.arange(rows)[:, None] * rates).repeat_interleave(columns, 0)  # (N, D/4)
    x = (torch.arange(columns)[:, None] * rates).repeat(rows, 1)
    return torch.cat([x.sin(), x.cos(), y.sin(), y.cos()], dim=1)


def check_pixels(pixels: Tensor, config: PictureConfig, multiple: int = 1) -> None:
    """Raise `InputError` for pictures that a module cannot read."""
    if pixels.dim() != 4 or pixels.shape[1] != config.n_channels:
        raise InputError(
            f"Pixels must be (B, {config.n_channels}, height, width), got {tuple(pixels.shape)}"
        )
    height, width = pixels.shape[2:]
    if height % multiple or width % multiple or not height or not width:
        raise InputError(
            f"A picture of {height} x {width} pixels cannot be cut into squares of {multiple}: "
            f"bring it to multiples of {multiple}"
        )


def reset(module: nn.Module) -> None:
    """Truncated normal of deviation 0.02, biases 0, as published; norms stay 1 and 0."""
    for name, parameter in module.named_parameters():
        if parameter.dim() > 1:
            nn.init.trunc_normal_(parameter, std=0.02, a=-0.04, b=0.04)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)


class ViT(nn.Module):
    """Pixels to logits."""

    config_class = ViTConfig
    beside = {"preprocessor": "preprocessor_config.json"}  # how checkpoints want their pixels

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        D, P = config.d_model, config.patch_size
        classes = int(config.pooling == "first")
        self.patch_embedding = nn.Conv2d(config.n_channels, D, P, stride=P)
        self.class_token = nn.Parameter(torch.zeros(D)) if classes else None
        self.positions = GridPositions(config, classes)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = LayerNorm(D, config.norm_eps)
        self.head = nn.Linear(D, len(config.labels))
        reset(self)

    def hidden(self, pixels: Tensor) -> Tensor:
        """The vector of each token.

        Args:
            pixels: pictures (B, C, height, width), normalised; both sides multiples of P.

        Returns:
            Vectors (B, T, D): the class token's first, if there is one; the patches row by row.

        Raises:
            InputError: another number of channels, or sides that are no multiples of P.
        """
        check_pixels(pixels, self.config, self.config.patch_size)
        patches = self.patch_embedding(pixels)  # (B, D, rows, columns)
        rows, columns = patches.shape[2:]
        x = patches.flatten(2).transpose(1, 2)  # (B, N, D)
        if self.class_token is not None:
            x = torch.cat([self.class_token.expand(len(x), 1, -1), x], dim=1)
        x = self.dropout(self.positions(x, rows, columns))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)  # type: ignore[no-any-return]

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (B, L) of pictures (B, C, height, width); raises as `hidden` does."""
        hidden = self.hidden(pixels)
        pooled = hidden[:, 0] if self.class_token is not None else hidden.mean(1)  # (B, D)
        return self.head(self.dropout(pooled))  # type: ignore[no-any-return]

    @classmethod
    def from_transformers(cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> "ViT":
        """A `ViTForImageClassification` checkpoint; every tensor is used.

        Raises:
            ConfigError: a setting that is not read here, or pictures that are read otherwise.
            WeightsError: tensors that lack, or of other shapes.
        """
        if config.get("hidden_act", "gelu") != "gelu":
            raise ConfigError(f"ViT with the activation {config['hidden_act']!r} is not read")
        if not config.get("qkv_bias", True):
            raise ConfigError("ViT without biases of query, key and value is not read")
        kind = (config.get("architectures") or ["ViTForImageClassification"])[0]
        if kind != "ViTForImageClassification":
            raise ConfigError(f"{kind} is not read; ViTForImageClassification is")
        names = config.get("id2label") or {"0": "LABEL_0", "1": "LABEL_1"}
        colours = config.get("preprocessor", {})
        channels, size = config.get("num_channels", 3), config.get("image_size", 224)
        check_processor(colours, size)
        plain, half = colours.get("do_normalize") is False, (0.5,) * channels
        module = cls(
            ViTConfig(
                image_size=size,
                patch_size=config.get("patch_size", 16),
                d_model=config["hidden_size"],
                n_layers=config["num_hidden_layers"],
                n_heads=config["num_attention_heads"],
                d_ff=config["intermediate_size"],
                n_channels=channels,
                labels=tuple(names[key] for key in sorted(names, key=int)),
                norm_eps=config.get("layer_norm_eps", 1e-12),
                image_mean=(0,) * channels if plain else colours.get("image_mean", half),
                image_std=(1,) * channels if plain else colours.get("image_std", half),
            )
        )
        found = dict(tensors)
        for layer in range(module.config.n_layers):
            own = f"vit.encoder.layer.{layer}.attention.attention"
            for part in ("weight", "bias"):
                pieces = [found.pop(f"{own}.{name}.{part}", None) for name in QKV]
                if any(piece is None for piece in pieces):
                    raise WeightsError(f"The checkpoint lacks {own}.query, key or value .{part}")
                found[f"{own}.qkv.{part}"] = torch.cat([p for p in pieces if p is not None])

        def fold(name: str, tensor: Tensor) -> Tensor:
            axes = AXES.get(name, 0)
            if tensor.shape[:axes] != (1,) * axes:
                raise WeightsError(f"The checkpoint's {name} is {tuple(tensor.shape)}")
            return tensor.view(tensor.shape[axes:])

        load_renamed(module, found, transformers_names(module.config), fold)
        return module

    def to_transformers(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """The same model as `ViTForImageClassification`: `config.json` and tensors.

        Raises:
            ConfigError: it pools by the mean, or its positions are not learned.
        """
        c = self.config
        if c.pooling != "first" or c.positions != "learned":
            raise ConfigError(
                "ViTForImageClassification has a class token and learned positions; this one has "
                f"pooling={c.pooling!r} and positions={c.positions!r}"
            )
        config = {
            "model_type": "vit",
            "architectures": ["ViTForImageClassification"],
            "image_size": c.image_size,
            "patch_size": c.patch_size,
            "num_channels": c.n_channels,
            "hidden_size": c.d_model,
            "num_hidden_layers": c.n_layers,
            "num_attention_heads": c.n_heads,
            "intermediate_size": c.d_ff,
            "hidden_act": "gelu",
            "qkv_bias": True,
            "layer_norm_eps": c.norm_eps,
            "hidden_dropout_prob": c.dropout,
            "attention_probs_dropout_prob": c.dropout,
            "id2label": {str(index): label for index, label in enumerate(c.labels)},
            "label2id": {label: index for index, label in enumerate(c.labels)},
            "preprocessor": {
                "image_processor_type": "ViTImageProcessor",
                "size": {"height": c.image_size, "width": c.image_size},
                "image_mean": list(c.image_mean),
                "image_std": list(c.image_std),
            },
        }
        state, tensors = self.state_dict(), {}
        for ours, theirs in transformers_names(c).items():
            tensor = state[ours]
            tensor = tensor.view(*(1,) * AXES.get(ours, 0), *tensor.shape)
            if ".qkv." in theirs:
                for name, part in zip(QKV, tensor.chunk(3), strict=True):
                    tensors[theirs.replace("qkv", name)] = part.contiguous()
            else:
                tensors[theirs] = tensor
        return config, tensors


def check_processor(values: Mapping[str, Any], size: int) -> None:
    """Raise `ConfigError` unless pictures are brought to size x size bilinearly, and to 0 to 1.

    Nothing else is computed here: weights that were trained otherwise would be read wrong.

    Args:
        values: of `preprocessor_config.json`; what it lacks is as in `ViTImageProcessor`.
        size: pixels a side.
    """
    kind = values.get("image_processor_type", values.get("feature_extractor_type", "ViT"))
    sides = values.get("size", size)
    wrong = {
        "image_processor_type": None if str(kind).startswith("ViT") else kind,
        "size": None if sides in (size, {"height": size, "width": size}) else sides,
    }
    for key, right in PROCESSOR.items():
        value = values.get(key)
        wrong[key] = None if value is None or value == right else value
    if told := [f"{key}={value!r}" for key, value in wrong.items() if value is not None]:
        raise ConfigError(
            f"preprocessor_config.json says {', '.join(told)}: ViT reads pictures that are brought "
            f"to {size} x {size}, bilinearly and uncropped, with pixels from 0 to 1"
        )


PROCESSOR = {  # of `ViTImageProcessor`, 2 is Pillow's number of bilinear
    "do_resize": True,
    "resample": 2,
    "do_center_crop": False,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
}
QKV = ("query", "key", "value")
AXES = {"class_token": 2, "positions.weight": 1}  # of size 1 in front, which checkpoints have


def transformers_names(config: ViTConfig) -> dict[str, str]:
    """Our parameter names to those of checkpoints; q, k and v stand as one `qkv`."""
    names = {
        "class_token": "vit.embeddings.cls_token",
        "positions.weight": "vit.embeddings.position_embeddings",
    }
    pairs = {
        "patch_embedding": "vit.embeddings.patch_embeddings.projection",
        "norm": "vit.layernorm",
        "head": "classifier",
    }
    parts = {
        "norm_1": "layernorm_before",
        "attention.qkv": "attention.attention.qkv",
        "attention.out": "attention.output.dense",
        "norm_2": "layernorm_after",
        "up": "intermediate.dense",
        "down": "output.dense",
    }
    for layer in range(config.n_layers):
        for ours, theirs in parts.items():
            pairs[f"blocks.{layer}.{ours}"] = f"vit.encoder.layer.{layer}.{theirs}"
    for ours, theirs in pairs.items():
        for kind in ("weight", "bias"):
            names[f"{ours}.{kind}"] = f"{theirs}.{kind}"
    return names
