"""Text in, text out: what a person sees of generation."""

import random
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import nn
from zoo_alibi.model import AlibiConfig, AlibiDecoder
from zoo_decoder.model import Decoder, DecoderConfig

from zoo import Model
from zoo.errors import ContextLengthError, InputError
from zoo.pipelines.text_generation import Pieces, TextGeneration, find_stop, possible_stop
from zoo.registry import registry, resolve
from zoo.tokenization import END_OF_TEXT, build_tokenizer

torch.set_num_threads(1)

TEXT = (
    "The president of the United States said that it's late.\n"
    "He didn't go, she did: naïve café, 日本, 🙂 and 12 more!\n"
) * 3
SETTINGS: dict[str, dict[str, Any]] = {
    "character": {"kind": "character"},
    "word": {"kind": "word"},
    "byte-pair": {"kind": "byte-pair", "vocab_size": 300},
}
PROMPT = "The president"
SIZES: dict[str, Any] = {
    "max_seq_len": 32,
    "d_model": 24,
    "n_layers": 2,
    "n_heads": 3,
    "d_ff": 40,
    "tie_embeddings": False,
}


def model_of(tokenizer: Tokenizer | None, *, learned: bool = False, vocab_size: int = 0) -> Model:
    """A model with random weights, wide enough to write many different tokens."""
    size = vocab_size if tokenizer is None else tokenizer.get_vocab_size()
    module: nn.Module
    if learned:
        module = Decoder(DecoderConfig(vocab_size=size, **SIZES))
    else:
        module = AlibiDecoder(AlibiConfig(vocab_size=size, **SIZES))
    generator = torch.Generator().manual_seed(5)
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.5, generator=generator)
    return Model(
        name="toy",
        module=module.eval().requires_grad_(False),
        config=module.config,
        tokenizer=tokenizer,
        pipeline="text-generation",
        card=None,
    )


@pytest.fixture(scope="module", params=list(SETTINGS))
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    return build_tokenizer(TEXT, SETTINGS[request.param])


@pytest.fixture(scope="module")
def words() -> Tokenizer:
    return build_tokenizer(TEXT, SETTINGS["word"])


WAYS = [
    {},
    {"temperature": 1.0, "seed": 3},
    {"top_k": 20, "seed": 1, "repetition_penalty": 1.2, "return_full_text": False},
]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_streamed_pieces_joined_are_the_text(tokenizer: Tokenizer, way: dict[str, Any]) -> None:
    lm = model_of(tokenizer)
    whole = lm(PROMPT, max_new_tokens=60, **way)
    pieces = list(lm(PROMPT, max_new_tokens=60, stream=True, **way))
    assert "".join(pieces) == whole
    assert all(pieces)
    assert len(pieces) > 10


@pytest.mark.parametrize("seed", range(6))
def test_streamed_with_stop_texts_too(tokenizer: Tokenizer, seed: int) -> None:
    lm = model_of(tokenizer)
    way: dict[str, Any] = {"max_new_tokens": 40, "temperature": 1.0, "seed": seed}
    free = lm(PROMPT, return_full_text=False, **way)
    chance = random.Random(seed)
    start = chance.randrange(3, len(free) - 5)
    stops = [free[start : start + chance.randint(1, 5)], "not there"]
    whole = lm(PROMPT, stop=stops, return_full_text=False, **way)
    assert whole == free[: free.find(stops[0])]
    assert "".join(lm(PROMPT, stop=stops, stream=True, **way)) == PROMPT + whole
    assert lm(PROMPT, stop=stops[0], **way) == PROMPT + whole  # one text in place of a list


