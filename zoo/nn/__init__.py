"""Background that several papers share. A paper's own idea lives in its plugin's file."""

from zoo.nn.attention import (
    PlainAttention,
    attend,
    attend_source,
    causal_mask,
    plain_attention,
    record_attention,
)
from zoo.nn.cache import Cache, SourceCache
from zoo.nn.encoder_decoder import EncoderDecoder, VisionEncoderDecoder
from zoo.nn.layout import reordered, unembed
from zoo.nn.norms import LayerNorm, RMSNorm

__all__ = [
    "Cache",
    "EncoderDecoder",
    "LayerNorm",
    "RMSNorm",
    "SourceCache",
    "VisionEncoderDecoder",
    "attend",
    "attend_source",
    "causal_mask",
    "PlainAttention",
    "plain_attention",
    "record_attention",
    "reordered",
    "unembed",
]
