"""Decoding on small random models, wide enough in their weights to write many different tokens."""

import itertools
import math
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from zoo_alibi.model import AlibiConfig, AlibiDecoder
from zoo_decoder.model import Decoder, DecoderConfig
from zoo_relative.model import RelativeConfig, RelativeDecoder
from zoo_rope.model import RopeConfig, RopeDecoder

from zoo.errors import ContextLengthError, InputError
from zoo.generation import GenerationOptions, filter_scores, generate, stream
from zoo.nn import Cache
from zoo.tokenization import build_tokenizer
from zoo.tuning import adapt

torch.set_num_threads(1)

SIZES: dict[str, Any] = {
    "vocab_size": 53,
    "max_seq_len": 24,
    "d_model": 24,
    "n_layers": 2,
    "n_heads": 6,
    "d_ff": 40,
    "tie_embeddings": False,
}
PROMPTS = [[5, 3, 8, 1, 9, 2, 7], [4], [11, 11, 30]]


def wide(module: nn.Module) -> nn.Module:
    """Random weights so large that the next token depends on everything before."""
    generator = torch.Generator().manual_seed(3)
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.5, generator=generator)
    return module.eval().requires_grad_(False)


def learned(**changes: Any) -> nn.Module:
    return wide(Decoder(DecoderConfig(**{**SIZES, **changes})))


def alibi() -> nn.Module:
    return wide(AlibiDecoder(AlibiConfig(**SIZES)))


def rope() -> nn.Module:
    return wide(RopeDecoder(RopeConfig(n_kv_heads=2, **SIZES)))


def relative() -> nn.Module:
    return wide(RelativeDecoder(RelativeConfig(**SIZES)))


every_decoder = pytest.mark.parametrize("build", [learned, alibi, rope, relative])


@every_decoder
@pytest.mark.parametrize("n", [0, 1, 3, 9])
@torch.no_grad()
def test_only_the_last_logits_are_kept(build: Any, n: int) -> None:
    module, ids = build(), torch.randint(SIZES["vocab_size"], (2, 9))
    expected = module(ids)[:, -n:]
    torch.testing.assert_close(module(ids, logits_to_keep=n), expected)
    cache = Cache.of(module.config, 2, 9, like=expected)
    module(ids[:, :4], cache, logits_to_keep=1)
    rest = module(ids[:, 4:], cache, min(n, 5))
    torch.testing.assert_close(rest, expected[:, -5:])


@every_decoder
def test_of_a_prompt_only_the_last_logits_are_computed(build: Any) -> None:
    module, heights = build(), []
    module.norm.register_forward_hook(lambda _, __, output: heights.append(output.shape[1]))
    generate(module, [[1, 2, 3, 4], [5, 6]], options())
    assert heights == [1] * 9
    adapt(module, "prompt-tuning", num_virtual_tokens=2)
    del heights[:]
    generate(module, [[1, 2, 3, 4]], options())
    assert heights[1::2] == [1] * 9  # and the prompt's own, each time


