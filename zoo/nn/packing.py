"""Several texts in one row, none of which sees another.

Letters: B rows, T length, H heads, E width of a head, N texts, L length of the longest.
"""

import torch
from torch import Tensor

from zoo.errors import InputError


class NotPackable(InputError):
    """A module does not ask its cache which columns a token may see."""


class Packed:
    """What a decoder takes in the place of a cache, to read packed rows.

    A decoder that asks its cache for `positions` and `mask` needs no other change: each text's
    positions begin at 0, and a token sees its own text up to itself. Nothing is kept.

    Args:
        segments: which text a token belongs to, from 1 on; 0 for padding, (B, T).
    """

    length = 0  # nothing was read before

    def __init__(self, segments: Tensor) -> None:
        self.segments = segments

    @property
    def padding(self) -> Tensor:
        """Not what keeps the texts of a row apart: who asks for it would mix them.

        Raises:
            NotPackable: always.
        """
        raise NotPackable("This module asks for padding and not for a mask: rows cannot be packed")

    def positions(self, T: int) -> Tensor:
        """The place of each token in its own text, (B, T)."""
        steps = torch.arange(T, device=self.segments.device).expand_as(self.segments)
        begins = torch.ones_like(self.segments, dtype=torch.bool)
        begins[:, 1:] = self.segments[:, 1:] != self.segments[:, :-1]
        return steps - (steps * begins).cummax(dim=1).values

    def mask(self, T: int) -> Tensor:
        """True = may attend, (B, 1, T, T): the same text, not later; padding among itself."""
        same = self.segments[:, :, None] == self.segments[:, None, :]  # (B, T, T)
        return (same.tril())[:, None]

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, T, E) as they come."""
        return k, v

    def advance(self, T: int) -> None:
        """Nothing is kept."""


def unpack(values: Tensor, segments: Tensor, fill: int = 0) -> Tensor:
    """Each text in a row of its own, (N, L), in their order.

    Args:
        values: of each token, (B, T).
        segments: as in `Packed`.
        fill: stands behind shorter texts.
    """
    texts = [
        row[segs == n] for row, segs in zip(values, segments, strict=True) for n in _texts(segs)
    ]
    return torch.nn.utils.rnn.pad_sequence(texts, batch_first=True, padding_value=fill)


def _texts(segments: Tensor) -> range:
    return range(1, int(segments.max()) + 1)
