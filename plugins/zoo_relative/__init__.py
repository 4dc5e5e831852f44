"""Relative position biases (Raffel et al. 2020, "T5", arXiv:1910.10683) in a decoder."""

from collections.abc import Iterable
from pathlib import Path

from zoo import Architecture, hookimpl


@hookimpl
def txzoo_architectures() -> Iterable[Architecture]:
    """The decoder that learns a number for each distance and head."""
    return [
        Architecture(
            "relative-decoder",
            target="zoo_relative.model:RelativeDecoder",
            summary="Positions as a learned bias for each bucket of distances",
            paper="https://arxiv.org/abs/1910.10683",
        )
    ]


@hookimpl
def txzoo_models() -> Iterable[Path]:
    """The model folders beside this file."""
    return Path(__file__).parent.glob("models/*/")
