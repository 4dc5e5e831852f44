"""Products with a matrix: PyTorch's own beside those of `zoo.nn.reordered`, by rows.

    OMP_NUM_THREADS=2 python benchmarks/products.py
    OMP_NUM_THREADS=2 python benchmarks/products.py --megabytes 27

Printed: medians in microseconds, interleaved, of a linear layer's call; and how long the copy of
the matrix takes. Both find their matrix in the processor's cache where it fits; while a large model
writes it does not. With --megabytes as many such matrices take turns as are so large together.
"""

import argparse
import time
from statistics import median

import torch
from torch import nn

from zoo.nn import layout, reordered
from zoo.training.report import hardware

SHAPES = {  # inputs, outputs
    "tiny, up": (64, 256),
    "tiny, head": (64, 5755),
    "small, up": (256, 1024),
    "small, head": (256, 8192),
    "GPT-2, up": (768, 3072),
    "GPT-2, head": (768, 50257),
}
ROWS = (1, 8, 64, 512)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--megabytes", type=float, default=0.0, help="of matrices in turns")
    options = parser.parse_args()
    layout.LEAST = layout.LEAST_AFAR = 0  # oneDNN has every product
    print("| | " + " | ".join(f"{rows} rows" for rows in ROWS) + " | copy |")
    print("|---" * (len(ROWS) + 2) + "|")
    for name, (inputs, outputs) in SHAPES.items():
        number = max(1, round(options.megabytes * 1e6 / (4 * inputs * outputs)))
        layers = [nn.Linear(inputs, outputs, bias=False) for _ in range(number)]
        linears = nn.ModuleList(layers).requires_grad_(False)
        cells = []
        for rows in ROWS:
            x = torch.randn(rows, inputs)
            plain, other = [], []
            for _ in range(options.rounds):
                with torch.inference_mode():
                    plain.append(timed(linears, x))
                    with reordered(linears):
                        other.append(timed(linears, x))
            cells.append(f"{median(plain):.0f}, {median(other):.0f}")
        start = time.perf_counter()
        torch.ops.mkldnn._reorder_linear_weight(layers[0].weight)
        copied = 1e6 * (time.perf_counter() - start)
        print(f"| {name} | {' | '.join(cells)} | {copied:.0f} |")
    print(f"\n{options.rounds} rounds, torch {torch.__version__}, {hardware(torch.device('cpu'))}")


def timed(linears: nn.ModuleList, x: torch.Tensor) -> float:
    """Microseconds of one call, each called once, after a time that is not counted."""
    for linear in linears:  # copies are made
        linear(x)
    start = time.perf_counter()
    for linear in linears:
        linear(x)
    return 1e6 * (time.perf_counter() - start) / len(linears)


if __name__ == "__main__":
    main()
