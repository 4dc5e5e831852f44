"""Bidirectional encoders: BERT (Devlin et al. 2019), and one without position vectors."""

from collections.abc import Iterable
from pathlib import Path

from zoo import Architecture, hookimpl

TINY = (
    {"head": "classification", "labels": ["no", "yes"]},
    {"head": "classification", "labels": ["a", "b", "c"], "pooling": "attention"},
    {"head": "classification", "labels": ["a", "b"], "pooling": "mean", "norm": "pre"},
    {"head": "token-classification", "labels": ["O", "B", "I"]},
    {"head": "masked-language"},
    {"head": "none", "pooling": "mean"},
)


@hookimpl
def txzoo_architectures() -> Iterable[Architecture]:
    """The encoder with its heads, and the one that sees distances in place of positions."""
    return [
        Architecture(
            "encoder",
            target="zoo_encoder.model:Encoder",
            summary="BERT's encoder: every token sees every other; classify, tag, fill in, embed",
            paper="https://arxiv.org/abs/1810.04805",
            model_types=("bert",),
            pipeline="feature-extraction",
            tiny=TINY,
        ),
        Architecture(
            "alibi-encoder",
            target="zoo_encoder.alibi:AlibiEncoder",
            summary="An encoder whose heads look near or far: distances in place of positions",
            paper="https://arxiv.org/abs/2312.17482",
            pipeline="feature-extraction",
            tiny=(
                {"n_heads": 2, "head": "classification", "labels": ["a", "b"], "norm": "post"},
                {"n_heads": 4, "head": "masked-language"},
                {"n_heads": 6, "head": "none"},
            ),
        ),
    ]


@hookimpl
def txzoo_models() -> Iterable[Path]:
    """The model folders beside this file."""
    return Path(__file__).parent.glob("models/*/")
