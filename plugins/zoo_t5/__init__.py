"""T5: every task as text to text (Raffel et al. 2020, arXiv:1910.10683)."""

from collections.abc import Iterable
from pathlib import Path

from zoo import Architecture, hookimpl


@hookimpl
def txzoo_architectures() -> Iterable[Architecture]:
    """One architecture; T5 of 2020 and T5 1.1, which Flan-T5 is too, are configurations."""
    return [
        Architecture(
            "t5",
            target="zoo_t5.model:T5",
            summary="Encoder-decoder with biases for distances: T5, T5 1.1 and Flan-T5",
            paper="https://arxiv.org/abs/1910.10683",
            model_types=("t5",),
            pipeline="text2text-generation",
            tiny=(
                {"n_encoder_layers": 3, "n_buckets": 8, "max_distance": 10},
                {
                    "n_encoder_layers": 1,
                    "d_head": 6,
                    "activation": "relu",
                    "tie_embeddings": True,
                    "pad_id": 28,
                    "start_id": 28,
                },
            ),
        )
    ]


@hookimpl
def txzoo_models() -> Iterable[Path]:
    """The model folders beside this file."""
    return Path(__file__).parent.glob("models/*/")
