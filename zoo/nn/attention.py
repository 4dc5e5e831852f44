"""Scaled dot-product attention (Vaswani et al. 2017, arXiv:1706.03762, eq. 1).

Two paths, proved equal by the tests: the plain one, written out, which also gives the weights; and
PyTorch's fused one, which runs by default. `PlainAttention` puts the first in place of the second,
in modules of other libraries too.

Letters: B batch, H heads, T query length, S key length, E d_head.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

MOST = 1 << 27  # scores of a layer that may stand in memory unseen: 256 MB in bfloat16


def plain_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """softmax(q k^T * scale + mask) v, each step spelled out.

    Args:
        q: queries (B, H, T, E).
        k: keys (B, H, S, E).
        v: values (B, H, S, E).
        mask: either boolean, True = may attend, or float, added to the scores (-inf = may not);
            broadcasts to (B, H, T, S).
        scale: factor on the scores, 1/sqrt(E) unless given.
        dropout: probability of dropping an attention weight.

    Returns:
        The mixed values (B, H, T, E) and the weights (B, H, T, S), whose rows sum to 1 as far as
        the dtype goes.
    """
    q = q * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    scores = q @ k.transpose(-2, -1)  # (B, H, T, S)
    if mask is not None:
        if mask.dtype == torch.bool:  # adding costs less than filling in, above all backwards
            mask = torch.zeros_like(mask, dtype=scores.dtype).masked_fill(~mask, -math.inf)
        scores = scores + mask
    weights = scores.softmax(dim=-1)  # (B, H, T, S); sums in float32 whatever the dtype
    return F.dropout(weights, dropout) @ v, weights


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention by the fused path, or by the plain one inside `PlainAttention`.

    Arguments and result as in `plain_attention`, without the weights. Fewer key heads than query
    heads are shared by their group (grouped-query attention, Ainslie et al. 2023,
    arXiv:2305.13245): k and v may be (B, H_kv, S, E) with H a multiple of H_kv.

    Args:
        q: queries (B, H, T, E).
        k: keys (B, H_kv, S, E).
        v: values (B, H_kv, S, E).
        mask: as in `plain_attention`.
        causal: without a mask, no query sees what comes after it. The queries then are all S
            columns, or the last one alone, which sees everything.
        scale: as in `plain_attention`.
        dropout: as in `plain_attention`.
    """
    groups = q.shape[1] // k.shape[1]
    # of a token that is written; of many queries not every device's kernels share keys
    shared = bool(groups > 1 and q.shape[2] == 1)
    if groups > 1 and not shared:
        k, v = (
            k.repeat_interleave(groups, dim=1),
            v.repeat_interleave(groups, dim=1),
        )  # (B, H, S, E)
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(q.dtype)  # the fused kernel wants one dtype; autocast makes q bfloat16
    causal = causal and mask is None and q.shape[2] > 1
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        scale=scale,
        dropout_p=dropout,
        is_causal=causal,
        enable_gqa=shared,
    )


