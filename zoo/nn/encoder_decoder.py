"""How an encoder-decoder is called, by whoever trains it or lets it write.

Letters: P sources, R targets (several to a source in beam search), B pairs, S source length, T
target length, D width, V vocabulary, C channels, I pixels a side, N vectors of a picture.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from zoo.errors import ContextLengthError, InputError
from zoo.nn.cache import SourceCache


class EncoderDecoder(nn.Module, ABC):
    """Source and target ids to logits of the target's next tokens.

    A subclass writes `read` and `write`, sets `config` and `max_len`, and is called by `encode` and
    `decode`, or by both at once.

    Attributes:
        config: has `pad_id`, `start_id` that a target is read behind, and `end_id` that a source
            and a target end with.
        max_len: positions of a source and of a target; None where they go on.
    """

    config: Any
    max_len: int | None

    def encode(self, source: Tensor, real: Tensor | None = None) -> Tensor:
        """Read sources.

        Args:
            source: token ids (P, S).
            real: True where a token is no padding (P, S); all but `pad_id` unless given.

        Returns:
            The memory, a vector for each token (P, S, D); those of padding mean nothing.

        Raises:
            ContextLengthError: more tokens than there are positions.
        """
        S = source.shape[1]
        if self.max_len is not None and S > self.max_len:
            raise ContextLengthError(
                f"The source has {S} tokens with its end, this model has {self.max_len} positions: "
                "give it in parts, such as its sentences"
            )
        return self.read(source, self.real(source) if real is None else real)

    def decode(
        self, ids: Tensor, memory: Tensor, real: Tensor | None, cache: SourceCache | None = None
    ) -> Tensor:
        """Logits of the next token at every position of targets.

        Args:
            ids: token ids (R, T), R a multiple of P, the R/P targets of a source side by side; with
                a cache the continuation of what it holds. Padding stands on the right.
            memory: what `encode` gave (P, S, D).
            real: True where a token of the source is no padding (P, S); None when none is.
            cache: keys and values so far, filled by T more columns; one serves one memory only.

        Returns:
            Logits (R, T, V).

        Raises:
            ContextLengthError: a target longer than there are positions.
        """
        T = ids.shape[1]
        length = T if cache is None else cache.length + T
        if self.max_len is not None and length > self.max_len:
            raise ContextLengthError(
                f"The target has {length} tokens with its start, this model has {self.max_len} "
                "positions: ask for fewer new tokens"
            )
        logits = self.write(ids, memory, real, cache)
        if cache is not None:
            cache.advance(T)
        return logits

    def forward(self, source: Tensor, ids: Tensor, real: Tensor | None = None) -> Tensor:
        """Logits of targets (B, T, V), all positions at once.

        Args:
            source: token ids of the sources (B, S).
            ids: token ids of the targets (B, T), each begun with `start_id`.
            real: as in `encode`.

        Raises:
            ContextLengthError: a source or target longer than there are positions.
        """
        real = self.real(source) if real is None else real
        return self.decode(ids, self.encode(source, real), real)

    def real(self, source: Tensor) -> Tensor:
        """Where a source is no padding."""
        return source != self.config.pad_id  # type: ignore[no-any-return]

    @abstractmethod
    def read(self, source: Tensor, real: Tensor) -> Tensor:
        """`encode`, of sources that fit."""

    @abstractmethod
    def write(
        self, ids: Tensor, memory: Tensor, real: Tensor | None, cache: SourceCache | None
    ) -> Tensor:
        """`decode`, of targets that fit; the cache is filled, not advanced."""


class VisionEncoderDecoder(EncoderDecoder):
    """Pixels and the ids of captions to logits of the captions' next tokens.

    Its sources are pictures, of which nothing is padding.

    Attributes:
        config: has `image_size` (I), `n_channels` (C), `image_mean` and `image_std` besides what an
            encoder-decoder's has; no `pad_id` is needed.
    """

    def encode(self, source: Tensor, real: Tensor | None = None) -> Tensor:
        """Read pictures.

        Args:
            source: pixels (P, C, I, I), normalised.
            real: not asked for.

        Returns:
            The memory: vectors of what stands where in the picture (P, N, D).

        Raises:
            InputError: other channels or sides.
        """
        c = self.config
        if source.dim() != 4 or source.shape[1:] != (c.n_channels, c.image_size, c.image_size):
            raise InputError(
                f"Pixels must be (B, {c.n_channels}, {c.image_size}, {c.image_size}), "
                f"got {tuple(source.shape)}"
            )
        return self.read(source, self.real(source))

    def forward(self, pixels: Tensor, ids: Tensor, real: Tensor | None = None) -> Tensor:
        """Logits of captions (B, T, V), all positions at once.

        Args:
            pixels: (B, C, I, I), normalised.
            ids: token ids of the captions (B, T), each begun with `start_id`.
            real: not asked for.

        Raises:
            InputError: other channels or sides.
            ContextLengthError: a caption longer than there are positions.
        """
        return self.decode(ids, self.encode(pixels), None)

    def real(self, source: Tensor) -> Tensor:
        """Nothing of pictures is padding: (P, 1)."""
        return source.new_ones(len(source), 1, dtype=torch.bool)
