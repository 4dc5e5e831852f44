"""What a finished run writes on its card."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from zoo.card import Card, at_context
from zoo.evaluation import evaluate
from zoo.folder import CARD, RECIPE, FileRecord
from zoo.hookspecs import Architecture, Task
from zoo.loading import load
from zoo.model import Model, weights_hash
from zoo.numbers import plural, rounded, with_error
from zoo.training.recipe import Recipe

EXPECT = "# expect:"
PROSE = """\
# {name}

{summary}.

## How to use it

```python
import zoo

model = zoo.load("{name}")
```

## How it was trained

By `recipe.toml` beside this card: `txzoo train {name} --out runs/{name}`. The curve is in
`training.jsonl`.
"""


ON_A_FILE = """\
# {name}

{summary}.

## How to use it

```python
import zoo

model = zoo.load("./{name}")  # where this folder lies
print({call})
```

## How it was trained

By `recipe.toml` beside this card: `txzoo train recipe.toml --out {name}`. The curve is in
`training.jsonl`.
"""
CALLS = {
    "image-classification": 'model("picture.png"), model(["two.png", "pictures.jpg"], top_k=3)'
}
TEXT_CALL = 'model("A text."), model(["Two.", "Texts."])'
ADAPTED = """\
# {name}

{summary}.

## How to use it

`zoo.load` of this folder, or of its name, loads the base and what was learned beside it;
`load_adapter` puts it on a base that is loaded already.

## How it was trained

By `recipe.toml` beside this card: `txzoo train recipe.toml --out {name}`. The curve is in
`training.jsonl`.
"""


def new_card(
    recipe: Recipe,
    folder: Path,
    files: Mapping[str, FileRecord],
    *,
    architecture: Architecture,
    task: Task,
    distributions: Mapping[str, str],
    parameters: int,
    training: Mapping[str, Any],
    data: Mapping[str, Any] | None = None,
) -> Card:
    """The card of a run, still without scores.

    Licence, summary, further front matter and prose are kept from a card beside the recipe, where
    there is one; so a retrained model keeps what people wrote about it.

    Args:
        recipe: what was trained.
        folder: where the card will lie.
        files: hash and size of each file.
        architecture: its entry.
        task: its entry.
        distributions: what the model needs installed, with the versions that trained it.
        parameters: how many numbers were learned.
        training: facts of the run.
        data: facts of the user's own data that stand for a task, see `zoo.tasks.own_data`.
    """
    # the card beside a base's recipe speaks of the base
    beside = recipe.source.parent / CARD if recipe.source is not None and not recipe.base else None
    old = Card.read(beside) if beside is not None and beside.is_file() else None
    if old is not None and _without_paths(data_of(old)) != _without_paths(data or {}):
        old = None  # it speaks of other texts
    front: dict[str, Any] = {
        "license": task.license,
        "library_name": "txzoo",
        "pipeline_tag": task.pipeline,
        "tags": ["txzoo", architecture.name],
    }
    if data is None or "/" in data["name"]:  # the Hub knows a data set of its own, and no file
        front["datasets"] = [task.name]
    front |= {} if old is None else dict(old.data)
    front.pop("model-index", None)
    if recipe.data.get("license"):
        front["license"] = task.license
    own = task.pipeline.replace("-", " ").capitalize()
    what = architecture.summary if data is None else own
    summary = f"{what}, trained on {task.name}" if old is None else old.summary
    front["txzoo"] = {
        "name": recipe.name,
        "summary": summary,
        **({} if old is None or old.example is None else {"example": old.example}),
        "architecture": architecture.name,
        **({"task": task.name} if data is None else {"data": dict(data)}),
        "parameters": parameters,
        "requires": {name: _range(version) for name, version in distributions.items()},
        "files": {n: {"sha256": r.sha256, "bytes": r.bytes} for n, r in files.items()},
        "training": dict(training),
    }
    prose = PROSE if data is None else ON_A_FILE + about(data, task.license)
    call = CALLS.get(task.pipeline, TEXT_CALL)
    words = {"name": recipe.name, "summary": summary, "call": call}
    text = prose.format(**words) if old is None else old.text
    return Card(data=front, text=text, path=folder / CARD)


def data_of(card: Card) -> dict[str, Any]:
    """What a card says of the user's own data that stand for a task; empty where there is one."""
    return dict(card.data["txzoo"].get("data") or {})


def _without_paths(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in data.items() if not key.endswith("path")}


def about(data: Mapping[str, Any], license: str) -> str:
    """The part of a card that says what it was trained on; braces are doubled, for `format`."""
    kinds = ("pairs", "conversations", "pictures", "characters", "texts")
    what = next(kind for kind in kinds if kind in data)

    def one(name: str, digest: str, count: int) -> str:
        safe = name.replace("`", "'")
        return f"{count:,} {what} of `{safe}`,\nsha256 `{digest}`"

    if what == "characters":
        where = f"`{data['name']}`, read as a stream"
        words = f"\n## Data\n\n{where}; its first {data[what]:,} characters have\nsha256 "
        words += f"`{data['sha256']}`"
        measured = "and were held out for the scores"
        if "test_name" in data:
            measured = f"measured on `{data['test_name']}`"
        words += f"; {measured}.\n"
        return f"{words}Licence of the data: {license}.\n".replace("{", "{{").replace("}", "}}")
    words = f"\n## Data\n\n{one(data['name'], data['sha256'], data[what])}"
    if "held_out" in data:
        words += f";\n{data['held_out']:,} of them were held out for the scores.\n"
    else:
        test = one(data["test_name"], data["test_sha256"], data[f"test_{what}"])
        words += f";\nmeasured on {test}.\n"
    return f"{words}Licence of the data: {license}.\n".replace("{", "{{").replace("}", "}}")


