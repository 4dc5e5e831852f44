"""Prompt tuning: learned embeddings that stand before every text.

Source: Lester et al. 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning",
arXiv:2104.08691, section 2: the model reads [P; X] with P (P x D) learned and X the embedded text;
section 3.2: P begins as embeddings of words.

Differences: none in what is computed. The prompt is read first, and the text reads its keys and
values: a causal model's prompt does not see what follows, so that is the same, and works for
texts padded on the left too. The tests hold it equal to PEFT.
"""

import torch
from torch import Tensor, nn

from zoo.tuning.prefix import Pair, prepare, put_before, record, token_table


def adapt(module: nn.Module, *, num_virtual_tokens: int = 16) -> nn.Module:
    """Let embeddings before the text learn.

    Args:
        module: a trained causal one that takes a cache: `module(ids, cache)`.
        num_virtual_tokens: P.

    Raises:
        ConfigError: P below 1, or beyond the model's positions; a module that takes no cache.
    """
    prepare(module, num_virtual_tokens, "Prompt tuning")
    table = token_table(module, "Prompt tuning")
    words = torch.randint(len(table.weight), (num_virtual_tokens,), device=table.weight.device)
    record(module, words[None])  # refuses a module that takes no cache
    module.prompt_embeddings = nn.Parameter(table.weight.detach()[words].clone())
    put_before(module, num_virtual_tokens, _read)
    return module


def _read(module: nn.Module) -> list[Pair]:
    """The keys and values of the prompt in each layer."""
    prompt: Tensor = module.prompt_embeddings  # type: ignore[assignment]
    table = token_table(module, "Prompt tuning")
    handle = table.register_forward_hook(lambda *_: prompt[None])  # (1, P, D)
    try:
        return record(module, torch.zeros(1, len(prompt), dtype=torch.long, device=prompt.device))
    finally:
        handle.remove()
