"""GPT-2 (Radford et al. 2019), and language models that begin with embeddings of others."""

from collections.abc import Iterable
from pathlib import Path

from zoo import Architecture, hookimpl


@hookimpl
def txzoo_architectures() -> Iterable[Architecture]:
    """GPT-2 as a whole; its switches are configurations."""
    return [
        Architecture(
            "gpt2",
            target="zoo_gpt2.model:GPT2",
            summary="GPT-2, complete: any checkpoint of it, and back",
            paper="https://github.com/openai/gpt-2",
            model_types=("gpt2",),
            tiny=(
                {},
                {"activation": "relu", "scale_scores": False, "tie_embeddings": False},
                {"activation": "gelu", "scale_by_layer": True},
            ),
        )
    ]


@hookimpl
def txzoo_models() -> Iterable[Path]:
    """The model folders beside this file."""
    return Path(__file__).parent.glob("models/*/")
