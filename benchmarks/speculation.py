"""Tokens a second of a model alone and with drafts, greedy, the same tokens, interleaved.

    python benchmarks/speculation.py alibi-lm --drafts rope-lm --tokens 2 4 --rounds 7

Printed: medians over the rounds, and the share of the drafted tokens that were kept.
"""

import argparse
import statistics
import time

import torch

import zoo
from zoo.export.base import PROMPTS
from zoo.speculation import Draft
from zoo.training.report import hardware


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--drafts", nargs="+", required=True)
    parser.add_argument("--tokens", nargs="+", type=int, default=[4])
    parser.add_argument("--new", type=int, default=120)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = zoo.load(options.model)
    helpers = [zoo.load(name) for name in options.drafts]
    ways: dict[str, Draft | None] = {"alone": None}
    for helper in helpers:
        for tokens in options.tokens:
            ways[f"{helper.name}, {tokens} at once"] = Draft(helper, tokens)
    rates: dict[str, list[float]] = {name: [] for name in ways}
    alone = [model(prompt, max_new_tokens=options.new) for prompt in PROMPTS]
    for _ in range(options.rounds):
        for name, draft in ways.items():
            began = time.perf_counter()
            texts = [model(prompt, max_new_tokens=options.new, draft=draft) for prompt in PROMPTS]
            seconds = time.perf_counter() - began
            assert texts == alone, f"{name} writes something else"
            rates[name].append(len(PROMPTS) * options.new / seconds)
    for name, draft in ways.items():
        kept = "" if draft is None else f", {draft.acceptance_rate:.0%} kept"
        print(f"{name}: {statistics.median(rates[name]):.0f} tokens a second{kept}")
    print(hardware(model.device))


if __name__ == "__main__":
    main()
