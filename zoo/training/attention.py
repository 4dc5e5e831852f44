"""Attention of a training in bfloat16 on a processor: the plain path, which is faster there.

The backward pass of PyTorch's fused attention takes two to ten times as long in bfloat16 as two
matrix products and a softmax (`docs/lab-notes.md`). This puts the plain path in its place, in our
own modules and in those of other libraries.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from zoo.nn.attention import causal_mask, plain_attention

MOST = 1 << 27  # scores of a layer that may stand in memory at once: 256 MB in bfloat16


class PlainAttention(TorchFunctionMode):
    """While it is entered, `scaled_dot_product_attention` is computed by `plain_attention`.

    Not where a layer has more than `MOST` scores: there the fused one, which keeps none.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **kwargs)
        return func(*args, **kwargs)


def _attention(
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
    if q.shape[:-1].numel() * k.shape[-2] > MOST:
        return F.scaled_dot_product_attention(
            q, k, v, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
        )
    if enable_gqa:
        groups = q.shape[-3] // k.shape[-3]
        k, v = k.repeat_interleave(groups, dim=-3), v.repeat_interleave(groups, dim=-3)
    if is_causal:
        attn_mask = causal_mask(q.shape[-2], k.shape[-2], device=q.device)[0, 0]
    return plain_attention(q, k, v, attn_mask, scale=scale, dropout=dropout_p)[0]


def attention_for(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """What a step is taken in: `PlainAttention` for bfloat16 on a processor, else nothing.

    Args:
        precision: as `accelerate` calls it, "bf16" for bfloat16.
        device: where the step is computed.
    """
    if precision == "bf16" and device.type == "cpu":
        return PlainAttention()
    return nullcontext()
