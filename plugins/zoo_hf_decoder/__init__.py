"""Decoders of the Hub that `transformers` computes: OPT, Llama's relatives, GPT-NeoX."""

from collections.abc import Iterable
from pathlib import Path

from zoo import Architecture, hookimpl

MODEL_TYPES = (  # that no other plugin reads
    "gemma",
    "gpt_neox",
    "granite",
    "mistral",
    "olmo",
    "olmo2",
    "opt",
    "phi",
    "phi3",
    "qwen2",
    "qwen3",
    "smollm3",
    "starcoder2",
)
BY_CONFIG = ("gpt2", "llama")  # besides these, in a recipe
TINY = {  # of the kit's own sizes, without dropout; as each model_type calls them
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
}
OPT = {"ffn_dim": 20, "word_embed_proj_dim": 24, "dropout": 0.0}
LLAMA = {"intermediate_size": 20, "num_key_value_heads": 1}


@hookimpl
def txzoo_architectures() -> Iterable[Architecture]:
    """One architecture for all of them."""
    return [
        Architecture(
            "hf-decoder",
            target="zoo_hf_decoder.model:HfDecoder",
            summary="OPT, Mistral, Qwen, Phi, Gemma, OLMo, Pythia and others of the Hub, computed "
            "by transformers: pip install 'txzoo[hf]'",
            paper="https://arxiv.org/abs/2205.01068",
            model_types=MODEL_TYPES,
            tiny=(
                {"transformers": {"model_type": "opt", **TINY, **OPT}},
                {"transformers": {"model_type": "gpt_neox", **TINY, "intermediate_size": 20}},
                {"transformers": {"model_type": "qwen2", **TINY, **LLAMA}},
            ),
        )
    ]


@hookimpl
def txzoo_models() -> Iterable[Path]:
    """The model folders beside this file."""
    return Path(__file__).parent.glob("models/*/")
