"""Speculative decoding: the model's own text: greedily the same, drawn by its own chances."""

import itertools
import json
import math
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from tokenizers import Tokenizer
from torch import Tensor, nn
from zoo_alibi.model import AlibiConfig, AlibiDecoder
from zoo_decoder.model import Decoder, DecoderConfig
from zoo_relative.model import RelativeConfig, RelativeDecoder
from zoo_rope.model import RopeConfig, RopeDecoder

from zoo import Model, speculation
from zoo.cli import cli
from zoo.errors import InputError
from zoo.generation import Draw, GenerationOptions, generate, stream
from zoo.nn import Cache
from zoo.speculation import Draft
from zoo.tokenization import build_tokenizer

torch.set_num_threads(1)

SIZES: dict[str, Any] = {
    "max_seq_len": 64,
    "d_model": 24,
    "n_layers": 2,
    "n_heads": 6,
    "d_ff": 40,
    "tie_embeddings": False,
}
KINDS: dict[str, Any] = {
    "learned": (Decoder, DecoderConfig, {}),
    "alibi": (AlibiDecoder, AlibiConfig, {}),
    "rope": (RopeDecoder, RopeConfig, {"n_kv_heads": 2}),
    "relative": (RelativeDecoder, RelativeConfig, {}),
}
PROMPT = [5, 3, 8, 1, 9, 2, 7]


def module_of(kind: str, *, vocab_size: int = 53, seed: int = 3, **changes: Any) -> nn.Module:
    """Random weights so large that the next token depends on everything before."""
    build, config, own = KINDS[kind]
    module: nn.Module = build(config(vocab_size=vocab_size, **{**SIZES, **own, **changes}))
    generator = torch.Generator().manual_seed(seed)
    for parameter in module.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.5, generator=generator)
    return module.eval().requires_grad_(False)


