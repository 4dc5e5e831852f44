"""RoPE: rotary position embedding (Su et al. 2021, arXiv:2104.09864), in a Llama-like block."""

from collections.abc import Iterable
from pathlib import Path

from zoo import Architecture, hookimpl


@hookimpl
def txzoo_architectures() -> Iterable[Architecture]:
    """The decoder that turns its queries and keys."""
    return [
        Architecture(
            "rope-decoder",
            target="zoo_rope.model:RopeDecoder",
            summary="Positions as rotations of queries and keys; RMSNorm, SwiGLU, grouped heads",
            paper="https://arxiv.org/abs/2104.09864",
            model_types=("llama",),
        )
    ]


@hookimpl
def txzoo_models() -> Iterable[Path]:
    """The model folders beside this file."""
    return Path(__file__).parent.glob("models/*/")
