"""Measure TF-IDF with logistic regression on text-classification tasks.

    python benchmarks/tfidf.py speeches emotion imdb
    python benchmarks/tfidf.py imdb --texts 2000

Printed: a line a task and length of word runs, with standard errors.
"""

import argparse
import platform

from zoo.evaluation.baseline import tfidf_baseline
from zoo.numbers import with_error
from zoo.registry import registry

HEADLINES = ("accuracy", "macro_f1", "expected_calibration_error")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tasks", nargs="+", choices=registry().tasks.names())
    parser.add_argument("--words", nargs="+", type=int, default=[None])
    parser.add_argument("--texts", type=int, help="learn from so many texts")
    parser.add_argument("-C", type=float, default=10.0)
    options = parser.parse_args()
    print(f"{platform.machine()}, Python {platform.python_version()}")
    for task in options.tasks:
        for words in options.words:
            found = tfidf_baseline(task, words=words, C=options.C, texts=options.texts)
            scores = ", ".join(
                f"{name.replace('_', ' ')} {with_error(found[name], found[f'{name}_stderr'])}"
                for name in HEADLINES
            )
            cost = f"{found['features']:,.0f} features, {found['seconds']:.1f} s"
            print(f"{task}, runs of up to {found['words']:.0f}: {scores}; {cost}", flush=True)


if __name__ == "__main__":
    main()