def shaken(module: nn.Module, by: float) -> nn.Module:
    """The same weights with some noise: a draft that is often right."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator), alpha=by)
    return module


def model_of(
    module: nn.Module, tokenizer: Tokenizer | None = None, name: str = "toy", **changes: Any
) -> Model:
    values = {"config": module.config, "pipeline": "text-generation", "card": None, **changes}
    return Model(name=name, module=module, tokenizer=tokenizer, **values)


def options(**values: Any) -> GenerationOptions:
    return GenerationOptions(**{"max_new_tokens": 25, **values})


@pytest.mark.parametrize("penalty", [1.0, 1.4])
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_writes_the_same_tokens_whatever_the_draft(kind: str, penalty: float) -> None:
    target, way = module_of(kind), options(repetition_penalty=penalty)
    (alone,) = generate(target, [PROMPT], way).ids
    assert len(set(alone)) > 3, "these weights say too little to test anything"
    rates = []
    others = [shaken(module_of(kind), by) for by in (0.0, 0.05)]
    for number, helper in enumerate([*others, module_of("alibi", seed=9)]):
        draft = Draft(model_of(helper), tokens=number + 2)
        assert list(stream(target, PROMPT, way, draft=draft)) == alone
        rates.append(draft.acceptance_rate)
    assert rates[0] == 1  # the model itself
    assert 1 > rates[1] > rates[2]


def test_a_draft_that_is_always_right_saves_passes() -> None:
    target = module_of("rope")
    draft = Draft(model_of(module_of("rope")), tokens=4)
    assert len(list(stream(target, PROMPT, options(), draft=draft))) == 25
    assert (draft.passes, draft.drafted, draft.accepted) == (5, 20, 20)  # 4 drafted and 1 a pass
    one = Draft(model_of(module_of("rope")), tokens=9)
    assert len(list(stream(target, PROMPT, options(max_new_tokens=1), draft=one))) == 1
    assert (one.passes, one.drafted) == (1, 0) and math.isnan(one.acceptance_rate)


def test_a_draft_with_fewer_positions_helps_as_far_as_they_go() -> None:
    target = module_of("alibi")
    (alone,) = generate(target, [PROMPT], options()).ids
    for positions in (4, 12):  # fewer than the prompt has, and than the text will have
        draft = Draft(model_of(module_of("learned", max_seq_len=positions)))
        assert list(stream(target, PROMPT, options(), draft=draft)) == alone
        assert (draft.drafted > 0) == (positions == 12)


class Chain(nn.Module):
    """The chances of the next token depend on the last one alone: its row of a table."""

    max_len = None

    def __init__(self, seed: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.scores = nn.Parameter(torch.randn(4, 4, generator=generator) * 1.5, False)
        self.config = SimpleNamespace(vocab_size=4, n_layers=1, n_heads=1, d_model=1)

    def forward(self, ids: Tensor, cache: Cache) -> Tensor:
        cache.advance(ids.shape[1])
        return self.scores[ids]


WAYS: list[dict[str, Any]] = [
    {"do_sample": True},
    {"temperature": 0.7, "repetition_penalty": 1.5},
    {"temperature": 1.4, "top_k": 3},
    {"top_p": 0.8},
]
LENGTH, TEXTS = 3, 3000


def expected(way: dict[str, Any]) -> dict[tuple[int, ...], float]:
    """The chance of every text of `LENGTH` tokens after token 0, by hand."""
    table = Chain(1).scores.tolist()
    found = {}
    for text in itertools.product(range(4), repeat=LENGTH):
        chance, before = 1.0, [0]
        for token in text:
            scores = list(table[before[-1]])
            for seen in set(before):
                penalty = way.get("repetition_penalty", 1.0)
                scores[seen] *= penalty if scores[seen] < 0 else 1 / penalty
            weights = [math.exp(score / way.get("temperature", 1.0)) for score in scores]
            order = sorted(range(4), key=lambda place: -weights[place])
            kept = order[: way.get("top_k", 4)]
            if "top_p" in way:
                shares = [weights[place] / sum(weights) for place in order]
                count = next(n for n in range(1, 5) if sum(shares[:n]) >= way["top_p"])
                kept = order[:count]
            chance *= (token in kept) * weights[token] / sum(weights[place] for place in kept)
            before.append(token)
        found[text] = chance
    return found


def distance(way: dict[str, Any], draft: Draft | None, module: nn.Module) -> float:
    """Pearson's chi-square of the texts that are written, in standard deviations above its mean."""
    texts = Counter(
        tuple(stream(module, [0], options(max_new_tokens=LENGTH, seed=seed, **way), draft=draft))
        for seed in range(TEXTS)
    )
    chances = expected(way)
    assert sum(chances.values()) == pytest.approx(1)
    assert all(chances[text] > 0 for text in texts)
    likely = {text: chance for text, chance in chances.items() if chance * TEXTS >= 5}
    cells = [(texts[text], chance) for text, chance in likely.items()]
    rest = 1 - sum(likely.values())
    if rest * TEXTS >= 5:
        cells.append((TEXTS - sum(texts[text] for text in likely), rest))
    square = sum((n - TEXTS * p) ** 2 / (TEXTS * p) for n, p in cells)
    freedom = len(cells) - 1
    return (square - freedom) / math.sqrt(2 * freedom)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_drawn_texts_have_the_chances_of_the_model(way: dict[str, Any]) -> None:
    draft = Draft(model_of(Chain(2)), tokens=2)
    assert abs(distance(way, draft, Chain(1))) < 4
    assert 0.2 < draft.acceptance_rate < 0.95  # both ends of the rule were tried


