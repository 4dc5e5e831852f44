"""Prompt tuning: learned embeddings that stand before every text.

Source: Lester et al. 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning",
arXiv:2104.08691, section 2: the model reads [P; X] with P (P x D) learned and X the embedded text;
section 3.2: P begins as embeddings of words.

Differences: none in what is computed. The prompt of an encoder-decoder stands before the source, as
in the paper, and the target looks at it as at the source. A model has one limit for both texts: the
target gets shorter with the source. A causal model reads the prompt first, and the text its keys
and values: its prompt does not see what follows, so that is the same, and works for texts padded on
the left too. An encoder reads prompt and text at once; what comes out at the prompt is left away.
The tests hold all three equal to PEFT, which with Marian and Pegasus, though, takes away the factor
that a source's embeddings are multiplied by (`scale_embedding`); here the prompt has it too.

Letters: P prompt length, B batch, T text length, D d_model.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from zoo.errors import ConfigError
from zoo.nn import EncoderDecoder
from zoo.tuning.parts import wrap
from zoo.tuning.prefix import (
    Pair,
    prepare,
    put_before,
    read,
    record,
    shorten,
    takes_cache,
    token_table,
)

BEFORE = {"real": True, "segments": 0, "where": False}  # of an encoder's arguments, at the prompt


def adapt(module: nn.Module, *, num_virtual_tokens: int = 16) -> nn.Module:
    """Let embeddings before the text learn.

    Args:
        module: a trained one: a decoder, `module(ids, cache)`, an encoder, `module(ids, real)`, or
            a `zoo.nn.EncoderDecoder` of texts.
        num_virtual_tokens: P.

    Raises:
        ConfigError: P below 1, or beyond the model's positions; a module of no such kind.
    """
    prepare(module, num_virtual_tokens, "Prompt tuning")
    table = token_table(module, "Prompt tuning")
    words = torch.randint(len(table.weight), (num_virtual_tokens,), device=table.weight.device)
    read(module, words[None])  # refuses a module of no such kind
    module.prompt_embeddings = nn.Parameter(table(words).detach().clone())
    if isinstance(module, EncoderDecoder):
        _put_before_source(module)
        shorten(module, num_virtual_tokens)
    elif takes_cache(module):
        put_before(module, num_virtual_tokens, _read)
    else:
        _put_into(module)
        shorten(module, num_virtual_tokens)
    return module


def _read(module: nn.Module) -> list[Pair]:
    """The keys and values of the prompt in each layer."""
    prompt: Tensor = module.prompt_embeddings  # type: ignore[assignment]
    with _put_first(prompt, token_table(module, "Prompt tuning")):
        return record(module, torch.zeros(1, len(prompt), dtype=torch.long, device=prompt.device))


def _put_before_source(module: EncoderDecoder) -> None:
    """From now on every source begins with the prompt, and so does its memory."""

    def encode(called: nn.Module, plain: Callable[..., Tensor], *given: Tensor) -> Tensor:
        prompt: Tensor = called.prompt_embeddings  # type: ignore[assignment]
        source, real = given
        # some token of the text, whose vectors the prompt takes the place of
        first = source[:, :1].expand(-1, len(prompt))
        with _put_first(prompt, token_table(called, "Prompt tuning")):
            return plain(torch.cat([first, source], dim=1), _lengthened(real, prompt))

    def decode(called: nn.Module, plain: Callable[..., Tensor], *given: Any) -> Tensor:
        prompt: Tensor = called.prompt_embeddings  # type: ignore[assignment]
        ids, memory, real, cache = given
        return plain(ids, memory, None if real is None else _lengthened(real, prompt), cache)

    wrap(module, "read", encode)
    wrap(module, "write", decode)


def _lengthened(real: Tensor, prompt: Tensor) -> Tensor:
    """Where prompt and source are no padding: (P, S) to (P, prompt + S)."""
    return F.pad(real, (len(prompt), 0), value=True)


def _put_first(prompt: Tensor, table: nn.Module) -> RemovableHandle:
    """From now on the first vectors that a table gives are the prompt."""

    def put(_: nn.Module, __: Any, vectors: Tensor) -> Tensor:
        rows = prompt.to(vectors).expand(len(vectors), -1, -1)
        return torch.cat([rows, vectors[:, len(prompt) :]], dim=1)  # (B, P + T, D)

    return table.register_forward_hook(put)


def _put_into(encoder: nn.Module) -> None:
    """From now on every text that the encoder reads begins with the prompt."""
    signature = inspect.signature(encoder.forward)
    handles = []

    def lengthen(called: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        prompt: Tensor = called.prompt_embeddings  # type: ignore[assignment]
        given = signature.bind(*args, **kwargs).arguments
        for place, (name, value) in enumerate(given.items()):
            if value is None:
                continue
            if place and name not in BEFORE:
                raise ConfigError(
                    f"Prompt tuning knows no {name} of a prompt: {type(called).__name__} may be "
                    f"given ids, {', '.join(BEFORE)}"
                )
            # some token of the text, whose vectors the prompt takes the place of
            first = value[:, :1] if place == 0 else torch.full_like(value[:, :1], BEFORE[name])
            given[name] = torch.cat([first.expand(-1, len(prompt)), value], dim=1)  # (B, P + T)

        handles.append(_put_first(prompt, token_table(called, "Prompt tuning")))
        return (), given

    def cut(called: nn.Module, _: Any, given: dict[str, Any], output: Any) -> Any:
        if handles:  # not where the call was refused
            handles.pop().remove()
        if not isinstance(output, Tensor) or output.dim() < 3:
            return output  # of the whole text
        prompt: Tensor = called.prompt_embeddings  # type: ignore[assignment]
        return output[:, len(prompt) :]  # of each token, (B, T, ...)

    encoder.register_forward_pre_hook(lengthen, with_kwargs=True)
    encoder.register_forward_hook(cut, with_kwargs=True, always_call=True)
