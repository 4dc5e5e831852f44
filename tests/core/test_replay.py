"""Recorded steps: the same logits as the module's own, and none where a step is not all calls."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zoo
from zoo.nn import Cache, record_attention, replay
from zoo.nn.quantized import QuantizedMatrix
from zoo.nn.replay import Steps

torch.set_num_threads(1)

DECODERS = ["learned-lm", "sinusoidal-lm", "alibi-lm", "rope-lm", "relative-lm", "instruct-lm"]
N = 30


class Toy(nn.Module):
    """A decoder of one layer without norms: a token takes in what stands before it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.config = SimpleNamespace(n_layers=1, n_heads=1, d_model=8)
        self.embedding = nn.Embedding(20, 8)
        self.key, self.value, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 20)

    def forward(self, ids: Tensor, cache: Cache) -> Tensor:
        x = self.embedding(ids)
        k, v = cache.update(0, self.key(x)[:, None], self.value(x)[:, None])
        x = x + F.scaled_dot_product_attention(x[:, None], *self.seen(k, v))[:, 0]
        x = self.more(x, cache)
        cache.advance(ids.shape[1])
        return self.head(x)  # type: ignore[no-any-return]

    def seen(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return k, v

    def more(self, x: Tensor, cache: Cache) -> Tensor:
        return x


def logits_of(module: nn.Module, by: Callable[[nn.Module, Cache], Any], rows: int = 2) -> Tensor:
    """Logits of `N` tokens, each step as `by` computes it."""
    cache = Cache.of(module.config, rows, N + 3, like=next(module.parameters()))
    ids = torch.randint(1, 20, (rows, N + 3), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        found = [module(ids[:, :3], cache)[:, -1:]]
        step = by(module, cache)
        found += [step(ids[:, n : n + 1]) for n in range(3, N + 3)]
    assert cache.length == N + 3
    return torch.cat(found, dim=1)


def plainly(module: nn.Module, cache: Cache) -> Callable[[Tensor], Tensor]:
    return lambda ids: module(ids, cache)


class Watched:
    """`Steps`, and how many of them were replayed."""

    def __init__(self, module: nn.Module, cache: Cache) -> None:
        Watched.replayed = 0
        self.steps = Steps(plainly(module, cache), module, cache)

    def __call__(self, ids: Tensor) -> Tensor:
        Watched.replayed += id(self.steps.cache.memory) in self.steps.replays
        return self.steps(ids)

    replayed = 0


@pytest.mark.parametrize("name", DECODERS)
def test_logits_are_those_of_the_module(name: str) -> None:
    module = zoo.load(name).module
    expected = logits_of(module, plainly)
    assert torch.equal(logits_of(module, Watched), expected)
    assert Watched.replayed == N - 2
    # another text: one step is recorded, and known again
    assert torch.equal(logits_of(module, Watched), expected)
    assert Watched.replayed == N - 1
    assert torch.equal(logits_of(module, Watched, rows=1), logits_of(module, plainly, rows=1))


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("options", [{}, {"top_k": 5, "seed": 3}, {"repetition_penalty": 1.3}])
def test_texts_are_the_same(
    name: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = zoo.load(name)
    prompts = ["The river was", "In the year of the war he said that"]  # one is padded
    replayed: list[Any] = []
    bound = replay.Program.bound
    monkeypatch.setattr(replay.Program, "bound", lambda *a: replayed.append(a) or bound(*a))
    written = [model(prompts, max_new_tokens=40, **options) for _ in range(2)]
    assert len(replayed) == 2
    monkeypatch.setattr(replay, "LEAST", 10**6)
    assert written == [model(prompts, max_new_tokens=40, **options)] * 2


def test_a_text_is_written_by_the_steps_of_another_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever their lengths are, as long as they are near each other."""
    model = zoo.load("alibi-lm")
    made: list[Any] = []
    init = replay.Program.__init__
    monkeypatch.setattr(replay.Program, "__init__", lambda *a: made.append(a) or init(*a))
    prompts = ["The river was", "In the year of the war he said that"]
    written = [model(text, max_new_tokens=new) for text in prompts for new in (20, 27)]
    assert len(made) == 1
    monkeypatch.setattr(replay, "LEAST", 10**6)
    assert written == [model(text, max_new_tokens=new) for text in prompts for new in (20, 27)]


@pytest.mark.parametrize("beams", [1, 4])
def test_rows_that_change_places(beams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.load("seq2seq-en-de")
    sources = ["a man in a red shirt is climbing a rock", "two dogs play in the snow ."]
    replayed: list[Any] = []
    bound = replay.Program.bound
    monkeypatch.setattr(replay.Program, "bound", lambda *a: replayed.append(a) or bound(*a))
    written = [model(sources[:n], num_beams=beams) for n in (1, 2, 1, 2)]
    assert len(replayed) >= 4
    monkeypatch.setattr(replay, "LEAST", 10**6)
    assert written == [model(sources[:n], num_beams=beams) for n in (1, 2, 1, 2)]


@pytest.mark.parametrize("kind", ["int8", "int4", "dynamic-int8"])
def test_quantised_matrices_stay_so(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.quantize(zoo.load("learned-lm"), kind)
    whole: list[Any] = []
    dequantized = QuantizedMatrix.__torch_dispatch__
    monkeypatch.setattr(
        QuantizedMatrix,
        "__torch_dispatch__",
        classmethod(lambda cls, *a, **k: whole.append(a[0]) or dequantized(*a, **k)),
    )
    written = model("The river was", max_new_tokens=40)
    assert not any("embedding" in str(function) for function in whole)
    monkeypatch.setattr(replay, "LEAST", 10**6)
    assert written == model("The river was", max_new_tokens=40)


def test_weights_are_those_of_now() -> None:
    module = Toy().eval()
    before = logits_of(module, Watched)
    with torch.no_grad():
        module.head.weight.mul_(2)
    assert torch.equal(logits_of(module, Watched), logits_of(module, plainly))
    module.key = nn.Linear(8, 8, bias=False)
    after = logits_of(module, Watched)
    assert torch.equal(after, logits_of(module, plainly)) and not torch.equal(after, before)


class Decides(Toy):
    def more(self, x: Tensor, cache: Cache) -> Tensor:
        return x if x.sum().item() > 0 else 2 * x


class Picks(Toy):
    def more(self, x: Tensor, cache: Cache) -> Tensor:
        return x + x[x > 0].mean()


class Remembers(Toy):
    state = torch.zeros(2, 1, 8)

    def more(self, x: Tensor, cache: Cache) -> Tensor:
        if cache.length == 0:
            return x
        self.state = self.state / 2 + x
        return self.state


class RemembersInPlace(Toy):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("state", torch.zeros(2, 1, 8))

    def more(self, x: Tensor, cache: Cache) -> Tensor:
        if cache.length == 0:
            self.state: Tensor = torch.zeros(2, 1, 8)
            return x
        self.state.mul_(0.5).add_(x)
        return x + self.state


class Jumps(Toy):
    def seen(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return (k, v) if k.shape[2] < 20 else (k[:, :, -4:], v[:, :, -4:])


class Rounds(Toy):
    def seen(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        whole = k.shape[2] // 4 * 4
        return k[:, :, :whole], v[:, :, :whole]


class Looks(Toy):
    tables = torch.arange(100.0).unbind()

    def more(self, x: Tensor, cache: Cache) -> Tensor:
        return x + self.tables[cache.length]


class Scales(Toy):
    def more(self, x: Tensor, cache: Cache) -> Tensor:
        return x * (1 + cache.length / 7)


class Casts(Toy):
    def more(self, x: Tensor, cache: Cache) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.key(x).float()


@pytest.mark.parametrize(
    "kind", [Decides, Picks, Remembers, RemembersInPlace, Jumps, Rounds, Looks, Scales, Casts]
)
def test_steps_that_are_more_than_calls_are_left_to_the_module(kind: type[Toy]) -> None:
    module = kind().eval()
    for _ in range(2):
        expected = logits_of(kind().eval(), plainly)
        assert torch.equal(logits_of(module, Watched), expected)
        assert Watched.replayed == 0
        module = kind().eval()
    assert not torch.equal(expected, logits_of(Toy().eval(), plainly))


class Assigns(Toy):
    def more(self, x: Tensor, cache: Cache) -> Tensor:
        y = torch.zeros_like(x)
        y[:, -1, 2:] = x[:, -1, 2:]
        y[..., 0] += 1
        y.mul_(2)
        return y


def test_parts_that_are_assigned() -> None:
    expected = logits_of(Assigns().eval(), plainly)
    assert torch.equal(logits_of(Assigns().eval(), Watched), expected)
    assert Watched.replayed == N - 2


class Grows(Toy):
    """Its table is made longer when a text outgrows it."""

    table = torch.arange(4.0)

    def more(self, x: Tensor, cache: Cache) -> Tensor:
        end = cache.length + x.shape[1]
        if end > len(self.table):
            self.table = torch.arange(2.0 * end)
        return x + self.table[cache.length : end, None]


def test_tables_grow_before_they_are_needed() -> None:
    assert torch.equal(logits_of(Grows().eval(), Watched), logits_of(Grows().eval(), plainly))
    assert Watched.replayed == N - 6  # four saw shorter tables


def test_a_longer_cache_is_looked_at_anew() -> None:
    """A program holds for caches no longer than the one it was tried in."""

    class JumpsLate(Toy):
        def seen(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
            return (k, v) if k.shape[2] < 40 else (k[:, :, -4:], v[:, :, -4:])

    module = JumpsLate().eval()
    assert torch.equal(logits_of(module, Watched), logits_of(module, plainly))
    assert Watched.replayed == N - 2
    ids = torch.randint(1, 20, (2, 60))
    caches = [Cache.of(module.config, 2, 60) for _ in range(2)]
    steps = Watched(module, caches[0])
    with torch.inference_mode():
        for n in range(60):
            expected = module(ids[:, n : n + 1], caches[1])
            assert torch.equal(steps(ids[:, n : n + 1]), expected)
    assert Watched.replayed == 0


class Ends(Toy):
    """It has fewer positions than the cache has columns."""

    max_len = 30

    def more(self, x: Tensor, cache: Cache) -> Tensor:
        if cache.length >= 30:
            raise ValueError("no more positions")
        return x


class EndsUnsaid(Ends):
    max_len = None


@pytest.mark.parametrize("kind", [Ends, EndsUnsaid])
def test_positions_that_end_before_the_cache(kind: type[Toy]) -> None:
    module = kind().eval()
    ids = torch.randint(1, 20, (1, 30))
    caches = [Cache.of(module.config, 1, 64) for _ in range(2)]
    steps = Watched(module, caches[0])
    with torch.inference_mode():
        for n in range(30):
            expected = module(ids[:, n : n + 1], caches[1])
            assert torch.equal(steps(ids[:, n : n + 1]), expected)
        with pytest.raises(ValueError, match="no more positions"):
            steps(ids[:, :1])
    assert Watched.replayed == (29 if kind is Ends else 0)


def test_who_watches_sees_every_step() -> None:
    module = zoo.load("rope-lm").module
    logits_of(module, Watched)
    cache = Cache.of(module.config, 1, 40)
    steps = Watched(module, cache)
    ids = torch.tensor([[7]])
    with torch.inference_mode():
        for _ in range(5):
            steps(ids)
        with record_attention() as weights:
            steps(ids)
    assert len(weights) == module.config.n_layers
    assert weights[0].shape[-1] == 6
    seen: list[int] = []
    handle = module.register_forward_hook(lambda *_: seen.append(1))
    logits_of(module, Watched)
    handle.remove()
    assert len(seen) == N + 1 and Watched.replayed == 0
