"""ALiBi: attention with linear biases (Press, Smith & Lewis 2022, arXiv:2108.12409)."""

from collections.abc import Iterable
from pathlib import Path

from zoo import Architecture, hookimpl


@hookimpl
def txzoo_architectures() -> Iterable[Architecture]:
    """The decoder whose only notion of position is a slope."""
    return [
        Architecture(
            "alibi-decoder",
            target="zoo_alibi.model:AlibiDecoder",
            summary="Positions as a slope on the attention scores, no position parameters",
            paper="https://arxiv.org/abs/2108.12409",
            model_types=("bloom",),
            tiny=({}, {"embedding_norm": False}),
        )
    ]


@hookimpl
def txzoo_models() -> Iterable[Path]:
    """The model folders beside this file."""
    return Path(__file__).parent.glob("models/*/")