def attend_source(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None = None,
    *,
    scale: float | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Attention to a source that several rows share, as the beams of one sentence do.

    The rows of one source stand side by side; they are its queries, and its keys and values are
    not repeated for them. Letters besides: R rows, P sources, R a multiple of P.

    Args:
        q: queries (R, H, T, E).
        k: keys (P, H, S, E).
        v: values (P, H, S, E).
        mask: boolean, True = may attend, broadcast to (P, 1, 1, S).
        scale: as in `plain_attention`.
        dropout: as in `plain_attention`.

    Returns:
        The mixed values (R, H, T, E).
    """
    R, H, T, E = q.shape
    P = k.shape[0]
    if R == P:
        return attend(q, k, v, mask, scale=scale, dropout=dropout)
    q = q.view(P, R // P, H, T, E).transpose(1, 2).reshape(P, H, -1, E)  # (P, H, K T, E)
    mixed = attend(q, k, v, mask, scale=scale, dropout=dropout)
    return mixed.view(P, H, R // P, T, E).transpose(1, 2).reshape(R, H, T, E)


class AttentionMode(TorchFunctionMode):
    """While it is entered, calls of torch's fused attention are calls of `attention`.

    In modules of other libraries too. A subclass says what that computes.
    """

    def attention(self, *args: Any, **kwargs: Any) -> Tensor:
        """As `torch.nn.functional.scaled_dot_product_attention`."""
        raise NotImplementedError

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        called = self.attention if func is F.scaled_dot_product_attention else func
        return called(*args, **(kwargs or {}))


class PlainAttention(AttentionMode):
    """While it is entered, torch's fused attention is computed by `plain_attention`.

    Not where a layer has more than `MOST` scores, unless its weights are wanted: the fused path
    keeps none.

    Args:
        weights: a list that gets those of each attention, (B, H, T, S), in layer order.
    """

    def __init__(self, weights: list[Tensor] | None = None) -> None:
        super().__init__()
        self.weights = weights

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func is F.multi_head_attention_forward and self.weights is not None:
            kwargs = dict(kwargs or {})
            # what `nn.MultiheadAttention` calls: torch hands on no call inside it
            asked = kwargs.get("need_weights", True)
            average = kwargs.get("average_attn_weights", True)
            each = {"need_weights": True, "average_attn_weights": False}
            mixed, weights = func(*args, **kwargs | each)
            self.weights.append(weights)
            if not asked:
                return mixed, None
            return mixed, weights.mean(-3) if average else weights
        return super().__torch_function__(func, types, args, kwargs)

    def attention(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """As `torch.nn.functional.scaled_dot_product_attention`, whose arguments these are."""
        q, k, v = query, key, value
        if self.weights is None and q.shape[:-1].numel() * k.shape[-2] > MOST:
            return F.scaled_dot_product_attention(
                q, k, v, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
            )
        if enable_gqa:
            groups = q.shape[-3] // k.shape[-3]
            k, v = k.repeat_interleave(groups, dim=-3), v.repeat_interleave(groups, dim=-3)
        if is_causal:
            attn_mask = causal_mask(q.shape[-2], k.shape[-2], device=q.device)[0, 0]
        if self.weights is None:
            return plain_attention(q, k, v, attn_mask, scale=scale, dropout=dropout_p)[0]
        exact = (q.float(), k.float(), v.float())  # so that rows sum to 1
        mixed, weights = plain_attention(*exact, attn_mask, scale=scale, dropout=dropout_p)
        self.weights.append(weights)
        return mixed.to(q.dtype)


@contextmanager
def record_attention() -> Iterator[list[Tensor]]:
    """Run attention by the plain path and collect its weights.

    Yields:
        A list that gets one (B, H, T, S) tensor for each attention, in layer order: of `attend`,
        of torch's `scaled_dot_product_attention` and of its `MultiheadAttention`.
    """
    collected: list[Tensor] = []
    with PlainAttention(collected):
        yield collected


def causal_mask(
    T: int, S: int, padding: Tensor | None = None, *, device: torch.device | None = None
) -> Tensor:
    """Which key column each query row may see: itself, what came before it, no padding.

    Args:
        T: number of queries; they stand in the last T of the S columns.
        S: number of keys.
        padding: how many left columns of each row are padding, (B,), or None for none.
        device: where the mask is made.

    Returns:
        A boolean mask, True = may attend: (1, 1, T, S), or (B, 1, T, S) with padding. A padding
        query sees only itself, so that no softmax row is empty; nothing reads its result.
    """
    rows = torch.arange(S - T, S, device=device)[:, None]  # (T, 1)
    columns = torch.arange(S, device=device)[None, :]  # (1, S)
    mask = (columns <= rows)[None, None]  # (1, 1, T, S)
    if padding is None:
        return mask
    real = columns[None, None] >= padding[:, None, None, None]  # (B, 1, 1, S)
    return (mask & real) | (columns == rows)
