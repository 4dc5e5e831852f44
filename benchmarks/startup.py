"""How long it takes until something happens: imports, listings, the first token of a cold process.

    python benchmarks/startup.py --rounds 15

Each command is a process of its own; rounds take turns. Printed: medians in milliseconds, and what
each takes above the bare interpreter or above `import torch`.
"""

import argparse
import statistics
import subprocess
import sys
import time

from zoo.training.report import hardware

FIRST_TOKEN = (
    "import torch, zoo; model = zoo.load('alibi-lm');"
    "next(model('The river', stream=True, return_full_text=False))"
)
COMMANDS = {
    "python": ["-c", "pass"],
    "import zoo": ["-c", "import zoo"],
    "txzoo --help": ["-m", "zoo", "--help"],
    "txzoo list": ["-m", "zoo", "list"],
    "import torch": ["-c", "import torch"],
    "first token of alibi-lm": ["-c", FIRST_TOKEN],
}


def milliseconds(arguments: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return (time.perf_counter() - start) * 1000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(rounds + 1):
        for name, arguments in COMMANDS.items():
            taken = milliseconds(arguments)
            if number:  # the first round warms the disk cache
                times[name].append(taken)
    medians = {name: statistics.median(values) for name, values in times.items()}
    for name, median in medians.items():
        print(f"{name:26s}{median:8.0f} ms")
    print(f"{'import zoo above python':26s}{medians['import zoo'] - medians['python']:8.0f} ms")
    above = medians["first token of alibi-lm"] - medians["import torch"]
    print(f"{'first token above torch':26s}{above:8.0f} ms")
    import torch

    print(f"medians of {rounds} rounds, {hardware(torch.device('cpu'))}")


if __name__ == "__main__":
    main()
