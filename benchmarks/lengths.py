"""Perplexity per word on WikiText-2's test split, read at 1, 2, 4 and 8 times the training length.

    python benchmarks/lengths.py learned-lm sinusoidal-lm alibi-lm rope-lm relative-lm

Printed: a Markdown table with standard errors; "-" where a model has no positions that far.
"""

import argparse

import zoo
from zoo.errors import ContextLengthError
from zoo.numbers import with_error
from zoo.training.report import hardware


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+")
    parser.add_argument("--times", nargs="+", type=int, default=[1, 2, 4, 8])
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, help="the first so many tokens of the split only")
    options = parser.parse_args()
    print("| model | " + " | ".join(f"{times}x" for times in options.times) + " |")
    print("|---" * (len(options.times) + 1) + "|")
    for name in options.models:
        model = zoo.load(name)
        cells = []
        for times in options.times:
            context = times * model.config.max_seq_len
            try:
                scores = zoo.evaluate(
                    model, split=options.split, context=context, limit=options.limit
                )
            except ContextLengthError:
                cells.append("-")
                continue
            error = scores["perplexity_per_word_stderr"]
            cells.append(with_error(scores["perplexity_per_word"], error))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    part = f"first {options.limit:,} tokens of " if options.limit else ""
    length = model.config.max_seq_len
    print(f"\n{part}{options.split} split, training length {length}, ", end="")
    print(hardware(model.device))


if __name__ == "__main__":
    main()
