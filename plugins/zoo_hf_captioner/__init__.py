"""Captioners of the Hub that `transformers` computes: BLIP."""

from collections.abc import Iterable

from zoo import Architecture, hookimpl

TINY = {  # of the kit's own sizes, without dropout
    "hidden_size": 24,
    "intermediate_size": 20,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
}
DRY = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@hookimpl
def txzoo_architectures() -> Iterable[Architecture]:
    """One architecture."""
    return [
        Architecture(
            "hf-captioner",
            target="zoo_hf_captioner.model:HfCaptioner",
            summary="BLIP of the Hub, computed by transformers: pip install 'txzoo[hf]'",
            paper="https://arxiv.org/abs/2201.12086",
            model_types=("blip",),
            pipeline="image-to-text",
            tiny=(
                {
                    "transformers": {
                        "model_type": "blip",
                        "text_config": {**TINY, **DRY},
                        "vision_config": {**TINY, "patch_size": 4},
                    }
                },
            ),
        )
    ]
