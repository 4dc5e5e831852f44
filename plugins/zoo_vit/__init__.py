"""Vision Transformers: the one of 2021 (Dosovitskiy et al.), and a compact one for small data."""

from collections.abc import Iterable
from pathlib import Path

from zoo import Architecture, hookimpl

LABELS = {"labels": ["cat", "dog", "none"]}  # of the kit's small configs


@hookimpl
def txzoo_architectures() -> Iterable[Architecture]:
    """The Vision Transformer, and the one with a convolutional stem."""
    return [
        Architecture(
            "vit",
            target="zoo_vit.model:ViT",
            summary="A picture as a text of patches: cut it up, embed each patch, attend, classify",
            paper="https://arxiv.org/abs/2010.11929",
            model_types=("vit",),
            pipeline="image-classification",
            tiny=(
                {**LABELS, "patch_size": 4},
                {**LABELS, "patch_size": 8, "pooling": "mean", "positions": "sinusoidal"},
            ),
        ),
        Architecture(
            "cct",
            target="zoo_vit.compact:CompactTransformer",
            summary="Patches by convolution, the picture by attention pooling: learns from little",
            paper="https://arxiv.org/abs/2104.05704",
            pipeline="image-classification",
            tiny=(LABELS, {**LABELS, "n_convolutions": 2, "positions": "sinusoidal"}),
        ),
    ]


@hookimpl
def txzoo_models() -> Iterable[Path]:
    """The model folders beside this file."""
    return Path(__file__).parent.glob("models/*/")
