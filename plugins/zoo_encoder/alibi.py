"""A bidirectional encoder without position vectors: attention scores fall off with the distance.

Source:
    Press, Smith & Lewis 2022, "Train Short, Test Long: Attention with Linear Biases Enables Input
    Length Extrapolation", arXiv:2108.12409, section 3; in both directions and for masked-language
    pre-training Portes et al. 2023, "MosaicBERT", arXiv:2312.17482, section 3.1.

The idea: an encoder that adds a vector for each position has to learn from nothing which of them
are neighbours, and fills in masks by word frequencies until it has. Here every head knows from the
first step: a score loses slope * distance, and each head has its own slope, so that the steepest
look at the words around a mask and the flattest at the whole text. Any length can be read, and
short texts teach what long ones need.

What it costs: a distance does not tell left from right. Only the token that begins a text shows
which end is which; without it a text read backwards gives the same vectors, backwards.

Differences from the paper: only the distances are MosaicBERT's; blocks, pooling and heads are those
of `zoo_encoder.model`, in which the norm stands before each sublayer unless said otherwise.

Letters: as there; S is T as columns.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor

from zoo.errors import ConfigError
from zoo_encoder.model import Encoder, EncoderConfig


@dataclass(frozen=True, kw_only=True)
class AlibiEncoderConfig(EncoderConfig):
    """As `EncoderConfig`; `max_seq_len` is what is read of a text, the module itself reads more."""

    norm: str = "pre"
    pooling: str = "mean"


def slopes(n_heads: int) -> Tensor:
    """What each head takes off a score for every step of distance, (H,), all above 0.

    For H a power of two: the geometric sequence that starts at 2^(-8/H) and multiplies by itself.
    For other H (the authors' code): that of the next lower power of two, then every other value of
    the next higher one's.
    """

    def geometric(n: int) -> list[float]:
        return [2 ** (-8 * (head + 1) / n) for head in range(n)]

    power = 2 ** math.floor(math.log2(n_heads))
    return torch.tensor(geometric(power) + geometric(2 * power)[0::2][: n_heads - power])


class AlibiEncoder(Encoder):
    """Token ids to what the head gives, with distances in place of positions."""

    config_class = AlibiEncoderConfig

    def __init__(self, config: AlibiEncoderConfig) -> None:
        super().__init__(config)
        self.max_len, self.position_embedding = None, None  # any length is read
        self.slopes: Tensor
        self.register_buffer("slopes", slopes(config.n_heads), persistent=False)

    def mask(self, real: Tensor) -> Tensor:
        """-slope * distance, and -inf for padding: (B, H, T, S)."""
        place = torch.arange(real.shape[1], device=real.device)
        distance = (place[:, None] - place[None, :]).abs()  # (T, S)
        bias = -self.slopes[:, None, None] * distance  # (H, T, S)
        if torch.is_autocast_enabled(real.device.type):  # once, not by each layer
            bias = bias.to(torch.get_autocast_dtype(real.device.type))
        return bias.masked_fill(~real[:, None, None, :], -math.inf)

    @classmethod
    def from_transformers(
        cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> NoReturn:
        """There is no such model in `transformers`."""
        raise ConfigError("transformers has no encoder whose scores fall off with the distance")

    def to_transformers(self) -> NoReturn:
        """There is no such model in `transformers`."""
        raise ConfigError("transformers has no encoder whose scores fall off with the distance")
