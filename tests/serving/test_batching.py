"""Texts that are written side by side are those that each would be alone."""

import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import zoo
from zoo.errors import ContextLengthError, InputError
from zoo.generation import GenerationOptions
from zoo.nn import Cache
from zoo.pipelines import tokenizer_of
from zoo.serving.batching import Busy, Engine, Request, Slots, TooLate

NAMES = ["alibi-lm", "rope-lm", "learned-lm", "relative-lm"]
PROMPTS = [
    "The river",
    "In 1914 , the British army was",
    "A",
    "The first game of the season was played in the rain , and the second in the snow , while",
    "She wrote three books about",
    "Music",
    "On the other hand , the album",
    "It is a species of bird that is found in the south of the country and is known for its song .",
]


class Waiting:
    """Somebody who waits for a text."""

    def __init__(self) -> None:
        self.pieces: queue.Queue[tuple[str, Any]] = queue.Queue()

    def put(self, piece: str, ended: Any) -> None:
        self.pieces.put((piece, ended))

    def text(self) -> tuple[str, str]:
        """All of it, and why it ended."""
        text = ""
        while True:
            piece, ended = self.pieces.get(timeout=60)
            text += piece
            if isinstance(ended, Exception):
                raise ended
            if ended:
                return text, ended


def ask(engine: Engine, prompt: str, **values: Any) -> tuple[Request, Waiting]:
    seconds = values.pop("seconds", 600.0)
    somebody = Waiting()
    ids = engine.pipeline.tokenizer.encode(prompt).ids
    options = GenerationOptions.from_dict(values)
    return engine.submit(ids, options, somebody.put, seconds=seconds), somebody


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(params=NAMES)
def model(request: pytest.FixtureRequest) -> zoo.Model:
    return zoo.load(request.param)


@pytest.fixture
def engine(model: zoo.Model) -> Iterator[Engine]:
    made = Engine(model, rows=3)
    yield made
    made.close()


def test_greedy_texts_are_those_of_each_alone(engine: Engine, model: zoo.Model) -> None:
    """Eight prompts in three rows: they join and leave at different times."""
    lengths = [12, 30, 5, 20, 90, 8, 25, 40]
    asked = [
        ask(engine, prompt, max_new_tokens=count)[1]
        for prompt, count in zip(PROMPTS, lengths, strict=True)
    ]
    found = [somebody.text() for somebody in asked]
    for prompt, count, (text, ended) in zip(PROMPTS, lengths, found, strict=True):
        assert text == model(prompt, max_new_tokens=count, return_full_text=False)
        assert ended == "length"
    assert engine.tokens == sum(lengths)
    assert engine.steps < engine.tokens / 1.5  # not one after the other
    assert not engine.running and not engine.slots.before


