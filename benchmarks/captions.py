"""What a captioner says wrongly or leaves out, attribute by attribute, on its task's drawings.

    python benchmarks/captions.py tiny-captioner

Printed: for each split of the scores, how many captions of how many fail in each attribute.
"""

import argparse

import zoo
from zoo.registry import registry, resolve


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--limit", type=int, help="the first so many pictures only")
    options = parser.parse_args()
    model = zoo.load(options.model)
    task = resolve(registry().tasks.get(model.card.task).target)()
    for split in task.test_splits:
        pictures = task.pictures(split)
        places = range(min(len(pictures), options.limit or len(pictures)))
        captions = task.captions(model, pictures, places)
        said = [task.described(caption) for caption in captions]
        true = [pictures.attributes(place) for place in places]
        for name in task.attributes:
            pairs = [(one.get(name), other[name]) for one, other in zip(said, true, strict=True)]
            missing = sum(given is None for given, _ in pairs)
            wrong = sum(given not in (None, right) for given, right in pairs)
            print(f"{split}, {name}: {wrong} wrong, {missing} not said, of {len(pairs)}")


if __name__ == "__main__":
    main()