def test_a_wrong_rule_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test above rests on: kept always, or another one drawn from p as it is."""
    way = WAYS[0]

    def always(drafted: list[int], guesses: Any, chances: Tensor, draw: Draw) -> list[int]:
        return [*drafted, int(draw.pick(chances[-1:]))]

    def whole(drafted: list[int], guesses: Any, chances: Tensor, draw: Draw) -> list[int]:
        for place, (token, guess) in enumerate(zip(drafted, guesses, strict=True)):
            if draw.streams[0].random() * float(guess[0, token]) >= float(chances[place, token]):
                return [*drafted[:place], int(draw.pick(chances[place : place + 1]))]
        return [*drafted, int(draw.pick(chances[-1:]))]

    for wrong in (always, whole):
        monkeypatch.setattr(speculation, "_kept", wrong)
        assert distance(way, Draft(model_of(Chain(2)), tokens=2), Chain(1)) > 10


def test_as_many_are_kept_as_the_paper_says() -> None:
    """A drafted token is kept with chance sum_x min(p(x), q(x)): corollary 3.6."""
    p, q = (Chain(seed).scores[0].softmax(0) for seed in (1, 2))
    way, draft = options(max_new_tokens=2, do_sample=True), Draft(model_of(Chain(2)), tokens=1)
    for _ in range(2000):
        list(stream(Chain(1), [0], way, draft=draft))
    wanted = float(torch.minimum(p, q).sum())
    assert draft.drafted == 2000
    error = math.sqrt(wanted * (1 - wanted) / 2000)
    assert abs(draft.acceptance_rate - wanted) < 4 * error


TEXT = "The president of the United States said that it's late.\nHe didn't go, she did: 12 more!\n"


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return build_tokenizer(TEXT * 3, {"kind": "word"})


def pair(tokenizer: Tokenizer) -> tuple[Model, Model]:
    size = tokenizer.get_vocab_size()
    target = module_of("alibi", vocab_size=size)
    helper = shaken(module_of("alibi", vocab_size=size), 0.05)
    return model_of(target, tokenizer, "target"), model_of(helper, tokenizer, "helper")


def test_texts_streams_stops_and_seeds(tokenizer: Tokenizer) -> None:
    target, helper = pair(tokenizer)
    given: dict[str, Any] = {"max_new_tokens": 30}
    alone = target("The president", **given)
    assert target("The president", draft=helper, **given) == alone
    assert "".join(target("The president", draft=helper, stream=True, **given)) == alone
    new = target("The president", return_full_text=False, **given)
    stop = new[len(new) // 2 : len(new) // 2 + 4]
    stopped = target("The president", stop=[stop], **given)
    assert len(stopped) < len(alone)
    assert target("The president", stop=[stop], draft=helper, **given) == stopped
    drawn = [
        target("The president", draft=helper, temperature=1.0, seed=n, **given) for n in (1, 2)
    ]
    assert drawn[0] != drawn[1]
    assert drawn[0] == target("The president", draft=helper, temperature=1.0, seed=1, **given)
    ids = tokenizer.encode(new).ids
    chosen = stream(target.module, [1], options(), end_id=ids[0], draft=Draft(helper))
    assert list(chosen) == list(stream(target.module, [1], options(), end_id=ids[0]))


def test_what_cannot_draft_is_refused_by_name(tokenizer: Tokenizer) -> None:
    target, helper = pair(tokenizer)
    other = build_tokenizer("other words stand here", {"kind": "word"})
    stranger = model_of(module_of("rope", vocab_size=other.get_vocab_size()), other, "stranger")
    for given in (stranger, Draft(stranger)):
        with pytest.raises(InputError, match="target and its draft stranger do not share a token"):
            target("The", draft=given)
    wider = model_of(module_of("alibi", vocab_size=90), tokenizer, "wider")
    with pytest.raises(InputError, match=f"numbers of tokens: {tokenizer.get_vocab_size()}, 90"):
        target("The", draft=wider)
    with pytest.raises(InputError, match="with one text: give one prompt, not a list"):
        target(["The"], draft=helper)
    for way in ({"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}):
        with pytest.raises(InputError, match="leave out num_beams and num_return_sequences"):
            target("The", draft=helper, **way)
    with pytest.raises(InputError, match="helper is a fill-mask model: a draft is a text-gen"):
        Draft(model_of(helper.module, tokenizer, "helper", pipeline="fill-mask"))
    for tokens in (0, 1.5):
        with pytest.raises(InputError, match="tokens must be a whole number from 1 on"):
            Draft(helper, tokens=tokens)  # type: ignore[arg-type]


def test_the_command_says_how_much_was_kept() -> None:
    words = ["run", "alibi-lm", "The river", "--max-new-tokens", "12"]
    alone = CliRunner().invoke(cli, words)
    helped = CliRunner().invoke(cli, [*words, "--draft", "rope-lm"])
    assert helped.exit_code == 0, helped.output
    assert helped.stdout == alone.stdout
    assert "rope-lm drafted " in helped.stderr and "alibi-lm ran " in helped.stderr
    shown = json.loads(CliRunner().invoke(cli, [*words, "--draft", "rope-lm", "--json"]).stdout)
    assert shown["generated_text"] == alone.stdout.removesuffix("\n")
    facts = shown["draft"]
    assert facts["model"] == "rope-lm" and 0 <= facts["accepted"] <= facts["drafted"]
    assert facts["accepted"] + facts["passes"] >= 12
    refused = CliRunner().invoke(cli, [*words, "--draft", "speech-alibi"])
    assert refused.exit_code == 1
