"""Encoders of the Hub that `transformers` computes: RoBERTa and its relatives."""

from collections.abc import Iterable
from pathlib import Path

from zoo import Architecture, hookimpl

MODEL_TYPES = (
    "albert",
    "camembert",
    "deberta",
    "deberta-v2",
    "distilbert",
    "electra",
    "modernbert",
    "mpnet",
    "roberta",
    "xlm-roberta",
)
TINY = {  # of the kit's own sizes, without dropout; as each model_type calls them
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout": 0.0,
}
DISTIL = {"dim": 24, "n_layers": 2, "n_heads": 3, "hidden_dim": 20, "dropout": 0.0}


@hookimpl
def txzoo_architectures() -> Iterable[Architecture]:
    """One architecture for all of them."""
    return [
        Architecture(
            "hf-encoder",
            target="zoo_hf_encoder.model:HfEncoder",
            summary="RoBERTa, DistilBERT, DeBERTa, ELECTRA, MPNet, ALBERT, ModernBERT and others "
            "of the Hub, computed by transformers: pip install 'txzoo[hf]'",
            paper="https://arxiv.org/abs/1907.11692",
            model_types=MODEL_TYPES,
            pipeline="feature-extraction",
            tiny=(
                {
                    "head": "classification",
                    "labels": ["no", "yes"],
                    "transformers": {"model_type": "roberta", **TINY},
                },
                {
                    "head": "token-classification",
                    "labels": ["O", "B", "I"],
                    "transformers": {
                        "model_type": "distilbert",
                        **DISTIL,
                        "attention_dropout": 0.0,
                    },
                },
                {"head": "masked-language", "transformers": {"model_type": "electra", **TINY}},
                {
                    "head": "none",
                    "transformers": {
                        "model_type": "deberta-v2",
                        **TINY,
                        "relative_attention": True,
                        "pos_att_type": ["c2p", "p2c"],
                    },
                },
            ),
        )
    ]


@hookimpl
def txzoo_models() -> Iterable[Path]:
    """The model folders beside this file."""
    return Path(__file__).parent.glob("models/*/")
