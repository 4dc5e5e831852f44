"""Forward and backward pass of attention: PyTorch's fused one beside the plain one of a training.

    OMP_NUM_THREADS=1 python benchmarks/attention.py

Printed: medians in milliseconds, interleaved; the shapes are those of models of the zoo.
"""

import argparse
import time
from contextlib import nullcontext
from statistics import median

import torch
import torch.nn.functional as F

from zoo.nn import PlainAttention
from zoo.training.memory import keep_freed_memory
from zoo.training.report import hardware

SHAPES = {  # rows, heads, length, width of a head
    "vit-cifar10": (128, 4, 64, 32),
    "tiny-clip, texts": (128, 4, 16, 24),
    "imdb-encoder": (26, 8, 384, 24),
    "small, 16 x 128": (16, 8, 128, 32),
    "2 x 1,024": (2, 8, 1024, 32),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    keep_freed_memory()
    print("| | fused, float32 | plain, float32 | fused, bfloat16 | plain, bfloat16 |")
    print("|---|---|---|---|---|")
    for name, (rows, heads, length, width) in SHAPES.items():
        times: list[list[float]] = [[], [], [], []]
        for _ in range(options.rounds):
            for place, dtype in enumerate((torch.float32, torch.bfloat16)):
                # as a projection of (rows, length, heads x width) leaves them
                drawn = torch.randn(3, rows, length, heads, width, dtype=dtype, requires_grad=True)
                q, k, v = drawn.transpose(2, 3)
                for other, context in enumerate((nullcontext(), PlainAttention())):
                    start = time.perf_counter()
                    with context:
                        F.scaled_dot_product_attention(q, k, v).sum().backward(retain_graph=True)
                    times[2 * place + other].append(time.perf_counter() - start)
        print(f"| {name} | " + " | ".join(f"{1000 * median(t):.1f}" for t in times) + " |")
    print(f"\n{options.rounds} rounds, torch {torch.__version__}, {hardware(torch.device('cpu'))}")


if __name__ == "__main__":
    main()
