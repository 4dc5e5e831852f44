"""Encoder-decoders of the Hub that `transformers` computes: BART and its relatives, mT5."""

from collections.abc import Iterable

from zoo import Architecture, hookimpl

MODEL_TYPES = ("bart", "m2m_100", "mbart", "mt5", "pegasus", "umt5")  # that no other plugin reads
BY_CONFIG = ("marian", "t5")  # besides these, in a recipe
TINY = {  # of the kit's own sizes, without dropout
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 3,
    "decoder_attention_heads": 3,
    "encoder_ffn_dim": 20,
    "decoder_ffn_dim": 20,
    "dropout": 0.0,
}
TINY_T5 = {
    "d_model": 24,
    "d_kv": 6,
    "num_layers": 2,
    "num_heads": 3,
    "d_ff": 20,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 10,
    "dropout_rate": 0.0,
}


@hookimpl
def txzoo_architectures() -> Iterable[Architecture]:
    """One architecture for all of them."""
    return [
        Architecture(
            "hf-seq2seq",
            target="zoo_hf_seq2seq.model:HfSeq2Seq",
            summary="BART, mBART, Pegasus, M2M-100, NLLB, mT5 and others of the Hub, computed by "
            "transformers: pip install 'txzoo[hf]'",
            paper="https://arxiv.org/abs/1910.13461",
            model_types=MODEL_TYPES,
            pipeline="text2text-generation",
            tiny=(
                {"transformers": {"model_type": "bart", **TINY}},
                {"transformers": {"model_type": "pegasus", **TINY}, "tie_output": False},
                {"transformers": {"model_type": "mt5", **TINY_T5}},
                {"transformers": {"model_type": "umt5", **TINY_T5}},
            ),
        )
    ]
