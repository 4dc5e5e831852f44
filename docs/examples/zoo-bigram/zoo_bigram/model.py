"""Row i of one (V, V) table holds the logits of what follows token i."""

from dataclasses import dataclass

from torch import nn

from zoo import Config


@dataclass(frozen=True, kw_only=True)
class BigramConfig(Config):
    vocab_size: int
    max_seq_len: int
    # the three words a cache is made from; nothing is cached here
    n_layers: int = 1
    n_heads: int = 1
    d_model: int = 1


class Bigram(nn.Module):
    config_class = BigramConfig
    max_len = None  # any length

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.table = nn.Embedding(config.vocab_size, config.vocab_size)

    def forward(self, ids, cache=None):  # (B, T) -> (B, T, V)
        if cache is not None:
            cache.advance(ids.shape[1])
        return self.table(ids)
