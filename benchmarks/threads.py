"""Decoding on one and on all threads, in the main thread of Python and in another one.

    python benchmarks/threads.py

Printed: tokens a second, medians, interleaved; in the other thread as a server writes, after the
main one has computed something. `zoo.nn.threads` chooses by that.
"""

import argparse
import threading
import time
from statistics import median

import torch

import zoo
from zoo.generation import GenerationOptions, generate
from zoo.nn import threads
from zoo.training.report import hardware

PROMPT = [3, 7, 11, 19, 23, 29, 31, 37]
SHAPES = {
    "tiny": {"d_model": 64, "n_heads": 2, "n_layers": 4, "vocab_size": 5755, "d_ff": 256},
    "rope-lm's": {"d_model": 128, "n_heads": 4, "n_layers": 4, "vocab_size": 4096, "d_ff": 512},
    "small": {"d_model": 256, "n_heads": 8, "n_layers": 6, "vocab_size": 8192, "d_ff": 1024},
    "GPT-2's": {"d_model": 768, "n_heads": 12, "n_layers": 12, "vocab_size": 50257, "d_ff": 3072},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8, 32])
    options = parser.parse_args()
    threads.FEW = threads.FEW_ELSEWHERE = 0  # what is set here holds
    many = torch.get_num_threads()
    torch.randn(1 << 22).sin().sum()  # the main thread has its helpers now
    title = f"one, {many} threads"
    print(f"| | million multiplications | main: {title} | another: {title} |\n|---|---|---|---|")
    for name, sizes in SHAPES.items():
        module = zoo.create("decoder", **sizes, max_seq_len=64).eval().requires_grad_(False)
        size = sum(p.numel() for p in module.parameters() if p.dim() == 2)
        for rows in options.rows:
            found: list[list[float]] = [[], []]
            rates(module, rows, many, options.rounds, found[0])
            there = threading.Thread(
                target=rates, args=(module, rows, many, options.rounds, found[1])
            )
            there.start()
            there.join()
            cells = " | ".join(", ".join(f"{rate:,.0f}" for rate in pair) for pair in found)
            print(f"| {name}, {rows} rows | {rows * size / 1e6:.1f} | {cells} |", flush=True)
    print(f"\n{options.rounds} rounds, torch {torch.__version__}, {hardware(torch.device('cpu'))}")


def rates(module: torch.nn.Module, rows: int, many: int, rounds: int, found: list[float]) -> None:
    """Tokens a second on one thread and on many."""
    new = GenerationOptions(max_new_tokens=24)
    times: dict[int, list[float]] = {1: [], many: []}
    for _ in range(rounds + 1):
        for count, taken in times.items():
            torch.set_num_threads(count)
            start = time.perf_counter()
            generate(module, [PROMPT] * rows, new)
            taken.append(time.perf_counter() - start)
    found += [24 * rows / median(taken[1:]) for taken in times.values()]


if __name__ == "__main__":
    main()
