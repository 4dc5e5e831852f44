"""Decoding held against `transformers.generate`, on tiny models with wide random weights."""

import itertools
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.generation import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from zoo_decoder.model import Decoder
from zoo_rope.model import RopeDecoder

from zoo.generation import GenerationOptions, filter_scores, generate
from zoo.tokenization import build_tokenizer

torch.set_num_threads(1)
pytestmark = pytest.mark.reference

VOCABULARY, PAD, NOTHING = 61, 60, 99
PROMPTS = [[5, 3, 8, 1, 9, 2, 7], [4], [11, 11, 30]]
Pair = tuple[nn.Module, PreTrainedModel]


def wide(model: PreTrainedModel) -> PreTrainedModel:
    """Weights so large that the texts are diverse; at the usual size they repeat one token."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.4, generator=generator)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def pair(request: pytest.FixtureRequest) -> Pair:
    """Ours and theirs, with the same weights."""
    theirs: PreTrainedModel
    ours: nn.Module
    if request.param == "gpt2":
        gpt2 = GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=64,
            n_embd=24,
            n_layer=2,
            n_head=3,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=None,
        )
        theirs = wide(GPT2LMHeadModel(gpt2))
        ours = Decoder.from_transformers(theirs.config.to_dict(), theirs.state_dict())
    else:
        llama = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=24,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=6,
            num_key_value_heads=2,
            bos_token_id=None,
            eos_token_id=None,
        )
        theirs = wide(LlamaForCausalLM(llama))
        ours = RopeDecoder.from_transformers(theirs.config.to_dict(), theirs.state_dict())
    return ours.eval().requires_grad_(False), theirs


def left_padded(prompts: list[list[int]]) -> dict[str, Tensor]:
    longest = max(map(len, prompts))
    ids = [[PAD] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def written(theirs: PreTrainedModel, prompts: list[list[int]], end: int | None, **way: Any) -> Any:
    """Their new tokens, cut before the end token, and their scores."""
    fill = PAD if len(prompts) > 1 else NOTHING  # only a batch feeds it to the model
    out = theirs.generate(
        **left_padded(prompts),
        eos_token_id=end,
        pad_token_id=fill,
        return_dict_in_generate=True,
        output_scores=True,
        **way,
    )
    rows = out.sequences[:, max(map(len, prompts)) :].tolist()
    stops = {end, NOTHING, -1}  # -1 stands after a beam that ended with no end token at all
    ids = [list(itertools.takewhile(lambda token: token not in stops, row)) for row in rows]
    return ids, getattr(out, "sequences_scores", None)


GREEDY: list[dict[str, Any]] = [
    {},
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.8},
]


@pytest.mark.parametrize("end", [None, 7])
@pytest.mark.parametrize("way", GREEDY, ids=str)
def test_greedy(pair: Pair, way: dict[str, Any], end: int | None) -> None:
    ours, theirs = pair
    for prompts in ([PROMPTS[0]], PROMPTS):
        if "repetition_penalty" in way and len(prompts) > 1:
            continue  # theirs counts the padding as a token of the text
        expected, _ = written(theirs, prompts, end, max_new_tokens=20, do_sample=False, **way)
        options = GenerationOptions(max_new_tokens=20, **way)
        assert generate(ours, prompts, options, end_id=end).ids == expected
        if end is None and way.get("repetition_penalty", 1) >= 1:
            assert len(set(expected[0])) > 4


BEAMS: list[dict[str, Any]] = [
    {"num_beams": 2},
    {"num_beams": 4, "num_return_sequences": 4},
    {"num_beams": 4, "num_return_sequences": 2, "length_penalty": 2.0},
    {"num_beams": 3, "num_return_sequences": 3, "length_penalty": -1.0},
    {"num_beams": 5, "num_return_sequences": 3, "length_penalty": 0.0},
]


@pytest.mark.parametrize("new", [1, 12])
@pytest.mark.parametrize("way", BEAMS, ids=str)
def test_beam_search(pair: Pair, way: dict[str, Any], new: int) -> None:
    ours, theirs = pair
    lengths = set()
    for end in (None, 7, 33, 51):  # likely and less likely ends
        expected, scores = written(theirs, PROMPTS, end, max_new_tokens=new, do_sample=False, **way)
        options = GenerationOptions(max_new_tokens=new, **way)
        found = generate(ours, PROMPTS, options, end_id=end)
        assert found.ids == expected
        assert found.scores == pytest.approx(scores.tolist(), rel=1e-4)
        lengths |= {len(ids) for ids in expected}
    if new > 1 and way.get("length_penalty", 1) <= 1:  # else the long ones win
        assert len(lengths) > 1, "no hypothesis ended early: nothing was tested"


def test_beam_search_with_repetition_penalty(pair: Pair) -> None:
    ours, theirs = pair
    way: dict[str, Any] = {
        "num_beams": 3,
        "num_return_sequences": 3,
        "repetition_penalty": 1.5,
        "max_new_tokens": 12,
    }
    expected, scores = written(theirs, PROMPTS[:1], None, do_sample=False, **way)
    found = generate(ours, PROMPTS[:1], GenerationOptions(**way))
    assert found.ids == expected
    assert found.scores == pytest.approx(scores.tolist(), rel=1e-4)


@pytest.fixture(scope="module")
def letters() -> Tokenizer:
    alphabet = "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ.,:;!?()"
    return build_tokenizer(alphabet, {"kind": "character"})


@pytest.mark.parametrize("way", [{}, *BEAMS[1:4]], ids=str)
def test_stop_texts(pair: Pair, letters: Tokenizer, way: dict[str, Any]) -> None:
    ours, theirs = pair
    wrapped = PreTrainedTokenizerFast(tokenizer_object=letters)
    free = generate(ours, PROMPTS[:1], GenerationOptions(max_new_tokens=12, **way)).ids[0]
    stop = [letters.decode(free[2:4]), letters.decode(free[6:7])]
    expected, scores = written(
        theirs,
        PROMPTS[:1],
        None,
        max_new_tokens=12,
        do_sample=False,
        stop_strings=stop,
        tokenizer=wrapped,
        **way,
    )
    options = GenerationOptions(max_new_tokens=12, stop=stop, **way)
    found = generate(ours, PROMPTS[:1], options, tokenizer=letters)
    assert found.ids == expected
    assert found.scores == (None if scores is None else pytest.approx(scores.tolist(), rel=1e-4))
    if way.get("length_penalty", 1) <= 1:
        assert min(map(len, expected)) < 12, "no stop text came up: nothing was tested"


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7])
@pytest.mark.parametrize("top_k", [1, 5, 50, 1000])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.95])
def test_filters(temperature: float, top_k: int, top_p: float) -> None:
    generator = torch.Generator().manual_seed(top_k)
    scores = (3 * torch.randn(20, 200, generator=generator)).round(decimals=1)  # with equal scores
    ids = torch.zeros(20, 1, dtype=torch.long)
    expected = TemperatureLogitsWarper(temperature)(ids, scores)
    expected = TopKLogitsWarper(top_k)(ids, expected)
    expected = TopPLogitsWarper(top_p)(ids, expected)
    found = filter_scores(scores, temperature=temperature, top_k=top_k, top_p=top_p)
    torch.testing.assert_close(found, expected, atol=0, rtol=0)


def test_repetition_penalty_on_a_batch(pair: Pair) -> None:
    ours, _ = pair
    prompts = [PROMPTS[0], PROMPTS[0][::-1]]
    texts = torch.tensor(prompts)
    penalise = RepetitionPenaltyLogitsProcessor(1.7)
    for _ in range(8):
        scores = penalise(texts, ours(texts)[:, -1])
        texts = torch.cat([texts, scores.argmax(-1, keepdim=True)], dim=1)
    options = GenerationOptions(max_new_tokens=8, repetition_penalty=1.7)
    assert generate(ours, prompts, options).ids == texts[:, 7:].tolist()


def test_drawn_tokens_are_those_their_filters_leave(pair: Pair) -> None:
    ours, theirs = pair
    way: dict[str, Any] = {"temperature": 0.7, "top_k": 6, "top_p": 0.8, "repetition_penalty": 1.2}
    options = GenerationOptions(max_new_tokens=1, num_return_sequences=300, seed=0, **way)
    found = {ids[0] for ids in generate(ours, PROMPTS[:1], options).ids}
    out = theirs.generate(
        **left_padded(PROMPTS[:1]),
        do_sample=True,
        max_new_tokens=1,
        return_dict_in_generate=True,
        output_scores=True,
        **way,
    )
    chances = out.scores[0][0].softmax(-1)
    allowed = set(chances.nonzero().flatten().tolist())
    likely = set((chances > 0.03).nonzero().flatten().tolist())  # missed once in 9000
    assert likely <= found <= allowed
    assert len(allowed) < 7
