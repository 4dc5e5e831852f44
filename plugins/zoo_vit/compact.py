"""The Compact Convolutional Transformer: a Vision Transformer for small data.

Source:
    Hassani et al. 2021, "Escaping the Big Data Paradigm with Compact Transformers",
    arXiv:2104.05704, sections 3.3 and 3.4.

The idea: cutting a picture into squares throws away that neighbouring pixels belong together, which
a Vision Transformer then has to learn from very many pictures. A few convolutions with pooling give
patches that overlap and know it. And the class token, which costs every layer a row, gives way to a
softmax over the patches with a learned query ("sequence pooling", eq. 3).

Differences from the paper: no stochastic depth.

Letters: as in `zoo_vit.model`; G = image_size / 2^K for K convolutions.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zoo.nn import LayerNorm
from zoo_vit.model import Block, GridPositions, PictureConfig, check_pixels, reset


@dataclass(frozen=True, kw_only=True)
class CompactConfig(PictureConfig):
    """Sizes of a compact transformer.

    Attributes:
        n_convolutions: K; each is 3 x 3 and halves the picture's sides.
        stem_width: channels of all but the last, which has d_model.
    """

    n_convolutions: int = 1
    stem_width: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_positive("n_convolutions", "stem_width", "grid")

    @property
    def grid(self) -> int:
        """Patches a side, G; a side that cannot be halved is rounded up."""
        side = self.image_size
        for _ in range(self.n_convolutions):
            side = (side + 1) // 2
        return side


class Stem(nn.Module):
    """K times: a 3 x 3 convolution without bias, ReLU, the maximum of 3 x 3, by steps of two."""

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        widths = [config.n_channels, *[config.stem_width] * (config.n_convolutions - 1)]
        widths.append(config.d_model)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(before, after, 3, padding=1, bias=False)
            for before, after in zip(widths, widths[1:], strict=False)
        )
        for layer in self.convolutions:
            nn.init.kaiming_normal_(layer.get_parameter("weight"))

    def forward(self, pixels: Tensor) -> Tensor:
        """Pictures (B, C, height, width) to patches (B, D, rows, columns)."""
        for convolution in self.convolutions:
            pixels = F.max_pool2d(F.relu(convolution(pixels)), 3, stride=2, padding=1)
        return pixels


class CompactTransformer(nn.Module):
    """Pixels to logits."""

    config_class = CompactConfig

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.config = config
        self.positions = GridPositions(config)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = LayerNorm(config.d_model, config.norm_eps)
        self.pooling = nn.Linear(config.d_model, 1)
        self.head = nn.Linear(config.d_model, len(config.labels))
        reset(self)
        self.stem = Stem(config)

    def hidden(self, pixels: Tensor) -> Tensor:
        """The vector of each patch.

        Args:
            pixels: pictures (B, C, height, width), normalised.

        Returns:
            Vectors (B, N, D), the patches row by row.

        Raises:
            InputError: another number of channels.
        """
        check_pixels(pixels, self.config)
        patches = self.stem(pixels)  # (B, D, rows, columns)
        rows, columns = patches.shape[2:]
        x = patches.flatten(2).transpose(1, 2)  # (B, N, D)
        x = self.dropout(self.positions(x, rows, columns))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)  # type: ignore[no-any-return]

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits (B, L) of pictures (B, C, height, width); raises as `hidden` does."""
        hidden = self.hidden(pixels)
        weights = self.pooling(hidden).softmax(1)  # (B, N, 1)
        pooled = torch.sum(weights * hidden, dim=1)  # (B, D)
        return self.head(self.dropout(pooled))  # type: ignore[no-any-return]
