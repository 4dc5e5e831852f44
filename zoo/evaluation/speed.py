"""How fast a model is on this machine: what it writes or reads a second, in rounds that take turns.

Letters: B batch, T length, V vocabulary, C channels.
"""

import json
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo import __version__
from zoo.errors import InputError, ZooError
from zoo.export.base import arguments
from zoo.generation import GenerationOptions, generate
from zoo.loading import load
from zoo.model import Model
from zoo.nn import EncoderDecoder, VisionEncoderDecoder
from zoo.numbers import plural

BATCHES = (1, 8)
TOKENS = 128  # that are written in a round
PROMPT = 32  # tokens that they follow, or of a text that is read
PREFILL = 256  # tokens that are read at once
WAITED = 0.03  # share of a round that the thread may wait for a processor and still count
SCHEDULE = Path("/proc/thread-self/schedstat")  # nanoseconds run and nanoseconds waited, on Linux

# a process that loads a model and answers once: to be timed from outside, until its line
COLD = """
import json, sys, time
began = time.perf_counter()
import zoo
model = zoo.load(sys.argv[1], engine=sys.argv[4] or None)
loaded = time.perf_counter()
import torch
if sys.argv[2] == "write":
    from zoo.generation import GenerationOptions, stream
    next(stream(model.module, [1], GenerationOptions(max_new_tokens=1)))
else:
    with torch.inference_mode():
        shapes = json.loads(sys.argv[3])
        model.module(*(torch.ones(shape, dtype=getattr(torch, kind)) for kind, shape in shapes))
try:
    import resource
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak *= 1 if sys.platform == "darwin" else 1024
except ImportError:  # Windows
    peak = None
print(json.dumps({"load": loaded - began, "peak": peak}), flush=True)
"""


@dataclass(frozen=True)
class Work:
    """Something that is timed.

    Attributes:
        what: in words.
        unit: what of it is counted: `tokens`, `texts` or `pictures`.
        count: how many a run does.
        run: does it.
    """

    what: str
    unit: str
    count: int
    run: Callable[[], object]


@dataclass(frozen=True)
class Figure:
    """A measured figure.

    Attributes:
        what: in words.
        unit: of the numbers: `tokens/s`, `s`, `bytes`.
        median: of the rounds.
        low: the least.
        high: the most.
        rounds: that were run.
        undisturbed: of them, those whose thread hardly waited for a processor; where there are
            some, the numbers are of these alone.
    """

    what: str
    unit: str
    median: float
    low: float
    high: float
    rounds: int
    undisturbed: int


def works(model: Model, *, batches: Sequence[int] = BATCHES, tokens: int = TOKENS) -> list[Work]:
    """What can be timed of a model: what it writes, or else what it reads.

    A decoder goes on from texts of 32 random tokens, and reads one of 256; an encoder-decoder
    answers sources of 32; an encoder reads texts of 32; others read pictures of random pixels.
    What is written has `tokens` tokens, or as many as there are positions for.

    Raises:
        InputError: a size below 1, or a kind of model that is not timed.
    """
    for name, value in (("tokens", tokens), *(("batch", batch) for batch in batches)):
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}")
    kind = _kind(model)
    if kind == "write":
        most = _positions(model)
        found = [_reading_whole(model, min(PREFILL, most))]
        return found + [_writing(model, batch, tokens) for batch in batches]
    if kind == "answer":
        return [_answering(model, batch, tokens) for batch in batches]
    return [_reading(model, batch) for batch in batches]


def is_timed(model: Model) -> bool:
    """Whether `works` knows what to time of a model."""
    try:
        return bool(_kind(model))
    except InputError:
        return False


def measured(works: Sequence[Work], rounds: int) -> list[Figure]:
    """Time each work, in rounds that take turns, after one that does not count.

    Raises:
        InputError: no round.
    """
    if rounds < 1:
        raise InputError(f"rounds must be at least 1, got {rounds}")
    samples: list[list[tuple[float, float]]] = [[] for _ in works]
    for number in range(rounds + 1):
        for work, taken in zip(works, samples, strict=True):
            before, start = _waited(), time.perf_counter()
            work.run()
            seconds = time.perf_counter() - start
            if number:
                taken.append((work.count / seconds, (_waited() - before) / 1e9 / seconds))
    return [
        _figure(work.what, f"{work.unit}/s", taken)
        for work, taken in zip(works, samples, strict=True)
    ]


def bench(
    ref: str | Path,
    *,
    batches: Sequence[int] = BATCHES,
    tokens: int = TOKENS,
    rounds: int = 5,
    engine: str | None = None,
) -> tuple[Model, list[Figure]]:
    """Time a model from a cold process on: start, load, memory, and what it does a second.

    Args:
        ref: as of `zoo.load`.
        batches: texts or pictures at a time.
        tokens: to write in a round.
        rounds: of each.
        engine: as of `zoo.load`; what it reads is written before anything is timed.

    Returns:
        The model, and the figures.

    Raises:
        InputError: a size below 1, or a kind of model that is not timed.
        ZooError: the model is not found or loaded.
    """
    model = load(ref, engine=engine)
    todo = works(model, batches=batches, tokens=tokens)
    figures = measured(todo, rounds)
    return model, _cold(str(ref), model, rounds, engine) + figures


def machine(device: torch.device) -> dict[str, Any]:
    """What figures were measured on."""
    from zoo.training.report import hardware

    return {
        "hardware": hardware(device),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "txzoo": __version__,
    }


