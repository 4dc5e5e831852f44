"""The key/value cache: memory taken once, filled a step at a time."""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from zoo.nn.attention import causal_mask


class Cache:
    """Keys and values of every layer for a batch, preallocated to `max_len` columns.

    A model reads `length` and `positions` before its layers run, calls `update` in each layer, and
    `advance` once at the end. Rows shorter than the longest prompt are padded on the left;
    `padding` says by how many columns.

    Args:
        n_layers: layers that hold keys and values.
        batch: rows.
        n_kv_heads: key/value heads a layer.
        max_len: columns, prompt and continuation together.
        d_head: width of a head.
        padding: left padding columns of each row, (B,), or None when there are none.
        dtype: of keys and values.
        device: where they live.
    """

    # keys, then values, of each layer: the columns that come next, and all up to them
    _columns: tuple[tuple[Tensor, ...], tuple[Tensor, ...]] | None = None
    _of: tuple[Tensor, int, int] | None = None  # the memory, length and number of those

    def __init__(
        self,
        n_layers: int,
        batch: int,
        n_kv_heads: int,
        max_len: int,
        d_head: int,
        *,
        padding: Tensor | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        shape = (n_layers, 2, batch, n_kv_heads, max_len, d_head)
        self.memory = torch.zeros(shape, dtype=dtype, device=device)
        self.padding = padding if padding is not None and bool(padding.any()) else None
        self._other: Tensor | None = None
        self.length = 0  # columns filled
        self.max_len = max_len

    @classmethod
    def of(
        cls,
        config: Any,
        batch: int,
        max_len: int,
        *,
        padding: Tensor | None = None,
        like: Tensor | None = None,
    ) -> Self:
        """A cache for a config: `n_layers`, `n_kv_heads` or `n_heads`, `d_head` or `d_model`.

        Args:
            config: of the model.
            batch: rows.
            max_len: columns.
            padding: left padding columns of each row, (B,).
            like: a tensor with the dtype and device of the keys.
        """
        return cls(
            config.n_layers,
            batch,
            getattr(config, "n_kv_heads", config.n_heads),
            max_len,
            getattr(config, "d_head", config.d_model // config.n_heads),
            padding=padding,
            dtype=None if like is None else like.dtype,
            device=None if like is None else like.device,
        )

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append a layer's keys and values (B, H_kv, T, E); all so far return (B, H_kv, S, E)."""
        new, filled = self._views(k.shape[2])
        new[2 * layer].copy_(k)
        new[2 * layer + 1].copy_(v)
        return filled[2 * layer], filled[2 * layer + 1]

    def _views(self, T: int) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Looks at the memory, taken for all layers at once: for each they would cost as much."""
        memory, length, columns = self._of or (None, 0, 0)
        if memory is not self.memory or (length, columns) != (self.length, T):
            self._of = self.memory, self.length, T
            each = self.memory.flatten(0, 1)  # (2 L, B, H, S, E)
            new, filled = each.narrow(3, self.length, T), each.narrow(3, 0, self.length + T)
            self._columns = new.unbind(), filled.unbind()
        assert self._columns is not None
        return self._columns

    def advance(self, T: int) -> None:
        """Count T more columns as filled, after the last layer."""
        self.length += T
        self._of = None

    def positions(self, T: int) -> Tensor:
        """Positions of the next T tokens in their own text: (1, T), or (B, T), 0 on padding."""
        steps = torch.arange(self.length, self.length + T, device=self.memory.device)[None]
        return steps if self.padding is None else (steps - self.padding[:, None]).clamp(min=0)

    def mask(self, T: int) -> Tensor | None:
        """The causal mask for the next T queries; None where `attend(causal=True)` is enough."""
        if self.padding is None and (T == 1 or self.length == 0):
            return None
        return causal_mask(T, self.length + T, self.padding, device=self.memory.device)

    def reorder(self, rows: Tensor) -> None:
        """Keep the rows (B,), in that order: how beam search moves its hypotheses.

        They may be fewer than before.
        """
        if len(rows) < self.memory.shape[2]:
            self.memory, self._other = self.memory.index_select(2, rows), None
        else:
            # into a second memory, and the other way next time: a third of the time within one
            other = torch.empty_like(self.memory) if self._other is None else self._other
            filled, moved = (each.narrow(4, 0, self.length) for each in (self.memory, other))
            torch.index_select(filled, 2, rows, out=moved)
            self.memory, self._other = other, self.memory
        if self.padding is not None:
            self.padding = self.padding[rows]


class SourceCache(Cache):
    """A cache for a decoder that looks at a source too, whose keys and values are computed once.

    Several rows side by side may share one source: `reorder` moves rows among those of their own
    source only, as beam search does, so that the source's part stays where it is; of fewer rows it
    keeps whole sources.
    """

    def __init__(self, *sizes: int, **options: Any) -> None:
        super().__init__(*sizes, **options)
        self._sources: dict[int, tuple[Tensor, Tensor]] = {}

    def source(
        self, layer: int, make: Callable[[], tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Keys and values (P, H, S, E) of the source for a layer; `make` is called once for it."""
        if layer not in self._sources:
            self._sources[layer] = make()
        return self._sources[layer]

    def reorder(self, rows: Tensor) -> None:
        """Keep the rows (R,), in that order: all of each source that is kept, side by side."""
        before = self.memory.shape[2]
        if len(rows) < before:
            for layer, (k, v) in self._sources.items():
                kept = sources_of(rows, before, len(k))
                self._sources[layer] = k.index_select(0, kept), v.index_select(0, kept)
        super().reorder(rows)


def sources_of(rows: Tensor, before: int, sources: int) -> Tensor:
    """Which sources rows belong to, each once.

    Args:
        rows: places among those before, all of each source side by side.
        before: how many rows there were.
        sources: how many sources.
    """
    each = before // sources
    return rows[::each] // each
