"""The smallest language model: the next token depends on this one alone."""

from zoo import Architecture, hookimpl


@hookimpl
def txzoo_architectures():
    return [Architecture("bigram", target="zoo_bigram.model:Bigram", summary="One table of logits")]
