"""Train a recipe with several seeds and print each score's mean and spread.

    python benchmarks/seeds.py speech-decoder speech-alibi --seeds 1 2 3 4 5

Printed: a line a seed, then mean and standard deviation over seeds of each split's headline metric.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

import zoo
from zoo.numbers import with_error
from zoo.registry import registry, resolve
from zoo.training.loop import find_recipe
from zoo.training.report import hardware


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("recipes", nargs="+")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--splits", nargs="+", help="the task's splits unless given")
    options = parser.parse_args()
    for path in options.recipes:
        recipe = find_recipe(path)
        task = registry().tasks.get(recipe.task)
        splits = options.splits or resolve(task.target).splits
        metric = task.metrics[0]
        table: dict[str, list[float]] = {split: [] for split in splits}
        for seed in options.seeds:
            with tempfile.TemporaryDirectory() as folder:
                model = zoo.train(recipe, out=Path(folder, recipe.name), seed=seed)
                for split in splits:
                    table[split].append(zoo.evaluate(model, split=split)[metric])
            line = "  ".join(f"{split} {values[-1]:.4g}" for split, values in table.items())
            print(f"{recipe.name} seed {seed}: {metric}  {line}", flush=True)
        for split, values in table.items():
            found = with_error(statistics.mean(values), statistics.stdev(values))
            print(f"{recipe.name} {split}: {found} over {len(values)} seeds")
    print(hardware(model.device))


if __name__ == "__main__":
    main()