def adapted(card: Card, recipe: Recipe, base: Model, *, learned: int, alone: bool) -> Card:
    """The card of an adapted model: whose it is, and what it adds.

    Args:
        card: as `new_card` makes it.
        recipe: what was trained.
        base: what was adapted.
        learned: how many numbers were trained.
        alone: whether all of its weights are in its folder.
    """
    assert base.card is not None  # a loaded model has one
    method, name = recipe.tuning["method"], base.card.name
    ours = dict(card.data["txzoo"])
    data = data_of(card)
    ours["summary"] = f"{name} adapted to {data.get('name') or recipe.task} by {method}"
    ours["training"] = {**ours["training"], "tuning": method, "trained_parameters": learned}
    if not alone:
        ours["base"] = {"ref": recipe.base, "sha256": weights_hash(base.card)}
    on_hub = recipe.base.startswith("hf://")
    of = recipe.base.removeprefix("hf://").partition("@")[0] if on_hub else name
    license = card.license if data else base.card.license  # texts of unknown licence: unknown
    front = {**card.data, "license": license, "base_model": of, "txzoo": ours}
    prose = ADAPTED + about(data, license) if data else ADAPTED
    text = prose.format(name=recipe.name, summary=ours["summary"])
    return Card(data=front, text=text, path=card.path)


def measure(folder: Path, task: Task, splits: Sequence[str], contexts: Sequence[int] = ()) -> None:
    """Measure a model folder, put the scores on its card and the expectation on its recipe.

    Args:
        folder: a complete one; its weights are measured as they are stored.
        task: what is measured.
        splits: of the task.
        contexts: tokens read at once, besides the length it was trained on.
    """
    card = Card.read(folder)
    model = load(str(folder.absolute()))
    results = {
        (split, context): evaluate(model, split=split, context=context)
        for split in splits
        for context in (None, *contexts)
    }
    add_scores(card, task, results)
    skipped = {s: v["skipped_tokens"] for (s, c), v in results.items() if "skipped_tokens" in v}
    if skipped:
        card.data["txzoo"].setdefault("training", {})["skipped_tokens"] = skipped
    recipe = folder / RECIPE
    lines = recipe.read_text(encoding="utf-8").splitlines(keepends=True)
    rest = [line for line in lines if not line.startswith(EXPECT)]
    recipe.write_text("".join([expectation(card), *rest]), encoding="utf-8")
    card.data["txzoo"]["files"][RECIPE] = asdict(FileRecord.of(recipe))
    card.write(folder)


def add_scores(
    card: Card, task: Task, results: Mapping[tuple[str, int | None], Mapping[str, float]]
) -> None:
    """Put measured scores on a card, with no more digits than their standard errors support.

    Args:
        card: changed in place.
        task: what was measured.
        results: what `zoo.evaluate` returns, by split and context; the context is None for the
            length that the model was trained on, for others only the first metric is kept.
    """
    metrics: dict[str, list[dict[str, Any]]] = {split: [] for split, _ in results}
    errors: dict[str, dict[str, float]] = {split: {} for split, _ in results}
    for (split, context), values in results.items():
        for name in task.metrics if context is None else task.metrics[:1]:
            words = name.replace("_", " ") + at_context(context)
            value, error = rounded(values[name], values[f"{name}_stderr"])
            kind = "perplexity" if name.startswith("perplexity") else name
            args = {} if context is None else {"args": {"context": context}}
            metrics[split].append({"type": kind, "name": words, "value": value, **args})
            errors[split][words] = error
    entries = [
        {
            "task": {"type": task.pipeline},
            "dataset": {"name": task.name, "type": task.name, "split": split},
            "metrics": measured,
        }
        for split, measured in metrics.items()
    ]
    card.data["model-index"] = [{"name": card.name, "results": entries}]
    card.data["txzoo"]["standard_error"] = errors


def expectation(card: Card) -> str:
    """What a recipe costs and gives, as the comment that stands at the top of it."""
    facts, score = card.training, card.scores[0]
    number = with_error(score.value, score.standard_error)
    cost = f"{facts['minutes']:.3g} min on {facts['hardware']}"
    return f"{EXPECT} {cost}; {score.name} {number} on {score.dataset} {score.split}\n"


def hardware(device: torch.device) -> str:
    """What a run ran on, for people: device, processor features that matter, threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    capability = torch.backends.cpu.get_cpu_capability()
    return (
        f"{platform.machine()} CPU ({capability}), "
        f"{plural(torch.get_num_threads(), 'thread')} of {plural(os.cpu_count() or 1, 'core')}"
    )


def _range(version: str) -> str:
    """The versions that a model trained with this one is loaded by: up to the next major."""
    release = version.split("+")[0]
    return f">={release},<{int(release.split('.')[0]) + 1}"
