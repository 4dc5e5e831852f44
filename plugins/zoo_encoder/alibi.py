"""A bidirectional encoder without position vectors: half of the heads look back, half ahead.

Source:
    Press, Smith & Lewis 2022, "Train Short, Test Long: Attention with Linear Biases Enables Input
    Length Extrapolation", arXiv:2108.12409, section 3; for masked-language pre-training Portes et
    al. 2023, "MosaicBERT", arXiv:2312.17482, section 3.1.

The idea: an encoder that adds a vector for each position has to learn from nothing which of them
are neighbours, and fills in masks by word frequencies until it has. Here every head knows from the
first step: a score loses slope * distance, and each head has its own slope, so that the steepest
look at the words around a mask and the flattest at the whole text. Any length can be read, and
short texts teach what long ones need.

A distance alone does not tell left from right. So the first half of the heads sees a token and what
stands before it, as in the paper, and the second half the token and what follows.

Differences from the papers: MosaicBERT takes the distance off in both directions in every head, and
reads a text backwards like the text itself. Blocks, pooling and heads are those of
`zoo_encoder.model`, in which the norm stands before each sublayer unless said otherwise.

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

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.n_heads % 2:
            raise ConfigError(
                f"n_heads is {self.n_heads}: half of the heads look back and half ahead, so it "
                "must be even"
            )


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
        self.register_buffer("slopes", slopes(config.n_heads // 2), persistent=False)

    def mask(self, real: Tensor) -> Tensor:
        """-slope * distance, and -inf for the other direction and for padding: (B, H, T, S).

        A token always sees itself, padding too: in the heads that look away from the text its row
        would be nothing but -inf.
        """
        place = torch.arange(real.shape[1], device=real.device)
        behind = place[:, None] - place[None, :]  # (T, S), how far a column lies behind its row
        falls = self.slopes[:, None, None] * behind  # (H/2, T, S)
        back = (-falls).masked_fill(behind < 0, -math.inf)
        ahead = falls.masked_fill(behind > 0, -math.inf)
        bias = torch.cat([back, ahead])  # (H, T, S)
        if torch.is_autocast_enabled(real.device.type):  # once, not by each layer
            bias = bias.to(torch.get_autocast_dtype(real.device.type))
        return bias.masked_fill(~real[:, None, None, :] & (behind != 0), -math.inf)

    @classmethod
    def from_transformers(
        cls, config: Mapping[str, Any], tensors: Mapping[str, Tensor]
    ) -> NoReturn:
        """There is no such model in `transformers`."""
        raise ConfigError("transformers has no encoder whose scores fall off with the distance")

    def to_transformers(self) -> NoReturn:
        """There is no such model in `transformers`."""
        raise ConfigError("transformers has no encoder whose scores fall off with the distance")
