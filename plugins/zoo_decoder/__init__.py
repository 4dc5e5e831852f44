"""A decoder-only transformer from first principles, with learned or sinusoidal positions."""

from collections.abc import Iterable
from pathlib import Path

from zoo import Architecture, hookimpl


@hookimpl
def txzoo_architectures() -> Iterable[Architecture]:
    """One architecture; its two kinds of positions are two configurations."""
    return [
        Architecture(
            "decoder",
            target="zoo_decoder.model:Decoder",
            summary="Decoder-only transformer with learned or sinusoidal positions",
            paper="https://arxiv.org/abs/1706.03762",
            tiny=({}, {"positions": "sinusoidal"}),
        )
    ]


@hookimpl
def txzoo_models() -> Iterable[Path]:
    """The model folders beside this file."""
    return Path(__file__).parent.glob("models/*/")