def _kind(model: Model) -> str:
    """What a model does: `write`, `answer` or `read`."""
    if isinstance(model.module, VisionEncoderDecoder):
        raise InputError(
            f"{model.name} puts pictures into words, which is not timed: what is timed are "
            "decoders, encoder-decoders of texts, encoders, and classifiers of pictures"
        )
    if isinstance(model.module, EncoderDecoder):
        return "answer"
    taken = arguments(type(model.module))
    if taken[:2] == ["pixels", "ids"] or taken[0] not in ("ids", "pixels"):
        raise InputError(
            f"{model.name} takes {' and '.join(taken)}, which is not timed: what is timed are "
            "decoders, encoder-decoders of texts, encoders, and classifiers of pictures"
        )
    return "write" if "cache" in taken else "read"


def _writing(model: Model, batch: int, tokens: int) -> Work:
    most = _positions(model)
    length = min(PROMPT, max(1, most // 2))
    options = GenerationOptions(max_new_tokens=min(tokens, most - length + 1))
    prompts = _ids(model, batch, length).tolist()
    count = batch * (options.max_new_tokens or 0)
    what = f"write, batch {batch}"
    return Work(what, "tokens", count, lambda: generate(model.module, prompts, options))


def _answering(model: Model, batch: int, tokens: int) -> Work:
    from zoo.pipelines.text2text import Given

    module = model.module
    assert isinstance(module, EncoderDecoder)
    most = _positions(model)
    options = GenerationOptions(max_new_tokens=min(tokens, most))
    sources = _ids(model, batch, min(PROMPT, most)).tolist()

    def run() -> object:
        given = Given(module, sources)
        return generate(given, given.prompts, options)

    count = batch * (options.max_new_tokens or 0)
    return Work(f"answer, batch {batch}", "tokens", count, run)


def _reading(model: Model, batch: int) -> Work:
    shapes = _shapes(model, batch)
    ((kind, shape),) = shapes
    if kind == "float32":
        given = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        given, unit = given.to(next(model.module.parameters())), "pictures"
        what = f"read, batch {batch}"
    else:
        given, unit = _ids(model, batch, shape[1]), "texts"
        what = f"read texts of {plural(shape[1], 'token')}, batch {batch}"
    return Work(what, unit, batch, lambda: _forward(model.module, given))


def _reading_whole(model: Model, length: int) -> Work:
    given = _ids(model, 1, length)
    what = f"read {plural(length, 'token')} at once"
    return Work(what, "tokens", length, lambda: _forward(model.module, given))


@torch.inference_mode()
def _forward(module: nn.Module, given: Tensor) -> object:
    return module(given)


def _shapes(model: Model, batch: int) -> list[tuple[str, list[int]]]:
    """The kinds and shapes of what a module is called with."""
    config: Any = model.config
    if hasattr(config, "image_size"):
        side = config.image_size
        return [("float32", [batch, getattr(config, "n_channels", 3), side, side])]
    ids = ("long", [batch, min(PROMPT, _positions(model))])
    return [ids, ids] if isinstance(model.module, EncoderDecoder) else [ids]


def _positions(model: Model) -> int:
    """How many tokens it reads at most; of what has no end, what it was trained on."""
    most = getattr(model.module, "max_len", None) or getattr(model.config, "max_seq_len", None)
    return int(most or 512)


def _ids(model: Model, batch: int, length: int) -> Tensor:
    """Random tokens (B, T); neither of the first two, which may be padding and unknown."""
    size = model.config.vocab_size
    chance = torch.Generator().manual_seed(0)
    ids = torch.randint(min(2, size - 1), size, (batch, length), generator=chance)
    return ids.to(model.device)


def _cold(ref: str, model: Model, rounds: int, engine: str | None = None) -> list[Figure]:
    """Figures of processes that load the model and answer once."""
    kind = _kind(model)
    command = [sys.executable, "-c", COLD, ref, kind, json.dumps(_shapes(model, 1))]
    command.append(engine or "")
    whole: list[tuple[float, float]] = []
    loading: list[tuple[float, float]] = []
    peaks: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True)
        seconds = time.perf_counter() - start
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise ZooError(f"A process that loads {model.name} failed: {reason}")
        told: Mapping[str, float | None] = json.loads(done.stdout.splitlines()[-1])
        if number:  # the first one fills the disk's cache
            whole.append((seconds, 0.0))
            loading.append((told["load"] or 0.0, 0.0))
            if told["peak"] is not None:
                peaks.append((told["peak"], 0.0))
    first = "token" if kind == "write" else "answer"
    found = [
        _figure(f"cold process to the first {first}", "s", whole),
        _figure("of it import and load", "s", loading),
    ]
    return found + ([_figure("its peak memory", "bytes", peaks)] if peaks else [])


def _figure(what: str, unit: str, samples: Sequence[tuple[float, float]]) -> Figure:
    """The figure of samples, each with the share of its time that it waited for a processor."""
    calm = [value for value, waited in samples if waited <= WAITED]
    values = calm or [value for value, _ in samples]
    middle = statistics.median(values)
    return Figure(what, unit, middle, min(values), max(values), len(samples), len(calm))


def _waited() -> int:
    """Nanoseconds that this thread stood ready without a processor; 0 where nobody counts."""
    if not SCHEDULE.exists():
        return 0
    return int(SCHEDULE.read_text(encoding="ascii").split()[1])
