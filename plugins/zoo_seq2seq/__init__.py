"""The encoder-decoder of "Attention Is All You Need" (Vaswani et al. 2017, arXiv:1706.03762)."""

from collections.abc import Iterable
from pathlib import Path

from zoo import Architecture, hookimpl


@hookimpl
def txzoo_architectures() -> Iterable[Architecture]:
    """One architecture; the order of its norms and its activation are configurations."""
    return [
        Architecture(
            "seq2seq",
            target="zoo_seq2seq.model:Seq2Seq",
            summary="The 2017 encoder-decoder: reads a source, writes a target that looks at it",
            paper="https://arxiv.org/abs/1706.03762",
            model_types=("marian",),
            pipeline="translation",
            tiny=(
                {"n_encoder_layers": 2},
                {"n_encoder_layers": 1, "norm": "pre", "activation": "gelu"},
                {"n_encoder_layers": 3, "activation": "silu", "pad_id": 28, "start_id": 28},
            ),
        )
    ]


@hookimpl
def txzoo_models() -> Iterable[Path]:
    """The model folders beside this file."""
    return Path(__file__).parent.glob("models/*/")
