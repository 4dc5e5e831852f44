"""A picture in words: an image encoder and a text decoder that looks at it."""

from collections.abc import Iterable
from pathlib import Path

from zoo import Architecture, hookimpl


@hookimpl
def txzoo_architectures() -> Iterable[Architecture]:
    """One architecture."""
    return [
        Architecture(
            "captioner",
            target="zoo_captioner.model:Captioner",
            summary="Says what a picture shows: words that look at its patches",
            paper="https://arxiv.org/abs/2101.10804",
            pipeline="image-to-text",
            tiny=({"n_encoder_layers": 2}, {"n_encoder_layers": 1, "n_convolutions": 1}),
        )
    ]


@hookimpl
def txzoo_models() -> Iterable[Path]:
    """The model folders beside this file."""
    return Path(__file__).parent.glob("models/*/")
