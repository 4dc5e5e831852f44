"""A module as a model, as `zoo.load` gives one, without a folder."""

from typing import Any

from tokenizers import Tokenizer
from torch import nn

from zoo.model import Model


def as_model(
    module: nn.Module, tokenizer: Tokenizer | None = None, pipeline: str = "text-generation"
) -> Model:
    """A model called "ours", without a card."""
    config: Any = module.config
    return Model(
        name="ours",
        module=module,
        config=config,
        tokenizer=tokenizer,
        pipeline=pipeline,
        card=None,
    )
