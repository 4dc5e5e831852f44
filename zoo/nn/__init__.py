"""Background that several papers share. A paper's own idea lives in its plugin's file."""

from zoo.nn.attention import attend, causal_mask, plain_attention, record_attention
from zoo.nn.cache import Cache
from zoo.nn.norms import LayerNorm, RMSNorm

__all__ = [
    "Cache",
    "LayerNorm",
    "RMSNorm",
    "attend",
    "causal_mask",
    "plain_attention",
    "record_attention",
]
