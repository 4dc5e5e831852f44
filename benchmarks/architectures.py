"""What each installed decoder costs at one size: numbers to store, time to train and to write.

    python benchmarks/architectures.py > docs/_build/cost.md

All get the same width, depth, heads, feed-forward width and vocabulary, with random weights. Times
are the processor's time of one thread, so that other work on the machine adds little; the
architectures take turns, and the median round counts. Printed: a Markdown table and the machine.
"""

import argparse
import inspect
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

import zoo
from zoo.generation import GenerationOptions, generate
from zoo.nn import Cache
from zoo.registry import registry, resolve
from zoo.training.report import hardware

SIZES = {
    "vocab_size": 4096,
    "max_seq_len": 256,
    "d_model": 128,
    "n_layers": 4,
    "n_heads": 4,
    "n_kv_heads": 2,
    "d_ff": 512,
}
ROWS = 8  # of SIZES["max_seq_len"] tokens, in a training step
PROMPT, NEW = 8, 120


def is_decoder(name: str) -> bool:
    target = resolve(registry().architectures.get(name).target)
    return "cache" in inspect.signature(target.forward).parameters


def build(name: str) -> torch.nn.Module:
    """The architecture with those of the sizes that it knows."""
    known = resolve(registry().architectures.get(name).target).config_class.__dataclass_fields__
    torch.manual_seed(0)
    return zoo.create(name, **{key: value for key, value in SIZES.items() if key in known})


def seconds(work: Callable[[], object]) -> float:
    start = time.thread_time()
    work()
    return time.thread_time() - start


def train_step(module: torch.nn.Module) -> None:
    ids = torch.randint(SIZES["vocab_size"], (ROWS, SIZES["max_seq_len"] + 1))
    logits = module(ids[:, :-1])
    F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
    module.zero_grad()


def write(module: torch.nn.Module) -> None:
    generate(module, [list(range(1, PROMPT + 1))], GenerationOptions(max_new_tokens=NEW))


def kept(module: torch.nn.Module) -> int:
    """Bytes that the cache holds for a token, all layers, in float32."""
    return Cache.of(module.config, batch=1, max_len=1).memory.nbytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    torch.set_num_threads(1)
    modules = {name: build(name) for name in zoo.list_architectures() if is_decoder(name)}
    training: dict[str, list[float]] = {name: [] for name in modules}
    writing: dict[str, list[float]] = {name: [] for name in modules}
    for round_number in range(options.rounds + 1):
        for name, module in modules.items():
            times = seconds(lambda m=module: train_step(m)), seconds(lambda m=module: write(m))
            if round_number:  # the first one warms up
                training[name].append(times[0])
                writing[name].append(times[1])
    rates = "trained, tokens/s | written, tokens/s"
    print(f"| architecture | parameters | cache, bytes a token | {rates} |")
    print("|---|---|---|---|---|")
    for name, module in modules.items():
        count = sum(parameter.numel() for parameter in module.parameters())
        trained = ROWS * SIZES["max_seq_len"] / statistics.median(training[name])
        written = NEW / statistics.median(writing[name])
        print(f"| {name} | {count:,} | {kept(module):,} | {trained:,.0f} | {written:,.0f} |")
    sizes = ", ".join(f"{key} {value:,}" for key, value in SIZES.items())
    print(
        f"\n{sizes} (n_kv_heads where the architecture has them), random weights, float32. "
        f"Trained: forward and backward of {ROWS} rows of {SIZES['max_seq_len']} tokens, without "
        f"the optimiser. Written: {NEW} tokens after {PROMPT}, one text, greedily, with the cache. "
        f"Tokens a second of processor time, one thread, median of {options.rounds} rounds in "
        f"turns; {hardware(torch.device('cpu'))}, torch {torch.__version__}."
    )


if __name__ == "__main__":
    main()