def test_rows_that_are_as_many_again_go_on_as_recorded(
    engine: Engine, model: zoo.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other texts, with other padding: the module is called for few of their tokens."""
    called: list[int] = []
    forward = model.module.forward

    def counted(ids: Tensor, cache: Any = None, **more: Any) -> Tensor:
        called.append(ids.shape[1])
        return forward(ids, cache, **more)

    monkeypatch.setattr(model.module, "forward", counted)
    plainly = []
    for prompts in (PROMPTS[:3], PROMPTS[4:7]):
        with engine._news:
            asked = [ask(engine, prompt, max_new_tokens=30)[1] for prompt in prompts]
        found = [somebody.text()[0] for somebody in asked]
        plainly.append(called.count(1))
        assert found == [
            model(prompt, max_new_tokens=30, return_full_text=False) for prompt in prompts
        ]
        called.clear()
    assert engine.steps == 2 * 29
    assert plainly[0] >= 9 and plainly[1] == 0


@pytest.mark.parametrize("model", ["alibi-lm", "rope-lm"], indirect=True)
def test_prompts_are_read_in_pieces_between_the_steps_of_others(
    engine: Engine, model: zoo.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.serving.batching.PIECE", 30)
    monkeypatch.setattr("zoo.nn.replay.LEAST", 10**6)  # each step calls the module
    seen: list[tuple[int, ...]] = []
    forward = model.module.forward

    def counted(ids: Tensor, cache: Any = None, **more: Any) -> Tensor:
        seen.append((*ids.shape, cache.length))
        return forward(ids, cache, **more)

    monkeypatch.setattr(model.module, "forward", counted)
    prompts = ["A", "The cat sat on the mat . " * 20, "In 1900 , " * 10]
    first = ask(engine, prompts[0], max_new_tokens=200)[1]
    begun = first.pieces.get(timeout=60)[0]
    with engine._news:  # the next two are asked for at once
        rest = [ask(engine, prompt, max_new_tokens=5)[1] for prompt in prompts[1:]]
    found = [begun + first.text()[0], *(somebody.text()[0] for somebody in rest)]
    monkeypatch.undo()
    lengths = [200, 5, 5]
    assert found == [
        model(prompt, max_new_tokens=length, return_full_text=False)
        for prompt, length in zip(prompts, lengths, strict=True)
    ]
    reads = [place for place, (rows, columns, _) in enumerate(seen) if rows == 2 and columns > 1]
    longest = len(tokenizer_of(model).encode(prompts[1]).ids)
    assert len(reads) >= longest // 15 > 5  # two rows of 15 tokens each
    assert all(rows * columns <= 30 for rows, columns, _ in seen[1:])
    assert all(seen[place + 1][:2] == (1, 1) for place in reads[:-1])  # the first one's next token


@pytest.mark.parametrize("model", ["rope-lm"], indirect=True)
def test_a_prompt_that_nobody_waits_for_is_not_read_to_its_end(
    engine: Engine, model: zoo.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.serving.batching.PIECE", 1)
    seen: list[int] = []
    forward = model.module.forward

    def slow(ids: Tensor, cache: Any = None, **more: Any) -> Tensor:
        seen.append(cache.length)
        time.sleep(0.01)
        return forward(ids, cache, **more)

    monkeypatch.setattr(model.module, "forward", slow)
    gone, _ = ask(engine, "The cat sat on the mat . " * 20, max_new_tokens=5)
    while len(seen) < 3:
        time.sleep(0.01)
    engine.cancel(gone)
    text, ended = ask(engine, "A", max_new_tokens=5)[1].text()
    assert ended == "length" and max(seen) < 100
    assert text == model("A", max_new_tokens=5, return_full_text=False)


@pytest.mark.parametrize("model", ["rope-lm"], indirect=True)
def test_memory_of_long_texts_is_given_back(
    engine: Engine, model: zoo.Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = engine.slots.store.nbytes
    monkeypatch.setattr("zoo.serving.batching.KEPT", begun)
    sizes: list[int] = []
    _, somebody = ask(engine, "The cat sat on the mat . " * 20, max_new_tokens=5)
    while (piece := somebody.pieces.get(timeout=60))[1] is None:
        sizes.append(engine.slots.store.nbytes)
    assert piece[1] == "length" and max(sizes) > begun
    ask(engine, "A", max_new_tokens=2)[1].text()
    assert engine.slots.store.nbytes == begun


@pytest.mark.parametrize("model", ["alibi-lm"], indirect=True)
def test_each_text_has_its_own_options(engine: Engine, model: zoo.Model) -> None:
    options: list[dict[str, Any]] = [
        {"temperature": 0.9, "top_p": 0.8, "seed": 5},
        {"repetition_penalty": 1.4},
        {"stop": [" ,", " ."]},
        {"temperature": 0.7, "top_k": 9, "seed": 6, "repetition_penalty": 1.2},
        {},
    ]
    asked = [
        ask(engine, prompt, max_new_tokens=25, **values)[1]
        for prompt, values in zip(PROMPTS, options, strict=False)
    ]
    for prompt, values, somebody in zip(PROMPTS, options, asked, strict=False):
        text, ended = somebody.text()
        assert text == model(prompt, max_new_tokens=25, return_full_text=False, **values)
        assert ended == ("stop" if "stop" in values else "length")


def test_the_token_that_ends_a_text() -> None:
    model = zoo.load("alibi-lm")
    tokenizer = tokenizer_of(model)
    [first] = tokenizer.encode(model("The river", max_new_tokens=1, return_full_text=False)).ids
    engine, somebody = Engine(model), Waiting()
    engine.submit(
        tokenizer.encode("The river").ids, GenerationOptions(), somebody.put, end_id=first
    )
    assert somebody.text() == ("", "stop")
    engine.close()


@pytest.mark.parametrize("model", ["alibi-lm"], indirect=True)
def test_whoever_vanishes_frees_the_row(engine: Engine) -> None:
    long = [ask(engine, "The river", max_new_tokens=100_000)[0] for _ in range(3)]
    short = ask(engine, "In 1914 ,", max_new_tokens=3)[1]
    time.sleep(0.1)
    assert short.pieces.empty()  # three rows, and a fourth that waits
    engine.cancel(long[1])
    assert short.text()[1] == "length"
    for request in long:
        engine.cancel(request)
    assert ask(engine, "In 1914 ,", max_new_tokens=3)[1].text()[1] == "length"


@pytest.mark.parametrize("model", ["alibi-lm"], indirect=True)
def test_a_text_that_takes_too_long_ends(engine: Engine) -> None:
    somebody = ask(engine, "The river", max_new_tokens=1_000_000, seconds=0.3)[1]
    with pytest.raises(TooLate, match="took too long"):
        somebody.text()


@pytest.mark.parametrize("model", ["learned-lm"], indirect=True)
def test_what_cannot_be_written_is_said_at_once(engine: Engine) -> None:
    with pytest.raises(ContextLengthError, match="this model has 256 positions"):
        ask(engine, "The river", max_new_tokens=1000)
    with pytest.raises(InputError, match="no beams"):
        ask(engine, "The river", num_beams=2)
    with pytest.raises(InputError, match="The prompt is empty"):
        engine.submit([], GenerationOptions(), Waiting().put)
    with pytest.raises(InputError, match="it continues no text"):
        Engine(zoo.load("emotion-encoder"))


def test_too_many_wait_and_the_end() -> None:
    engine = Engine(zoo.load("alibi-lm"), rows=1, waiting=1)
    asked = [ask(engine, "The river", max_new_tokens=100_000)[1]]
    asked[0].pieces.get(timeout=60)  # it runs
    asked.append(ask(engine, "The river", max_new_tokens=5)[1])
    with pytest.raises(Busy, match="1 texts wait; ask again later"):
        ask(engine, "The river")
    engine.close()
    for somebody in asked:
        with pytest.raises(Busy, match="is being stopped"):
            somebody.text()
    with pytest.raises(Busy):
        ask(engine, "The river")


def test_an_error_reaches_all_who_wait_and_the_loop_goes_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = zoo.load("alibi-lm")
    engine, real, broken = Engine(model), type(model.module).forward, threading.Event()

    def forward(*arguments: Any) -> Any:
        if broken.is_set():
            raise MemoryError("no memory")
        return real(*arguments)

    monkeypatch.setattr(type(model.module), "forward", forward)
    asked = [ask(engine, prompt, max_new_tokens=100_000)[1] for prompt in PROMPTS[:2]]
    asked[0].pieces.get(timeout=60)
    broken.set()
    for somebody in asked:
        with pytest.raises(MemoryError):
            somebody.text()
    broken.clear()
    text, _ = ask(engine, "The river", max_new_tokens=5)[1].text()
    assert text == model("The river", max_new_tokens=5, return_full_text=False)
    engine.close()


def test_rows_move_with_their_keys_and_values() -> None:
    """Whatever joins, leaves and grows: a row holds what it was given, at its end."""
    model = zoo.load("alibi-lm")
    slots = Slots(model.module, rows=4)
    L, _, _, H, _, E = slots.store.shape
    held: list[torch.Tensor] = []
    generator = torch.Generator().manual_seed(1)

    def join(*lengths: int) -> None:
        longest = max(lengths)
        other = Cache.of(model.module.config, len(lengths), longest)
        other.memory = torch.rand(L, 2, len(lengths), H, longest, E, generator=generator)
        other.advance(longest)
        slots.join(other, [longest - length for length in lengths])
        held.extend(
            other.memory[:, :, row, :, longest - length :] for row, length in enumerate(lengths)
        )

    def check() -> None:
        assert len(slots.before) == len(held) == slots.memory.shape[2]
        for row, values in enumerate(held):
            there = slots.memory[:, :, row, :, slots.before[row] : slots.length]
            torch.testing.assert_close(there, values, rtol=0, atol=0)

    def leave(row: int) -> None:
        slots.leave(row)
        last = held.pop()
        if row < len(held):
            held[row] = last

    join(5, 9)
    check()
    join(70)  # longer than all, and than the columns there were
    check()
    assert slots.length == 70 and slots.max_len == 128
    join(3)
    leave(0)
    check()
    leave(2)  # the longest: the others move back
    check()
    assert slots.length < 70
    while slots.length < slots.max_len:
        slots.advance(1)
        held = [torch.nn.functional.pad(values, (0, 0, 0, 1)) for values in held]
    held = [
        slots.memory[:, :, row, :, slots.before[row] : slots.length].clone()
        for row in range(len(held))
    ]
    slots.make_room()
    assert slots.length < slots.max_len
    check()


def test_steps_are_replayed_while_nobody_comes_or_goes(engine: Engine, model: zoo.Model) -> None:
    calls: list[int] = []
    forward = model.module.forward
    model.module.forward = lambda *a, **k: (calls.append(1), forward(*a, **k))[1]  # type: ignore[method-assign]
    try:
        pair = [ask(engine, prompt, max_new_tokens=100)[1] for prompt in PROMPTS[:2]]
        found = [somebody.text()[0] for somebody in pair]
    finally:
        del model.module.forward
    assert len(calls) < 50 < engine.steps
    for prompt, text in zip(PROMPTS, found, strict=False):
        assert text == model(prompt, max_new_tokens=100, return_full_text=False)
