"""What `zoo.nn.EncoderDecoder` gives to a class that says only how it reads and writes."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from encoder_decoders import word_tokenizer
from torch import Tensor, nn

from zoo.errors import ContextLengthError, InputError
from zoo.nn import EncoderDecoder, SourceCache
from zoo.pipelines.text2text import Text2Text

WORDS = ["<pad>", "</s>", "a", "b", "c", "d"]
CONFIG = SimpleNamespace(pad_id=0, start_id=0, end_id=1, n_layers=1, n_heads=1, d_model=2)


class Copy(EncoderDecoder):
    """Writes a source again: its memory is its tokens, and each target token points to the next."""

    config, max_len = CONFIG, 4

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def read(self, source: Tensor, real: Tensor) -> Tensor:
        assert real.dtype == torch.bool
        return source.masked_fill(~real, -1)[..., None].float()

    def write(
        self, ids: Tensor, memory: Tensor, real: Tensor | None, cache: SourceCache | None
    ) -> Tensor:
        P, S, _ = memory.shape
        before = 0 if cache is None else cache.length
        places = (before + torch.arange(ids.shape[1])).clamp(max=S - 1)
        next_tokens = memory[:, places, 0].repeat_interleave(len(ids) // P, 0).long()
        return 9.0 * self.weight * nn.functional.one_hot(next_tokens.clamp(min=0), len(WORDS))


def test_two_functions_are_enough() -> None:
    model: Any = SimpleNamespace(
        name="copy",
        module=Copy().eval(),
        config=CONFIG,
        tokenizer=word_tokenizer(WORDS, 2, "<pad>", "</s>"),
        device="cpu",
    )
    texts = ["a b c", "d", "c c"]
    assert Text2Text(model)(texts, max_new_tokens=4) == texts
    assert Text2Text(model)(texts, max_new_tokens=4, num_beams=3) == texts
    assert list(Text2Text(model)("a b c", max_new_tokens=4, stream=True)) == ["a", " b", " c"]


@torch.no_grad()
def test_what_is_no_padding_is_found_or_given() -> None:
    module, source = Copy(), torch.tensor([[2, 0, 0], [3, 4, 1]])
    ids = torch.zeros(2, 3, dtype=torch.long)
    assert module.encode(source)[..., 0].tolist() == [[2, -1, -1], [3, 4, 1]]
    shown = torch.tensor([[True, True, False], [True, False, True]])
    assert module.encode(source, shown)[..., 0].tolist() == [[2, 0, -1], [3, -1, 1]]
    for real in (None, shown):
        memory = module.encode(source, real)
        expected = module.decode(ids, memory, module.real(source) if real is None else real)
        assert torch.equal(module(source, ids, real), expected)


def test_positions_end_and_the_cache_goes_on() -> None:
    module, four = Copy(), torch.full((1, 4), 2)
    five = torch.full((1, 5), 2)
    with pytest.raises(ContextLengthError, match="The source has 5 tokens with its end, .* has 4"):
        module.encode(five)
    memory = module.encode(four)
    with pytest.raises(ContextLengthError, match="The target has 5 tokens with its start, .* 4"):
        module.decode(five, memory, None)
    cache = SourceCache.of(CONFIG, 1, 9)
    module.decode(four[:, :3], memory, None, cache)
    module.decode(four[:, :1], memory, None, cache)
    assert cache.length == 4
    with pytest.raises(ContextLengthError, match="The target has 5 tokens with its start, .* 4"):
        module.decode(four[:, :1], memory, None, cache)
    assert cache.length == 4
    module.max_len = None
    assert module(five, five).shape == (1, 5, len(WORDS))


def test_neither_half_may_be_left_out() -> None:
    class Half(EncoderDecoder):
        def read(self, source: Tensor, real: Tensor) -> Tensor:
            return source

    with pytest.raises(TypeError, match="write"):
        Half()  # type: ignore[abstract]


def test_names_alone_make_no_encoder_decoder() -> None:
    class Alike(nn.Module):
        def encode(self) -> None: ...

        def decode(self) -> None: ...

    model: Any = SimpleNamespace(name="alike", module=Alike(), config=CONFIG, tokenizer=None)
    with pytest.raises(InputError, match="alike is no encoder-decoder: Alike does not derive from"):
        Text2Text(model)