def test_pieces_are_the_decoders_text_and_split_no_character(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(TEXT).ids
    pieces = Pieces(tokenizer, ids[:1])
    given = [pieces.push(token) for token in ids[1:]]
    first = tokenizer.decode(ids[:1])
    assert first + "".join(given) + pieces.rest() == tokenizer.decode(ids)
    assert pieces.rest() == ""
    assert not any("\ufffd" in piece for piece in given)


def test_pieces_of_any_tokens_are_the_decoders_text(tokenizer: Tokenizer) -> None:
    chance = random.Random(0)
    for _ in range(50):
        ids = [chance.randrange(tokenizer.get_vocab_size()) for _ in range(30)]
        prompt = tokenizer.encode("said").ids
        pieces = Pieces(tokenizer, prompt)
        text = "".join(pieces.push(token) for token in ids) + pieces.rest()
        assert tokenizer.decode(prompt) + text == tokenizer.decode(prompt + ids)


def test_where_a_stop_text_is_and_where_it_may_begin() -> None:
    assert find_stop("a word, a line\n", ["\n", "line"]) == 10
    assert find_stop("a word", ["\n"]) is None
    assert find_stop("", ["\n"]) is None
    assert possible_stop("so \nQ", ["\nQ:", "Qu"]) == 2
    assert possible_stop("so", ["\nQ:"]) == 0
    assert possible_stop("", ["\nQ:"]) == 0


def test_the_continuation_keeps_the_space_before_it(words: Tokenizer) -> None:
    full = model_of(words)(PROMPT, max_new_tokens=12)
    new = model_of(words)(PROMPT, max_new_tokens=12, return_full_text=False)
    assert full == PROMPT + new
    assert words.encode(full).ids[:2] == words.encode(PROMPT).ids
    assert len(words.encode(full).ids) == 14  # as many words as tokens: none grew together


def test_a_text_for_a_text_and_a_list_for_a_list(words: Tokenizer) -> None:
    lm = model_of(words)
    prompts = [PROMPT, "He", "12 more!"]
    single = [lm(prompt, max_new_tokens=8) for prompt in prompts]
    assert all(isinstance(text, str) for text in single)
    assert lm(prompts, max_new_tokens=8) == single
    best = lm(PROMPT, max_new_tokens=8, num_beams=3, num_return_sequences=3)
    assert len(set(best)) == 3
    assert lm(PROMPT, max_new_tokens=8, num_beams=3) == best[0]
    drawn = lm(prompts, max_new_tokens=8, do_sample=True, seed=1, num_return_sequences=2)
    assert [len(texts) for texts in drawn] == [2, 2, 2]
    assert [lm(p, max_new_tokens=8, do_sample=True, seed=1) for p in prompts] == [
        texts[0] for texts in drawn
    ]
    assert lm([]) == []


def test_the_end_token_ends_the_text_and_is_not_in_it() -> None:
    tokenizer = build_tokenizer(TEXT, SETTINGS["word"])
    tokenizer.add_special_tokens([END_OF_TEXT])
    lm = model_of(tokenizer)
    way: dict[str, Any] = {"max_new_tokens": 12, "repetition_penalty": 2.0}
    free = lm(PROMPT, **way)
    words = tokenizer.encode(free).ids
    last = max(words, key=words.index)  # the word that comes up latest
    end = tokenizer.token_to_id(END_OF_TEXT)
    head = lm.module.get_parameter("head.weight")
    head[[last, end]] = head[[end, last]]  # where that word was chosen, the end is now
    ended = lm(PROMPT, **way)
    assert free.startswith(ended)
    assert 2 < len(tokenizer.encode(ended).ids) == words.index(last)
    assert "".join(lm(PROMPT, **way, stream=True)) == ended


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("", "The text '' is empty"),
        ("  ", "The text '  ' is empty"),
        ("caf\udce9", "not valid UTF-8 at character 4"),
        (b"bytes", "must be a text, got bytes"),
        (None, "must be a text, got NoneType"),
    ],
    ids=repr,
)
def test_prompts_that_make_no_sense(
    words: Tokenizer, prompt: Any, message: str, stream: bool
) -> None:
    with pytest.raises(InputError, match=message):
        model_of(words)(prompt, stream=stream)  # at the call, before any piece is asked for


def test_calls_that_make_no_sense(words: Tokenizer) -> None:
    lm = model_of(words)
    with pytest.raises(InputError, match="Did you mean 'temperature'"):
        lm(PROMPT, temprature=1.0)
    with pytest.raises(InputError, match="max_new_tokens must be"):
        lm(PROMPT, max_new_tokens=0)
    with pytest.raises(InputError, match="stream=True writes one text"):
        lm([PROMPT], stream=True)
    with pytest.raises(InputError, match="toy has no tokenizer"):
        model_of(None, vocab_size=9)(PROMPT)
    with pytest.raises(InputError, match="The text '' is empty"):
        lm([PROMPT, ""])


def test_more_text_than_learned_positions(words: Tokenizer) -> None:
    lm = model_of(words, learned=True)  # 32 positions
    assert len(words.encode(lm(PROMPT)).ids) == 33  # the last one needs no position
    with pytest.raises(ContextLengthError, match="max_new_tokens=31 at most"):
        lm(PROMPT, max_new_tokens=32)
    with pytest.raises(ContextLengthError, match="40 prompt tokens"):
        lm("He " * 40)


def test_it_is_the_pipeline_of_that_name(words: Tokenizer) -> None:
    assert resolve(registry().pipelines.get("text-generation").target) is TextGeneration