class Fixed(nn.Module):
    """Always the same next-token chances, whatever stands before."""

    max_len = None

    def __init__(self, chances: list[float]) -> None:
        super().__init__()
        self.config = SimpleNamespace(vocab_size=len(chances), n_layers=1, n_heads=1, d_model=1)
        self.scores = nn.Parameter(torch.tensor(chances).log())

    def forward(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        return self.scores.expand(*ids.shape, -1)


def options(**values: Any) -> GenerationOptions:
    return GenerationOptions(**{"max_new_tokens": 9, **values})


WAYS = [
    {},
    {"repetition_penalty": 1.4},
    {"temperature": 1.3, "seed": 2},
    {"temperature": 0.8, "top_k": 9, "top_p": 0.9, "repetition_penalty": 1.2, "seed": 5},
    {"num_beams": 3, "num_return_sequences": 2},
    {"num_beams": 4, "repetition_penalty": 1.3, "length_penalty": 0.5},
]


@every_decoder
def test_greedy_takes_the_best_token_each_time(build: Any) -> None:
    module = build()
    text = list(PROMPTS[0])
    for _ in range(9):
        text.append(int(module(torch.tensor([text]))[0, -1].argmax()))
    written = text[len(PROMPTS[0]) :]
    assert len(set(written)) > 3, "these weights say too little to test anything"
    assert generate(module, PROMPTS[:1], options()).ids == [written]


@every_decoder
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_cached_equals_uncached(build: Any, way: dict[str, Any]) -> None:
    module = build()
    cached = generate(module, PROMPTS, options(**way), end_id=6)
    whole = generate(module, PROMPTS, options(**way), end_id=6, use_cache=False)
    assert cached.ids == whole.ids
    assert len(set(itertools.chain(*cached.ids))) > 3
    assert cached.scores == (None if whole.scores is None else pytest.approx(whole.scores))


@every_decoder
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_a_prompt_in_a_batch_is_continued_as_alone(build: Any, way: dict[str, Any]) -> None:
    module = build()
    together = generate(module, PROMPTS, options(**way), end_id=6).ids
    alone = [generate(module, [prompt], options(**way), end_id=6).ids for prompt in PROMPTS]
    assert together == list(itertools.chain(*alone))


@pytest.mark.parametrize("way", WAYS[:4], ids=str)
def test_stream_gives_what_generate_gives(way: dict[str, Any]) -> None:
    module = alibi()
    (written,) = generate(module, PROMPTS[:1], options(**way)).ids
    assert list(stream(module, PROMPTS[0], options(**way))) == written
    end = written[4]
    before = written[: written.index(end)]
    assert list(stream(module, PROMPTS[0], options(**way), end_id=end)) == before


def test_stream_leaves_the_callers_gradients_alone() -> None:
    for _ in stream(alibi(), [1], options(max_new_tokens=2)):
        assert not torch.is_inference_mode_enabled()
        assert torch.ones(1, requires_grad=True).mul(2).requires_grad


def test_the_end_token_ends_a_row_and_is_not_part_of_it() -> None:
    module = alibi()
    free = generate(module, PROMPTS, options()).ids
    end = free[0][3]
    ended = generate(module, PROMPTS, options(), end_id=end).ids
    assert ended == [ids[: ids.index(end)] if end in ids else ids for ids in free]
    assert len(ended[0]) < 9


def test_no_prompts_no_answers() -> None:
    assert generate(alibi(), [], options()).ids == []


# sampling


def test_a_seed_repeats_itself_and_another_differs() -> None:
    module = rope()

    def write(seed: int | None) -> list[list[int]]:
        return generate(module, PROMPTS, options(do_sample=True, seed=seed)).ids

    assert write(1) == write(1)
    assert write(1) != write(2)
    torch.manual_seed(7)
    first, second = write(None), write(None)
    torch.manual_seed(7)
    assert write(None) == first != second


def test_copies_of_a_prompt_draw_differently_and_know_nothing_of_their_neighbours() -> None:
    module = rope()
    way = options(temperature=1.0, seed=4, num_return_sequences=3)
    copies = generate(module, [PROMPTS[0]], way).ids
    assert len(set(map(tuple, copies))) == 3
    one = options(temperature=1.0, seed=4)
    mixed = [PROMPTS[0], PROMPTS[1], PROMPTS[0], PROMPTS[0]]
    first, _, second, third = generate(module, mixed, one).ids
    assert [first, second, third] == copies


def test_draws_come_as_often_as_their_chances_say() -> None:
    chances, draws = [0.5, 0.0, 0.3, 0.15, 0.05], 4000

    def frequencies(**way: Any) -> list[float]:
        way = {"max_new_tokens": 1, "num_return_sequences": draws, "seed": 0, **way}
        found = generate(Fixed(chances), [[0]], GenerationOptions(**way)).ids
        counts = Counter(ids[0] for ids in found)
        return [counts[token] / draws for token in range(5)]

    def near(expected: list[float]) -> Any:
        return pytest.approx(expected, abs=4 * math.sqrt(0.25 / draws))  # four standard errors

    assert frequencies(do_sample=True) == near(chances)
    assert frequencies(do_sample=True)[1] == 0  # no chance, never drawn
    assert frequencies(top_k=2) == near([0.625, 0, 0.375, 0, 0])
    assert frequencies(top_p=0.9) == near([0.5 / 0.95, 0, 0.3 / 0.95, 0.15 / 0.95, 0])
    squares = [chance**2 for chance in chances]
    assert frequencies(temperature=0.5) == near([square / sum(squares) for square in squares])


def test_filters_on_numbers_worked_out_by_hand() -> None:
    scores = torch.tensor([[0.5, 0.1, 0.25, 0.15]]).log()
    kept = {
        (1, 1.0): [0],
        (2, 1.0): [0, 2],
        (0, 0.4): [0],
        (0, 0.6): [0, 2],
        (0, 0.8): [0, 2, 3],
        (0, 1.0): [0, 1, 2, 3],
        (3, 0.8): [0, 2],  # among three the chances are 0.56, 0.28, 0.17
        (9, 1e-6): [0],
    }
    for (top_k, top_p), expected in kept.items():
        filtered = filter_scores(scores, top_k=top_k, top_p=top_p)[0]
        assert filtered.isfinite().nonzero().flatten().tolist() == expected, (top_k, top_p)
    assert torch.equal(filter_scores(scores, temperature=2.0), scores / 2)


def test_repetition_penalty_counts_prompt_and_text_so_far() -> None:
    module = Fixed([0.4, 0.35, 0.25])  # logarithms -0.92, -1.05, -1.39
    way = options(max_new_tokens=4, repetition_penalty=1.2)
    # token 0 stands in the prompt: -1.10, so 1 (then -1.26), then 0 again, whose penalty is not
    # applied twice
    assert generate(module, [[0]], way).ids == [[1, 0, 0, 0]]
    assert generate(module, [[2]], way).ids == [[0, 1, 0, 0]]


# beam search


def test_a_beam_as_wide_as_the_tree_finds_the_most_likely_text() -> None:
    module = learned(vocab_size=4)
    prompt = [1, 3]

    def log_probability(ids: tuple[int, ...]) -> float:
        scores = module(torch.tensor([[*prompt, *ids]]))[0].log_softmax(-1)
        return sum(float(scores[len(prompt) - 1 + n, token]) for n, token in enumerate(ids))

    ranked = sorted(itertools.product(range(4), repeat=3), key=log_probability, reverse=True)
    way = options(max_new_tokens=3, num_beams=16, num_return_sequences=5, length_penalty=1.0)
    found = generate(module, [prompt], way)
    assert found.ids == [list(ids) for ids in ranked[:5]]
    assert found.scores == pytest.approx([log_probability(ids) / 3 for ids in ranked[:5]], rel=1e-4)


def test_length_penalty_decides_between_short_and_long() -> None:
    module = Fixed([0.6, 0.4])  # token 1 ends the text
    short = options(num_beams=2, length_penalty=-1.0, max_new_tokens=5)
    long = options(num_beams=2, length_penalty=3.0, max_new_tokens=5)
    assert generate(module, [[0]], short, end_id=1).ids == [[]]
    assert generate(module, [[0]], long, end_id=1).ids == [[0, 0, 0, 0, 0]]


# stop texts


@pytest.fixture(scope="module")
def letters() -> Tokenizer:
    return build_tokenizer(
        "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ", {"kind": "character"}
    )


@pytest.mark.parametrize("way", [{}, {"temperature": 1.0, "seed": 1}], ids=str)
def test_a_stop_text_ends_the_row_it_appears_in(letters: Tokenizer, way: dict[str, Any]) -> None:
    module = alibi()
    free = generate(module, PROMPTS, options(**way)).ids
    stop = letters.decode(free[0][3:5])
    stopping = options(**way, stop=["not there", stop])
    expected = []
    for ids in free:
        text = letters.decode(ids)  # one letter a token
        expected.append(ids[: text.find(stop) + 2] if stop in text else ids)
    assert len(expected[0]) <= 5
    assert generate(module, PROMPTS, stopping, tokenizer=letters).ids == expected
    assert list(stream(module, PROMPTS[0], stopping, tokenizer=letters)) == expected[0]


def test_a_stop_text_finishes_a_hypothesis(letters: Tokenizer) -> None:
    module = alibi()
    way: dict[str, Any] = {"num_beams": 4, "num_return_sequences": 4, "length_penalty": -2.0}
    best = generate(module, PROMPTS[:1], options(**way)).ids[0]
    stop = letters.decode(best[2:4])
    texts = generate(module, PROMPTS[:1], options(**way, stop=stop), tokenizer=letters).ids
    found = [letters.decode(ids) for ids in texts]
    assert any(text.endswith(stop) and len(text) < 9 for text in found)
    assert all(text.find(stop) in (-1, len(text) - 2) for text in found)


def test_a_stop_text_in_the_prompt_stops_nothing(letters: Tokenizer) -> None:
    prompt = letters.encode("stop").ids
    (written,) = generate(alibi(), [prompt], options(stop="stop"), tokenizer=letters).ids
    assert len(written) == 9


# what a person can get wrong


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -0.1}, "temperature must be 0 (greedy) or above, got -0.1"),
        ({"temperature": math.nan}, "temperature must be 0 (greedy) or above, got nan"),
        ({"temperature": "hot"}, "temperature must be 0 (greedy) or above, got 'hot'"),
        ({"top_p": 1.1}, "top_p must be above 0 and at most 1, got 1.1"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0"),
        ({"top_k": -1}, "top_k must be a whole number from 0 (no filter) on, got -1"),
        ({"max_new_tokens": 0}, "max_new_tokens must be a whole number from 1 on, got 0"),
        ({"max_new_tokens": 2.5}, "max_new_tokens must be a whole number from 1 on, got 2.5"),
        ({"num_beams": 0}, "num_beams must be a whole number from 1 on, got 0"),
        ({"num_beams": None}, "num_beams must be a whole number from 1 on, got None"),
        ({"repetition_penalty": 0}, "repetition_penalty must be above 0; 1 changes nothing, got 0"),
        ({"seed": 0.5}, "seed must be a whole number, got 0.5"),
        ({"stop": ["a", ""]}, "stop must be texts that are not empty, got ['a', '']"),
        ({"do_sample": True, "temperature": 0}, "contradict"),
        ({"num_beams": 2, "temperature": 0.5}, "does not draw"),
        ({"num_beams": 2, "num_return_sequences": 3}, "needs num_beams=3 or more, got 2"),
        ({"num_return_sequences": 2}, "Greedy decoding has one answer"),
        ({"max_tokens": 5}, "Unknown option 'max_tokens'. Did you mean 'max_new_tokens'?"),
    ],
    ids=str,
)
def test_options_that_make_no_sense(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        GenerationOptions.from_dict(values)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_when_options_mean_drawing() -> None:
    drawing: list[dict[str, Any]] = [
        {"temperature": 0.7},
        {"top_k": 5},
        {"top_p": 0.9},
        {"do_sample": True},
    ]
    greedy: list[dict[str, Any]] = [
        {},
        {"temperature": 0},
        {"top_k": 0},
        {"seed": 1},
        {"do_sample": False, "top_p": 0.5},
    ]
    assert all(GenerationOptions(**values).samples for values in drawing)
    assert not any(GenerationOptions(**values).samples for values in greedy)


def test_prompts_and_calls_that_make_no_sense(letters: Tokenizer) -> None:
    module = alibi()
    with pytest.raises(InputError, match="prompt is empty"):
        generate(module, [[1], []], options())
    with pytest.raises(InputError, match="needs the tokenizer"):
        generate(module, [[1]], options(stop="x"))
    with pytest.raises(InputError, match="prompt is empty"):
        stream(module, [], options())  # at the call, not at the first token
    for way in ({"num_beams": 2}, {"do_sample": True, "num_return_sequences": 2}):
        with pytest.raises(InputError, match="Streaming writes one text"):
            stream(module, [1], options(**way))


def test_learned_positions_end_with_the_way_out() -> None:
    module = learned()  # 24 positions
    full = generate(module, [[1] * 20], options(max_new_tokens=5)).ids[0]
    assert len(full) == 5  # the last token needs no position
    with pytest.raises(ContextLengthError) as caught:
        generate(module, [[1] * 20], options(max_new_tokens=6))
    for part in ("20 prompt tokens and 6 new ones", "24 positions", "max_new_tokens=5", "ALiBi"):
        assert part in str(caught.value)
    with pytest.raises(ContextLengthError, match="25 prompt tokens, but .* 24 positions: shorten"):
        stream(module, [1] * 25, GenerationOptions())
    assert len(generate(module, [[1] * 20], GenerationOptions()).ids[0]) == 5  # what there is


@pytest.mark.parametrize("build", [alibi, rope, relative])
def test_the_others_go_on_past_their_training_length(build: Any) -> None:
    module = build()
    assert len(generate(module, [[1] * 20], GenerationOptions()).ids[0]) == 100
    long = generate(module, [[1, 2]], options(max_new_tokens=60)).ids
    assert long == generate(module, [[1, 2]], options(max_new_tokens=60), use_cache=False).ids
